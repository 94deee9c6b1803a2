from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thaloom.hal.draws import Draw, Drawn, draw
from thaloom.work.runtime.core.sampling import draw_again, draw_all, refusal, uniforms, wish
from thaloom.work.runtime.types import Sampling


def test_a_draw_depends_on_seed_and_position_alone() -> None:
    assert uniforms(1, 2) == uniforms(1, 2)
    assert len({number for seed in range(20) for position in range(20) for number in uniforms(seed, position)}) == 2800
    assert uniforms(-1, 0) == uniforms(2**64 - 1, 0), "seeds are taken modulo 2^64"


def test_the_draws_of_this_seed_are_these_for_ever() -> None:
    """Golden: a change here changes everybody's answers. Made with NumPy's Philox 4x64-10 (raw stream)."""
    assert [uniforms(42, position)[0] for position in range(3)] == [
        0.8201981478608876,
        0.443746921343274,
        0.4269192325220025,
    ]


@given(st.integers(-(2**63), 2**64 - 1), st.integers(0, 2**40))
def test_draws_are_the_first_numbers_of_philox(seed: int, position: int) -> None:
    key = np.array([seed % 2**64, position], np.uint64)
    first = np.random.Philox(key=key).random_raw(4).tolist()
    halves = np.array(first[1:], "<u8").view("<u4").tolist()
    assert uniforms(seed, position) == ((first[0] >> 11) / 2**53, *(half / 2**32 for half in halves))


def test_a_wish_says_what_the_request_said() -> None:
    sampling = Sampling(temperature=0.5, top_k=3, top_p=0.9, min_p=0.1, seed=7)
    assert wish(sampling, position=4, num_top=2) == Draw(
        temperature=0.5, top_k=3, top_p=0.9, min_p=0.1, uniform=uniforms(7, 4)[0], num_top=2
    )
    assert wish(replace(sampling, top_k=0), position=4, num_top=None, spares=True).further == uniforms(7, 4)[1:]
    assert wish(Sampling(temperature=0.0, top_k=3, seed=None), position=4, num_top=None) == Draw()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_are_an_error_that_says_where(bad: float) -> None:
    error = refusal(draw(np.array([1, bad, 2], np.float32), Draw()), position=7)
    assert error is not None
    assert "1 logits that are not finite for position 7" in error.message
    assert refusal(Drawn(token=3), position=7) is None


class Loom:
    """An executable that chooses tokens itself, in its own way, so that it shows."""

    def draw(self, wishes: list[Draw]) -> list[Drawn]:
        return [Drawn(token=9) for _ in wishes]

    def redraw(self, rows: list[int], wishes: list[Draw]) -> list[Drawn]:
        return [Drawn(token=10 + row) for row, _ in zip(rows, wishes, strict=True)]


def test_the_device_chooses_where_it_can_and_the_definition_where_it_cannot() -> None:
    logits = np.array([[0, 1, 0], [2, 1, 0]], np.float32)
    assert [found.token for found in draw_all(Loom(), logits, [Draw()] * 2)] == [9, 9]  # type: ignore[arg-type]
    assert [found.token for found in draw_all(object(), logits, [Draw()] * 2)] == [1, 0]  # type: ignore[arg-type]
    two = [Draw()] * 2
    assert [found.token for found in draw_again(Loom(), logits, [1, 0], two)] == [11, 10]  # type: ignore[arg-type]
    assert [found.token for found in draw_again(object(), logits, [1, 0], two)] == [0, 1]  # type: ignore[arg-type]
