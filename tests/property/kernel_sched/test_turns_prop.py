"""Turns at a device: somebody always goes, never too many at once, nobody starves, and shares are as the weights."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thaloom.kernel.sched import turns as turns_module
from thaloom.kernel.sched.turns import NORMAL, SLACK_NS, Turn, next_turn, passes, served

WEIGHTS = st.sampled_from([10, 30, 100, 300])
MS = 1_000_000

turns = st.lists(
    st.builds(
        Turn,
        weight=WEIGHTS,
        width=st.integers(1, 4),
        deadline_ns=st.integers(-100, 100),
        service_ns=st.integers(0, 4 * SLACK_NS),
        length_ns=st.sampled_from([0, 1, 5, 50]),
        holds=st.booleans(),
    ),
    max_size=8,
)


@given(turns, st.integers(1, 6))
def test_whoever_is_chosen_waits_fits_and_is_within_its_share(seats: list[Turn], width: int) -> None:
    chosen = next_turn(seats, width)
    waiting = [turn for turn in seats if not turn.holds]
    if chosen is None:
        assert not waiting or any(turn.holds for turn in seats), "nobody is at it, and somebody waits"
        return
    turn = seats[chosen]
    assert not turn.holds
    assert turn.service_ns <= min(other.service_ns for other in waiting) + SLACK_NS
    in_its_way = sum(other.width for other in seats if other.holds and not passes(turn, other))
    assert in_its_way == 0 or in_its_way + turn.width <= width


@given(turns, st.integers(1, 6))
def test_the_device_is_filled_and_no_further(seats: list[Turn], width: int) -> None:
    seats = [turn._replace(holds=False, weight=NORMAL, length_ns=0) for turn in seats]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(turns_module, "EQUALS_WAIT", True)
        while (chosen := next_turn(seats, width)) is not None:
            seats[chosen] = seats[chosen]._replace(holds=True)
    held = [turn.width for turn in seats if turn.holds]
    assert sum(held) <= width or len(held) == 1
    assert held or not seats


WORKERS = st.lists(st.tuples(WEIGHTS, st.integers(1, 400), st.integers(0, 500)), min_size=2, max_size=5)
"""Weight, milliseconds of a step, and milliseconds until its deadline."""


@given(WORKERS)
def test_all_who_always_wait_get_shares_as_their_weights(workers: list[tuple[int, int, int]]) -> None:
    """What they have had differs by the slack and one of the longest steps at most, after any number of turns: so
    nobody starves, however early the others' deadlines."""
    seats = [Turn(weight, 1, 0, 0, 0, False) for weight, _, _ in workers]
    now = 0
    longest = max(served(0, step * MS, weight) for weight, step, _ in workers)
    for _ in range(300):
        seats = [turn._replace(deadline_ns=now + due * MS) for turn, (_, _, due) in zip(seats, workers, strict=True)]
        chosen = next_turn(seats, 1)
        assert chosen is not None
        weight, step, _ = workers[chosen]
        now += step * MS
        seats[chosen] = seats[chosen]._replace(service_ns=served(seats[chosen].service_ns, step * MS, weight))
        had = [turn.service_ns for turn in seats]
        assert max(had) - min(had) <= SLACK_NS + longest
