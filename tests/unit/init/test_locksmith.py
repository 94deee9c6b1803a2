"""Who makes a key has told the door when it returns, and a restart tells it again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from thaloom.base.clock import ManualClock
from thaloom.base.errors import BadParameter, KeyNotFound, NameTaken
from thaloom.base.events import Recorder
from thaloom.init.events import KeyMade, KeyRemoved
from thaloom.init.locksmith import Locksmith
from thaloom.kernel.state.keys import KeyReader
from thaloom.kernel.state.store import StateStore
from thaloom.kernel.state.types import KeyLimits
from thaloom.kernel.trust.keys import KeyRing


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StateStore]:
    store = StateStore(tmp_path / "state.db", ManualClock())
    yield store
    store.close()


def locksmith(folder: Path, store: StateStore, events: Recorder) -> Locksmith:
    return Locksmith(folder / "keys.json", require_keys=True, store=store, clock=ManualClock(100.0), emit=events)


def test_a_key_is_at_the_door_when_it_is_made_and_gone_when_it_is_removed(tmp_path: Path, store: StateStore) -> None:
    events, door = Recorder(), KeyReader(tmp_path / "keys.json")
    smith = locksmith(tmp_path, store, events)
    limits = KeyLimits(concurrent=3, models=("tiny",))
    record, secret = smith.make("alice", limits, 60.0)
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
            smith.make(name, KeyLimits(), None)
    smith.make("alice@example.org", KeyLimits(), None)
    with pytest.raises(NameTaken):
        smith.make("alice@example.org", KeyLimits(), None)
    with pytest.raises(KeyNotFound):
        smith.remove("bob")


def test_a_restart_tells_the_door_again(tmp_path: Path, store: StateStore) -> None:
    record, _ = locksmith(tmp_path, store, Recorder()).make("alice", KeyLimits(), None)
    (tmp_path / "keys.json").unlink()
    locksmith(tmp_path, store, Recorder()).publish()
    assert KeyReader(tmp_path / "keys.json").current().keys == (record,)
