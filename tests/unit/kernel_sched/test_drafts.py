from __future__ import annotations

from thaloom.kernel.sched.chunks import NEARLY_FREE
from thaloom.kernel.sched.drafts import Offer, choose_drafts
from thaloom.kernel.sched.step_times import StepShape, StepTimes

BOUND_BY_MEMORY = StepTimes(10e-3, 0.1e-3, 0.0, 0.0)
BOUND_BY_COMPUTING = StepTimes(0.0, 1e-3, 0.0, 0.0)
SURE = Offer(100, 15, 0.95, 0.95)
UNSURE = Offer(100, 15, 0.3, 0.3)
NOTHING = Offer(100, 0, 0.0, 0.0)


def decoding(count: int) -> StepShape:
    return StepShape(count, count, 100 * count)


def test_many_guesses_while_rows_are_nearly_free() -> None:
    assert choose_drafts([SURE], decoding(1), 16, BOUND_BY_MEMORY) == [15]


def test_fewer_the_less_likely_they_are() -> None:
    (few,) = choose_drafts([UNSURE], decoding(1), 16, BOUND_BY_MEMORY)
    assert 0 < few < 8


def test_none_where_a_row_costs_what_it_brings() -> None:
    assert choose_drafts([SURE] * 4, decoding(4), 16, BOUND_BY_COMPUTING) == [0] * 4


def test_none_beside_a_prompt_that_fills_the_step() -> None:
    """600 rows: the device computes, and a row more is a row more, however memory-bound single rows are."""
    assert choose_drafts([UNSURE], decoding(1).plus(StepShape(600, 0, 0)), 16, BOUND_BY_MEMORY) == [0]


def test_none_while_prices_are_not_known() -> None:
    assert choose_drafts([SURE, SURE], decoding(2), 16, None) == [0, 0]


def test_rows_go_to_the_likeliest_and_are_never_more_than_there_are() -> None:
    assert choose_drafts([UNSURE, SURE, NOTHING], decoding(3), 5, BOUND_BY_MEMORY) == [0, 5, 0]


def test_nobody_waits_for_the_guesses_of_another() -> None:
    """15 sequences for which nothing can be guessed: the step may become longer by what nobody notices, no more."""
    times = StepTimes(10e-3, 0.5e-3, 0.0, 0.0)
    offers = [SURE] + [NOTHING] * 15
    plain = decoding(16)
    (count, *others) = choose_drafts(offers, plain, 16, times)
    longer = StepShape(16 + count, 16 + count, 0)
    assert others == [0] * 15
    assert 0 < count < 15
    assert times.seconds(longer) <= NEARLY_FREE * times.seconds(plain)
    assert choose_drafts([SURE], decoding(1), 16, times) > [count], "alone it may"
