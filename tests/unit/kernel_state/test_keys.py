"""Keys as they are kept and published; and that nobody comes in while it is not known who may."""

from __future__ import annotations

from pathlib import Path

import pytest

from thaloom.base.clock import ManualClock
from thaloom.base.errors import BadParameter, KeyNotFound, NameTaken, StateUnusable
from thaloom.base.events import Recorder
from thaloom.kernel.state import store as stores
from thaloom.kernel.state.events import KeysUnreadable
from thaloom.kernel.state.keys import NO_KEYS, KeyReader
from thaloom.kernel.state.snapshots import publish
from thaloom.kernel.state.store import StateStore
from thaloom.kernel.state.types import AccessKey, KeyLimits, Keys

ALICE = AccessKey(
    name="alice",
    id="abcdefghijkl",
    digest="0" * 64,
    limits=KeyLimits(requests_per_minute=5, models=("tiny",), priority="high"),
    created_at=3.0,
    expires_at=9.5,
)
BOB = AccessKey(name="bob", id="bbbbbbbbbbbb", digest="1" * 64, limits=KeyLimits(), created_at=4.0)


def test_keys_survive_a_restart(tmp_path: Path) -> None:
    store = StateStore(tmp_path / "state.db", ManualClock())
    store.put_key(BOB)
    store.put_key(ALICE)
    store.close()
    store = StateStore(tmp_path / "state.db", ManualClock())
    assert store.keys() == [ALICE, BOB]
    store.delete_key("alice")
    assert store.keys() == [BOB]
    with pytest.raises(KeyNotFound):
        store.delete_key("alice")
    store.close()


def test_a_name_stands_for_one_key_and_there_is_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "MAX_KEYS", 1)
    store = StateStore(tmp_path / "state.db", ManualClock())
    store.put_key(ALICE)
    with pytest.raises(NameTaken):
        store.put_key(ALICE)
    with pytest.raises(BadParameter, match="at most 1 keys"):
        store.put_key(BOB)
    store.close()


def test_what_is_published_is_read(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    reader = KeyReader(path)
    assert reader.current() is NO_KEYS
    keys = Keys(version=1, published_at=1.0, require_keys=True, keys=(ALICE, BOB))
    publish(path, keys)
    assert reader.current() == keys
    assert reader.current() is reader.current(), "while nothing changes it is not read again"


def test_keys_that_cannot_be_read_let_nobody_in_and_good_ones_stay(tmp_path: Path) -> None:
    path, events = tmp_path / "keys.json", Recorder()
    path.write_text("{")
    reader = KeyReader(path, events)
    for _ in range(2):
        with pytest.raises(StateUnusable, match="cannot be read"):
            reader.current()
    keys = Keys(version=1, published_at=1.0, require_keys=True, keys=(ALICE,))
    publish(path, keys)
    assert reader.current() == keys
    path.write_text('{"version": "x"}')
    assert reader.current() == keys
    assert [type(event) for event in events.events] == [KeysUnreadable, KeysUnreadable], "told once for each file"
