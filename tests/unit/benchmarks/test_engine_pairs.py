"""Ratios are made within pairs, and not made where the memory's speed moved under them."""

from __future__ import annotations

import pytest
from benchmarks.engine.cells import CELLS, decode, prefill
from benchmarks.engine.pairs import Pair, Run, judge, order, spread
from hypothesis import given
from hypothesis import strategies as st

GB = 1e9


def pair(ours: float, peer: float, ours_probe: float = 40 * GB, peer_probe: float = 40 * GB) -> Pair:
    return Pair(ours=Run(rate=ours, probe=ours_probe), peer=Run(rate=peer, probe=peer_probe))


def test_the_ratio_is_the_median_of_pairs_not_the_quotient_of_medians() -> None:
    # The machine slows down threefold in the last pairs: both sides do, the ratio stays.
    pairs = [pair(200, 100), pair(210, 100), pair(60, 30), pair(66, 30), pair(70, 35)]
    verdict = judge(pairs, follows_memory=True)
    assert verdict.ratio == 2.0
    assert (verdict.low, verdict.high) == (2.0, 2.1)
    assert (verdict.ours, verdict.peer) == (70, 35)


def test_a_pair_is_refused_when_the_memory_moved_inside_it_by_more_than_a_fifth() -> None:
    moved = pair(200, 50, 60 * GB, 40 * GB)
    verdict = judge([moved, pair(100, 50), pair(110, 50), pair(120, 50)], follows_memory=True)
    assert (verdict.num_pairs, verdict.num_refused) == (3, 1)
    assert verdict.ratio == 2.2


@pytest.mark.parametrize(("slow", "fast", "refused"), [(40, 48, 0), (40, 48.1, 1), (48.1, 40, 1)])
def test_the_limit_is_a_fifth_in_either_direction(slow: float, fast: float, refused: int) -> None:
    assert judge([pair(1, 1, slow * GB, fast * GB)], follows_memory=True).num_refused == refused


def test_no_ratio_is_told_when_too_few_pairs_count() -> None:
    moved = pair(200, 50, 60 * GB, 40 * GB)
    verdict = judge([moved, moved, moved, pair(100, 50), pair(100, 50)], follows_memory=True)
    assert (verdict.ratio, verdict.low, verdict.high, verdict.num_refused) == (None, None, None, 3)
    assert (verdict.ours, verdict.peer) == (200, 50)


def test_where_arithmetic_decides_no_pair_is_refused() -> None:
    verdict = judge([pair(200, 50, 60 * GB, 30 * GB)], follows_memory=False)
    assert (verdict.ratio, verdict.num_refused) == (4.0, 0)


def test_a_pair_with_other_work_beside_counts_and_is_told() -> None:
    busy = Pair(ours=Run(rate=2, probe=1, waited=0.9), peer=Run(rate=1, probe=1, waited=0.0))
    quiet = Pair(ours=Run(rate=3, probe=1, waited=0.1), peer=Run(rate=1, probe=1, waited=None))
    verdict = judge([busy, quiet, quiet], follows_memory=False)
    assert (verdict.ratio, verdict.num_pairs, verdict.num_crowded) == (3, 3, 1)


def test_nothing_measured_is_an_error_and_not_a_ratio() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        judge([], follows_memory=False)


def test_who_goes_first_alternates() -> None:
    assert list(order(3)) == [("ours", "peer"), ("peer", "ours"), ("ours", "peer")]


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=20))
def test_the_spread_lies_within_the_values_around_their_median(values: list[float]) -> None:
    low, high = spread(values)
    ordered = sorted(values)
    assert ordered[0] <= low <= high <= ordered[-1]
    verdict = judge([pair(value, 1) for value in values], follows_memory=False)
    assert verdict.ratio is not None
    assert low <= verdict.ratio * (1 + 1e-12)
    assert verdict.ratio <= high * (1 + 1e-12)


def test_one_sequence_follows_memory_and_sixteen_do_not() -> None:
    assert decode(1).follows_memory
    assert decode(1, 2016).follows_memory
    assert not decode(16).follows_memory
    assert not prefill(512).follows_memory


def test_cells_have_names_of_their_own() -> None:
    assert len({cell.name for cell in CELLS}) == len(CELLS)
    named = [cell.name for cell in (decode(4), decode(4, 2016), prefill(512))]
    assert named == ["decode 4", "decode 4 at 2016", "prefill 512"]


def test_decoding_is_what_sixty_four_more_tokens_take() -> None:
    assert decode(4).decoded(one_s=0.5, many_s=1.5) == 4 * 64
    with pytest.raises(ValueError, match="65 tokens took"):
        decode(4).decoded(one_s=1.0, many_s=0.9)


@pytest.mark.parametrize("wrong", [("prefill", 2, 128), ("decode", 0, 128), ("decode", 1, 0)])
def test_cells_that_make_no_sense_are_refused(wrong: tuple[str, int, int]) -> None:
    kind, batch, prompt = wrong
    with pytest.raises(ValueError, match="no such cell"):
        type(decode(1))(kind=kind, batch=batch, prompt=prompt)  # type: ignore[arg-type]
