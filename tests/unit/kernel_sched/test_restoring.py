"""Bring back or compute again: by what was measured, and tried where nothing was."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thaloom.hal.ops import BLOCK_TOKENS
from thaloom.kernel.sched.restoring import PATIENCE, MoveTimes, Place, blocks_to_bring, saved_s
from thaloom.kernel.sched.step_times import StepTimes

CHUNK = 64


def steps(row_s: float, *, base_s: float = 0.0, attended_s: float = 0.0) -> StepTimes:
    return StepTimes(base_s, row_s, 0.0, attended_s)


def moves(**seconds: float) -> MoveTimes:
    times = MoveTimes()
    for way, each in seconds.items():
        times.add(way, each)  # type: ignore[arg-type]  # a Way
    return times


def bring(places: list[Place], times: StepTimes | None, moved: MoveTimes, *, start: int = 0, tail: int = 1) -> int:
    end = start + len(places) * BLOCK_TOKENS + tail
    count = blocks_to_bring(places, start, end, chunk_tokens=CHUNK, times=times, moves=moved)
    moved.refuse_all(places[count:])
    return count


def test_what_is_quicker_is_brought_and_what_is_slower_is_not() -> None:
    times = steps(1e-3)  # 16 ms a block
    assert bring(["host"] * 8, times, moves(host=0.015)) == 8
    assert bring(["host"] * 8, times, moves(host=0.017)) == 0


def test_nobody_waits_for_a_slow_disk_behind_a_quick_host() -> None:
    times, moved = steps(1e-3), moves(host=0.001, disk=0.022)
    assert bring(["host", "host", "disk", "disk"], times, moved) == 2
    assert bring(["disk", "host", "host", "host"], times, moved) == 4, "one slow block opens the way to quick ones"
    assert bring(["disk", "disk", "disk", "host"], times, moved) == 0


def test_a_step_there_has_to_be_anyway_costs_nothing() -> None:
    """A device that waits for its weights computes 16 tokens more for nothing."""
    assert bring(["host"] * 2, steps(0.0, base_s=0.1), moves(host=0.001)) == 0
    assert bring(["host"] * 8, steps(0.0, base_s=0.1), moves(host=0.001)) == 8, "two steps less"


def test_deep_in_a_prompt_computing_costs_more() -> None:
    times, moved = steps(1e-4, attended_s=1e-6), moves(host=0.010)
    assert bring(["host"] * 4, times, moved) == 0
    assert bring(["host"] * 4, times, moved, start=1024) == 4


@pytest.mark.parametrize("times", [None, steps(1e-3)])
def test_what_is_not_known_is_tried(times: StepTimes | None) -> None:
    assert bring(["host", "disk"], times, MoveTimes()) == 2
    assert bring([], times, MoveTimes()) == 0


def test_what_was_too_slow_is_tried_again_after_a_while() -> None:
    times, moved = steps(1e-3), moves(disk=1.0)
    for _ in range(PATIENCE // 8):
        assert bring(["disk"] * 8, times, moved) == 0
    assert bring(["disk"] * 8, times, moved) == 8


def test_one_disturbed_move_does_not_count() -> None:
    moved = moves(host=1.0)
    for _ in range(2):
        moved.add("host", 0.001)
    assert moved.seconds("host") == 0.001


def test_a_block_that_is_computed_sooner_than_moved_is_let_go() -> None:
    assert saved_s(chunk_tokens=CHUNK, times=None, moves=MoveTimes()) is None
    saved = saved_s(chunk_tokens=CHUNK, times=steps(1e-3), moves=moves(out=0.004, host=0.002))
    assert saved == pytest.approx(0.010)
    lost = saved_s(chunk_tokens=CHUNK, times=steps(1e-4), moves=moves(out=0.004, host=0.002))
    assert lost is not None
    assert lost < 0


@given(
    places=st.lists(st.sampled_from(["host", "disk"]), max_size=12),
    row_s=st.floats(0, 1e-2),
    base_s=st.floats(0, 1e-1),
    host_s=st.floats(1e-6, 0.2),
    disk_s=st.floats(1e-6, 0.2),
    tail=st.integers(1, 100),
)
def test_nothing_takes_longer_than_computing_all(
    places: list[Place], row_s: float, base_s: float, host_s: float, disk_s: float, tail: int
) -> None:
    times, moved = steps(row_s, base_s=base_s), moves(host=host_s, disk=disk_s)
    end = len(places) * BLOCK_TOKENS + tail

    def takes(count: int) -> float:
        moving = sum(moved.seconds(place) for place in places[:count])
        starts = range(count * BLOCK_TOKENS, end, CHUNK)
        return moving + sum(base_s + row_s * min(CHUNK, end - first) for first in starts)

    count = bring(places, times, moved, tail=tail)
    bounds = [0, *(n for n in range(1, len(places) + 1) if n == len(places) or places[n] != places[n - 1])]
    assert takes(count) <= min(takes(n) for n in bounds) * (1 + 1e-9)
