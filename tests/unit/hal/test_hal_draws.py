"""What a draw is: the definition that every device's own sampling is held to."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thaloom.hal.draws import EDIT, FLOOR, UNIFORM_STEPS, UNIT, Draw, Drawn, candidates, draw, edit, exp, pick, weigh


def row(*logits: float) -> np.ndarray:
    return np.array(logits, dtype=np.float32)


def kept(logits: np.ndarray, temperature: float = 1.0, **wish: float) -> list[int]:
    return np.flatnonzero(candidates(logits, Draw(temperature=temperature, **wish))).tolist()  # type: ignore[arg-type]


def test_greedy_takes_the_highest_and_the_lower_id_on_a_tie() -> None:
    greedy = Draw(temperature=0.0, top_k=1, top_p=0.1, min_p=1.0, uniform=0.9)
    assert draw(row(1, 3, 2), greedy) == Drawn(token=1)
    assert draw(row(1, 3, 3), greedy) == Drawn(token=1)


def test_edits_divide_what_is_positive_and_multiply_the_rest_and_then_add() -> None:
    edits = np.array([(0, 2.0, 0.0), (1, 2.0, 0.0), (2, 1.0, 10.0), (2, 1.0, -1.0)], EDIT)
    assert edit(row(4, -4, 0, 1), Draw(edits=edits)).tolist() == [2, -8, 9, 1]
    assert draw(row(4, -4, 0, 1), Draw(edits=edits)) == Drawn(token=2)
    largest = float(np.finfo(np.float32).max)
    assert edit(row(largest), Draw(edits=np.array([(0, 0.01, 0.0)], EDIT))).tolist() == [largest]


def test_only_what_is_allowed_is_drawn_and_what_is_reported_is_the_models_own() -> None:
    logits = row(*np.log([0.5, 0.3, 0.2]))
    wish = Draw(allowed=np.array([0b110], np.uint32), num_top=1, report=(2, 0))
    found = draw(logits, wish)
    assert found.token == 1
    assert found.logprobs is not None
    assert found.logprobs.top_tokens == (0,)
    assert np.exp([found.logprobs.chosen, *found.logprobs.reported]) == pytest.approx([0.3, 0.2, 0.5])
    assert {draw(logits, Draw(temperature=9.0, uniform=u / 64, allowed=wish.allowed)).token for u in range(64)} == {
        1,
        2,
    }
    assert draw(logits, Draw(allowed=np.array([8], np.uint32))).token == -1, "nothing is allowed"


def test_draws_follow_the_probabilities() -> None:
    logits = row(*np.log([0.5, 0.3, 0.15, 0.05]))
    edges = [0.0, 0.499, 0.501, 0.799, 0.801, 0.949, 0.951, 1 - 2**-53]
    drawn = [draw(logits, Draw(temperature=1.0, uniform=round(u * UNIFORM_STEPS) / UNIFORM_STEPS)) for u in edges]
    assert [found.token for found in drawn] == [0, 0, 1, 1, 2, 2, 3, 3]


def test_further_tokens_are_drawn_from_what_those_before_them_leave() -> None:
    logits = row(*np.log([0.5, 0.3, 0.15, 0.05]))
    found = draw(logits, Draw(temperature=1.0, uniform=0.1, further=(0.7, 0.6), num_top=1))
    assert (found.token, *found.further) == (0, 2, 1), "of 0.3, 0.15, 0.05; of 0.3, 0.05"
    assert [each.token for each in found.each()] == [0, 2, 1]
    for each in found.each():
        assert each.logprobs is not None
        assert math.isclose(each.logprobs.chosen, logits[each.token], abs_tol=1e-6)
    greedy = draw(logits, Draw(further=(0.6, 0.9)))
    assert (greedy.token, greedy.further) == (0, ())
    assert draw(logits, Draw(further=(0.6,), allowed=np.array([0], np.uint32))).further == ()


def test_no_more_further_tokens_than_weigh_something() -> None:
    logits = row(*np.log([0.5, 0.3, 0.15, 0.05]))
    found = draw(logits, Draw(temperature=1.0, top_k=3, uniform=0.0, further=(0.0,) * 6))
    assert (found.token, *found.further) == (0, 1, 2)


def test_the_first_of_the_further_ones_that_may_be_is_as_likely_as_among_those_that_may() -> None:
    logits, rng = row(*np.log([0.4, 0.3, 0.2, 0.1])), np.random.default_rng(5)
    counts = np.zeros(4, int)
    for _ in range(20_000):
        first, *numbers = rng.random(4)
        found = draw(logits, Draw(temperature=1.0, uniform=first, further=tuple(numbers)))
        counts[next(token for token in (found.token, *found.further) if token in (1, 3))] += 1
    assert counts[[0, 2]].sum() == 0
    assert abs(counts[1] / 20_000 - 0.75) < 0.015, "some five standard deviations"


def test_every_token_of_some_weight_can_be_drawn_and_no_other() -> None:
    weights = np.array([0, 3, 0, 1, 0], np.int64)
    drawn = Counter(pick(weights, step * (UNIFORM_STEPS // 64)) for step in range(64))
    assert drawn == {1: 48, 3: 16}
    assert pick(weights, UNIFORM_STEPS - 1) == 3


def test_temperature_sharpens_and_flattens() -> None:
    cold, hot = (weigh(row(1, 0), temperature) for temperature in (0.5, 2.0))
    assert cold[1] / cold[0] == pytest.approx(math.exp(-2))
    assert hot[1] / hot[0] == pytest.approx(math.exp(-0.5))


def test_top_k_keeps_exactly_k_and_the_lower_ids_of_a_tie() -> None:
    assert kept(row(1, 2, 2, 2, 3), top_k=3) == [1, 2, 4]
    assert kept(row(1, 2), top_k=0) == [0, 1]
    assert kept(row(1, 2), top_k=9) == [0, 1]


def test_top_p_keeps_the_fewest_that_reach_p() -> None:
    logits = row(*np.log([0.5, 0.25, 0.125, 0.125]))
    assert kept(logits, top_p=0.5) == [0]
    assert kept(logits, top_p=0.6) == [0, 1]
    assert kept(logits, top_p=0.8) == [0, 1, 2], "the lower id of a tie"
    assert kept(logits, top_p=1e-9) == [0], "the likeliest always stays"


def test_top_p_counts_among_what_top_k_left() -> None:
    logits = row(*np.log([0.4, 0.3, 0.2, 0.1]))
    assert kept(logits, top_p=0.5) == [0, 1]
    assert kept(logits, top_k=2, top_p=0.5) == [0], "0.4 of 0.7 is more than half"


def test_min_p_is_a_fraction_of_the_likeliest() -> None:
    logits = row(*np.log([0.5, 0.3, 0.15, 0.05]))
    assert kept(logits, min_p=0.29) == [0, 1, 2]
    assert kept(logits, min_p=1.0) == [0]


def test_a_draw_never_leaves_the_filters() -> None:
    logits = np.random.default_rng(0).standard_normal(500).astype(np.float32) * 3
    filters = {"temperature": 1.3, "top_k": 40, "top_p": 0.9, "min_p": 0.02}
    drawn = {draw(logits, Draw(uniform=step / 512, **filters)).token for step in range(512)}  # type: ignore[arg-type]
    assert drawn <= set(kept(logits, **filters))
    assert len(drawn) > 5


@pytest.mark.parametrize("share", [0.01, 0.5, 0.999, 0.999999])
def test_top_p_over_a_large_vocabulary_is_what_sorting_all_of_it_gives(share: float) -> None:
    logits = np.round(np.random.default_rng(2).standard_normal(20_000).astype(np.float32), 1)  # many ties
    weights = np.exp(logits.astype(np.float64) - logits.max())
    order = np.argsort(-weights, kind="stable")
    edges = np.cumsum(weights[order])
    expected = order[: int(np.searchsorted(edges, share * weights.sum())) + 1]
    assert kept(logits, top_p=share) == sorted(expected.tolist())


def test_extreme_logits_and_temperatures_overflow_nothing() -> None:
    logits = row(1, 3e38, -3e38, 2)
    for temperature in (5e-324, 0.01, 1.0):
        found = draw(logits, Draw(temperature=temperature, uniform=1 - 2**-53, num_top=1))
        assert found.token == 1
        assert found.logprobs is not None
        assert found.logprobs.chosen == 0.0


@given(st.lists(st.floats(FLOOR, 0.0), min_size=1, max_size=50))
def test_exp_is_the_exponential(values: list[float]) -> None:
    assert np.allclose(exp(np.array(values)), np.exp(values), rtol=2e-14, atol=0)


def test_weights_are_units_of_the_likeliest() -> None:
    assert weigh(row(5, 5, -28), 1.0).tolist() == [UNIT, UNIT, 0]
    assert int(weigh(row(0, -31), 1.0)[1]) == 1, "e^-31 is 0.6 of a unit"


def test_logprobs_are_of_the_model_itself() -> None:
    logits = row(1, 2, 3, 3)
    exact = logits.astype(np.float64) - np.log(np.exp(logits.astype(np.float64)).sum())
    found = draw(logits, Draw(temperature=0.0, top_k=1, num_top=3)).logprobs
    assert found is not None
    assert found.top_tokens == (2, 3, 1)
    assert found.top_logprobs == pytest.approx((exact[2], exact[3], exact[1]), abs=1e-12)
    assert found.chosen == pytest.approx(exact[2], abs=1e-12)
    for num_top, count in ((0, 0), (20, 4)):  # there are no more tokens than the vocabulary has
        found = draw(logits, Draw(num_top=num_top)).logprobs
        assert found is not None
        assert len(found.top_tokens) == count


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_give_no_token(bad: float) -> None:
    assert draw(row(1, bad, 2), Draw()) == Drawn(token=-1, num_not_finite=1)


@pytest.mark.parametrize(
    "wish",
    [
        {"temperature": -1.0},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"min_p": -0.1},
        {"min_p": math.nan},
        {"uniform": 1.0},
        {"uniform": -0.1},
        {"num_top": -1},
        {"further": (0.5, 1.0)},
        {"further": (0.5,) * 7},
    ],
)
def test_impossible_draws_are_refused(wish: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="impossible draw"):
        Draw(**wish)  # type: ignore[arg-type]
