"""The door's load tests, short: benchmarks/load.py has the long form (make load)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from benchmarks import load

pytestmark = pytest.mark.slow

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def door() -> Iterator[load.Door]:
    with load.door() as here:
        yield here


def left_behind(found: dict[str, Any]) -> dict[str, int]:
    """What is there more of than before."""
    return {
        name: found["after"][name] - found["before"][name]
        for name in ("num_descriptors", "num_tasks")
        if found["after"][name] > found["before"][name]
    }


def test_streams_are_held_with_bounded_memory_and_leave_nothing(door: load.Door) -> None:
    found = asyncio.run(load.hold_streams(door, 100, 1.0))
    assert found["fewest_tokens"] >= 1, "every one of them goes on"
    assert found["rss_bytes_per_stream"] < 256 * 1024
    assert left_behind(found) == {}


def test_abandoned_connections_leave_nothing(door: load.Door) -> None:
    found = asyncio.run(load.abandon_connections(door, 400))
    assert left_behind(found) == {}


def test_many_requests_leave_no_trend(door: load.Door) -> None:
    """Short, this sees what grows by 2 KiB or more with each request."""
    found = asyncio.run(load.follow_trend(door, 3200, looks=10))
    assert found["requests"] == 3200
    assert found["grown"]["rss_bytes"] < 4 * MIB
    for name in ("num_descriptors", "num_threads", "num_tasks"):
        assert found["grown"][name] <= 0, name
