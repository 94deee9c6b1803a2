from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from thaloom.base.errors import InternalError
from thaloom.work.runtime.sampling import candidates, choose, logprobs, uniform
from thaloom.work.runtime.types import Sampling


def row(*logits: float) -> np.ndarray:
    return np.array(logits, dtype=np.float32)


def kept(logits: np.ndarray, sampling: Sampling) -> list[int]:
    return candidates(logits, sampling)[0].tolist()


def test_greedy_takes_the_highest_and_the_lower_id_on_a_tie() -> None:
    greedy = Sampling(temperature=0.0, top_k=1, top_p=0.1, min_p=1.0)
    assert choose(row(1, 3, 2), greedy, position=0, num_top=None).token == 1
    assert choose(row(1, 3, 3), greedy, position=0, num_top=None).token == 1


def test_a_draw_depends_on_seed_and_position_alone() -> None:
    assert uniform(1, 2) == uniform(1, 2)
    assert len({uniform(seed, position) for seed in range(20) for position in range(20)}) == 400
    assert uniform(-1, 0) == uniform(2**64 - 1, 0), "seeds are taken modulo 2^64"


def test_the_draws_of_this_seed_are_these_for_ever() -> None:
    """Golden: a change here changes everybody's answers. Made with NumPy's Philox 4x64-10 (raw stream)."""
    assert [uniform(42, position) for position in range(3)] == [
        0.8201981478608876,
        0.443746921343274,
        0.4269192325220025,
    ]


def test_draws_follow_the_probabilities() -> None:
    logits = row(*np.log([0.5, 0.3, 0.15, 0.05]))
    drawn = Counter(choose(logits, Sampling(seed=3), position=position, num_top=None).token for position in range(4000))
    assert [round(drawn[token] / 4000, 1) for token in range(2)] == [0.5, 0.3]
    assert 0.12 < drawn[2] / 4000 < 0.18


def test_temperature_sharpens_and_flattens() -> None:
    cold, hot = (candidates(row(1, 0), Sampling(temperature=t))[1] for t in (0.5, 2.0))
    assert cold[1] / cold[0] == pytest.approx(math.exp(-2))
    assert hot[1] / hot[0] == pytest.approx(math.exp(-0.5))


def test_top_k_keeps_exactly_k_and_the_lower_ids_of_a_tie() -> None:
    assert kept(row(1, 2, 2, 2, 3), Sampling(top_k=3)) == [1, 2, 4]
    assert kept(row(1, 2), Sampling(top_k=0)) == [0, 1]
    assert kept(row(1, 2), Sampling(top_k=9)) == [0, 1]


def test_top_p_keeps_the_fewest_that_reach_p() -> None:
    logits = row(*np.log([0.5, 0.25, 0.125, 0.125]))
    assert kept(logits, Sampling(top_p=0.5)) == [0]
    assert kept(logits, Sampling(top_p=0.6)) == [0, 1]
    assert kept(logits, Sampling(top_p=0.8)) == [0, 1, 2], "the lower id of a tie"
    assert kept(logits, Sampling(top_p=1e-9)) == [0], "the likeliest always stays"


def test_top_p_counts_among_what_top_k_left() -> None:
    logits = row(*np.log([0.4, 0.3, 0.2, 0.1]))
    assert kept(logits, Sampling(top_p=0.5)) == [0, 1]
    assert kept(logits, Sampling(top_k=2, top_p=0.5)) == [0], "0.4 of 0.7 is more than half"


def test_min_p_is_a_fraction_of_the_likeliest() -> None:
    logits = row(*np.log([0.5, 0.3, 0.15, 0.05]))
    assert kept(logits, Sampling(min_p=0.29)) == [0, 1, 2]
    assert kept(logits, Sampling(min_p=1.0)) == [0]


def test_a_draw_never_leaves_the_filters() -> None:
    logits = np.random.default_rng(0).standard_normal(500).astype(np.float32) * 3
    sampling = Sampling(temperature=1.3, top_k=40, top_p=0.9, min_p=0.02, seed=5)
    allowed = set(kept(logits, sampling))
    drawn = {choose(logits, sampling, position=position, num_top=None).token for position in range(300)}
    assert drawn <= allowed
    assert len(drawn) > 5


def test_extreme_logits_do_not_overflow() -> None:
    logits = row(3e38, -3e38, 0)
    assert choose(logits, Sampling(temperature=0.01, seed=1), position=0, num_top=None).token == 0
    assert logprobs(logits, 0, 1).chosen == 0.0


def test_logprobs_are_of_the_model_itself() -> None:
    logits = row(1, 2, 3, 3)
    exact = logits.astype(np.float64) - np.log(np.exp(logits.astype(np.float64)).sum())
    choice = choose(logits, Sampling(temperature=0.0, top_k=1), position=0, num_top=3)
    assert choice.logprobs is not None
    assert choice.logprobs.top_tokens == (2, 3, 1)
    assert choice.logprobs.top_logprobs == pytest.approx((exact[2], exact[3], exact[1]))
    assert choice.logprobs.chosen == pytest.approx(exact[2])
    assert logprobs(logits, 0, 0).top_tokens == ()
    assert len(logprobs(logits, 0, 20).top_tokens) == 4, "there are no more tokens than the vocabulary has"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_are_an_error_that_says_where(bad: float) -> None:
    with pytest.raises(InternalError, match="1 logits that are not finite for position 7"):
        choose(row(1, bad, 2), Sampling(temperature=0.0), position=7, num_top=None)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.999, 0.999999])
def test_top_p_over_a_large_vocabulary_is_what_sorting_all_of_it_gives(share: float) -> None:
    logits = np.round(np.random.default_rng(2).standard_normal(20_000).astype(np.float32), 1)  # many ties
    weights = np.exp(logits.astype(np.float64) - logits.max())
    order = np.argsort(-weights, kind="stable")
    edges = np.cumsum(weights[order])
    expected = order[: int(np.searchsorted(edges, share * weights.sum())) + 1]
    assert kept(logits, Sampling(top_p=share)) == sorted(expected.tolist())


def test_the_tiniest_temperature_is_greedy_and_overflows_nothing() -> None:
    sampling = Sampling(temperature=5e-324, seed=-(2**63))
    assert choose(row(1, 3e38, -3e38, 2), sampling, position=2**31, num_top=None).token == 1
