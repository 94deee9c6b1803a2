"""Who makes a key has told the door when it returns, and a restart tells it again."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from thaloom.base.clock import ManualClock
from thaloom.base.errors import BadParameter, DiskFull, Forbidden, KeyNotFound, NameTaken, TenantNotFound
from thaloom.base.events import Recorder
from thaloom.init.access.locksmith import Locksmith
from thaloom.init.events import KeyMade, KeyRemoved
from thaloom.kernel.state.keys import KeyReader
from thaloom.kernel.state.store import StateStore
from thaloom.kernel.state.types import KeyLimits, KeyWish, Tenant
from thaloom.kernel.trust.keys import KeyRing


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StateStore]:
    store = StateStore(tmp_path / "state.db", ManualClock())
    yield store
    store.close()


def locksmith(folder: Path, store: StateStore, events: Recorder) -> Locksmith:
    return Locksmith(folder / "keys.json", require_keys=True, store=store, clock=ManualClock(100.0), emit=events)


def wish(name: str, **fields: Any) -> KeyWish:
    limits = {field.name for field in dataclasses.fields(KeyLimits)} & fields.keys()
    return KeyWish(name=name, limits=KeyLimits(**{name: fields.pop(name) for name in limits}), **fields)


def test_a_key_is_at_the_door_when_it_is_made_and_gone_when_it_is_removed(tmp_path: Path, store: StateStore) -> None:
    events, door = Recorder(), KeyReader(tmp_path / "keys.json")
    smith = locksmith(tmp_path, store, events)
    limits = KeyLimits(concurrent=3, models=("tiny",))
    record, secret = smith.make(KeyWish(name="alice", limits=limits, expires_in_s=60.0))
    assert (record.limits, record.created_at, record.expires_at) == (limits, 100.0, 160.0)
    published = door.current()
    assert published.require_keys
    assert KeyRing(published.keys).find(secret) == record
    assert secret not in (tmp_path / "keys.json").read_text()
    smith.remove("alice")
    assert door.current().keys == ()
    assert [type(event) for event in events.events] == [KeyMade, KeyRemoved]
    assert secret[20:] not in str(events.events)


def test_what_is_no_name_or_taken_or_absent_is_refused(tmp_path: Path, store: StateStore) -> None:
    smith = locksmith(tmp_path, store, Recorder())
    for name in ("", "a b", "../x", "é", "-x", "a" * 128):
        with pytest.raises(BadParameter):
            smith.make(wish(name))
    smith.make(wish("alice@example.org"))
    with pytest.raises(NameTaken):
        smith.make(wish("alice@example.org"))
    with pytest.raises(KeyNotFound):
        smith.remove("bob")


def test_the_door_hears_later_of_what_a_full_disk_kept_from_it(
    tmp_path: Path, store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a key that was taken back was good there until another changed."""
    door, smith = KeyReader(tmp_path / "keys.json"), locksmith(tmp_path, store, Recorder())
    smith.make(wish("alice"))

    def full(*_: object) -> None:
        raise DiskFull("no space left")

    with monkeypatch.context() as patched:
        patched.setattr("thaloom.init.access.locksmith.publish", full)
        with pytest.raises(DiskFull):
            smith.remove("alice")
        with pytest.raises(DiskFull):
            smith.catch_up()
    assert [key.name for key in door.current().keys] == ["alice"]
    smith.catch_up()
    assert door.current().keys == ()
    version = door.current().version
    smith.catch_up()
    assert door.current().version == version, "there was nothing to tell"


def test_a_restart_tells_the_door_again(tmp_path: Path, store: StateStore) -> None:
    record, _ = locksmith(tmp_path, store, Recorder()).make(wish("alice"))
    (tmp_path / "keys.json").unlink()
    locksmith(tmp_path, store, Recorder()).publish()
    assert KeyReader(tmp_path / "keys.json").current().keys == (record,)


def test_a_key_nobody_chose_anything_for_is_a_users_and_asks_models(tmp_path: Path, store: StateStore) -> None:
    smith = locksmith(tmp_path, store, Recorder())
    record, _ = smith.make(wish("alice"))
    assert (record.role, record.scopes, record.tenant, record.parent) == ("user", ("infer",), None, None)
    assert smith.make(wish("op", role="operator"))[0].scopes is None
    assert smith.make(wish("eye", role="viewer", scopes=("read",)))[0].scopes == ("read",)


def test_a_tenants_key_bears_its_name_and_needs_the_tenant(tmp_path: Path, store: StateStore) -> None:
    smith = locksmith(tmp_path, store, Recorder())
    with pytest.raises(TenantNotFound):
        smith.make(wish("ci@acme", tenant="acme"))
    store.put_tenant(Tenant(name="acme"))
    assert smith.make(wish("ci@acme", tenant="acme"))[0].tenant == "acme"
    with pytest.raises(BadParameter):
        smith.make(wish("ci", tenant="acme"))


def test_a_narrowed_key_has_what_its_parent_has_or_less(tmp_path: Path, store: StateStore) -> None:
    smith = locksmith(tmp_path, store, Recorder())
    parent, _ = smith.make(
        wish("p", role="operator", scopes=("infer", "read"), models=("a", "b"), concurrent=4, expires_in_s=60.0)
    )
    child, secret = smith.make(wish("c", parent="p", keep_priority=True))
    assert child.parent == parent.id
    same = ("role", "scopes", "expires_at", "limits")
    assert [getattr(child, name) for name in same] == [getattr(parent, name) for name in same]
    less, _ = smith.make(wish("l", parent="c", role="user", scopes=("infer",), models=("a",), concurrent=1))
    assert (less.role, less.scopes, less.limits.models, less.limits.concurrent) == ("user", ("infer",), ("a",), 1)
    for more in (
        {"role": "admin"},
        {"scopes": ("node",)},
        {"models": ("c",)},
        {"concurrent": 5},
        {"expires_in_s": 61.0},
        {"priority": "high"},
    ):
        with pytest.raises(Forbidden) as refused:
            smith.make(wish("m", parent="p", **more))
        assert refused.value.param == next(iter(more))
    assert smith.find(secret) == child


def test_with_a_key_all_that_was_narrowed_from_it_is_taken_back(tmp_path: Path, store: StateStore) -> None:
    smith = locksmith(tmp_path, store, Recorder())
    secrets = [smith.make(wish("a"))[1], *(smith.make(wish(n, parent=p))[1] for n, p in (("b", "a"), ("c", "b")))]
    other = smith.make(wish("other"))[1]
    smith.remove("a")
    assert [smith.find(secret) for secret in secrets] == [None, None, None]
    assert smith.find(other) is not None
    assert [key.name for key in KeyReader(tmp_path / "keys.json").current().keys] == ["other"]


def test_narrowing_ends_somewhere(tmp_path: Path, store: StateStore) -> None:
    smith = locksmith(tmp_path, store, Recorder())
    smith.make(wish("k0"))
    for number in range(1, 4):
        smith.make(wish(f"k{number}", parent=f"k{number - 1}"))
    with pytest.raises(BadParameter):
        smith.make(wish("k4", parent="k3"))
    with pytest.raises(KeyNotFound):
        smith.make(wish("x", parent="nobody"))
