"""Limits hold for all doors of a node together, and the doorkeeper follows what is published."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest

from tests.contract.edge.doorkeepers import FixedKeys
from thaloom.base.errors import RateLimited, Unauthorized
from thaloom.kernel.state.shared_rows import SharedRows
from thaloom.kernel.state.types import Keys
from thaloom.work.runtime.frontend.doorkeeper import Doorkeeper


def test_two_doors_share_every_limit(tmp_path: Path) -> None:
    keys = FixedKeys()
    key = keys.add("alice", requests_per_minute=3, concurrent=2)
    with closing(SharedRows(tmp_path / "rows")) as one, closing(SharedRows(tmp_path / "rows")) as two:
        doors = [Doorkeeper(keys, rows, keys.clock) for rows in (one, two)]
        first, second, third = (door.enter([key]) for door in (*doors, doors[0]))
        assert first is not None
        assert second is not None
        assert third is not None
        first.reserve(10)
        second.reserve(10)
        with pytest.raises(RateLimited, match="at the same time"):
            third.reserve(10)
        first.end()
        third.reserve(10)
        third.end()
        with pytest.raises(RateLimited, match="requests a minute") as refused:
            first.again().reserve(10)
        assert refused.value.retry_after_s == 20.0


def test_what_a_killed_door_held_is_free(tmp_path: Path) -> None:
    keys = FixedKeys()
    key = keys.add("alice", concurrent=1)
    with closing(SharedRows(tmp_path / "rows")) as living:
        dead = SharedRows(tmp_path / "rows")
        visit = Doorkeeper(keys, dead, keys.clock).enter([key])
        assert visit is not None
        visit.reserve(1)
        dead._map.close()
        os.close(dead._file)  # what the system does for a process that was killed: its locks go, its counts stay
        again = Doorkeeper(keys, living, keys.clock).enter([key])
        assert again is not None
        again.reserve(1)


def test_a_new_snapshot_counts_from_the_next_request_on(tmp_path: Path) -> None:
    keys = FixedKeys()
    with closing(SharedRows(tmp_path / "rows")) as rows:
        door = Doorkeeper(keys, rows, keys.clock)
        assert door.enter([]) is None
        assert not door.asks_for_keys
        key = keys.add("alice")
        assert door.asks_for_keys
        with pytest.raises(Unauthorized):
            door.enter([])
        assert door.enter([key]) is not None
        keys.keys = Keys(version=9, published_at=0.0, require_keys=True)
        assert door.enter([key]) is None, "no key is left: nobody is asked for one"


def test_beyond_loopback_nobody_comes_in_without_a_key(tmp_path: Path) -> None:
    """Whatever the node says, and even while it has none."""
    keys = FixedKeys()
    with closing(SharedRows(tmp_path / "rows")) as rows:
        door = Doorkeeper(keys, rows, keys.clock, always=True)
        assert door.asks_for_keys
        for shown in ([], ["sk-anything"]):
            with pytest.raises(Unauthorized):
                door.enter(shown)
        with pytest.raises(Unauthorized):
            door.enter_as("alice")
        key = keys.add("alice")
        keys.keys = Keys(version=9, published_at=0.0, require_keys=False, keys=keys.keys.keys)
        assert door.enter([key]) is not None
        assert door.enter_as("alice") is not None
        assert door.asks_for_keys
        with pytest.raises(Unauthorized):
            door.enter([])


def test_ending_twice_frees_one_place(tmp_path: Path) -> None:
    keys = FixedKeys()
    key = keys.add("alice", concurrent=1)
    with closing(SharedRows(tmp_path / "rows")) as rows:
        door = Doorkeeper(keys, rows, keys.clock)
        visits = [door.enter([key]) for _ in range(3)]
        assert all(visit is not None for visit in visits)
        one, two, three = (visit for visit in visits if visit is not None)
        one.reserve(1)
        one.end()
        one.end()
        two.reserve(1)
        with pytest.raises(RateLimited):
            three.reserve(1)
