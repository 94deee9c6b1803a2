"""Tokens chosen by the native library are those of the definition, to the last one, whatever the logits."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from thaloom.hal.checks import MemoryWeights
from thaloom.hal.draws import EDIT, UNIFORM_STEPS, Draw, Drawn, draw
from thaloom.hal.driver import Executable, Limits, SamplesNatively
from thaloom.hal.drivers.cpu.driver import CpuDriver
from thaloom.hal.drivers.cpu.probe import DEVICE_ID
from thaloom.hal.ops import ProgramBuilder, Step
from thaloom.hal.tensors import Tensor

Rows = NDArray[np.float32]
SIZES = (1, 2, 15, 16, 17, 255, 256, 257, 1000, 5000)
UNIFORM = st.integers(0, UNIFORM_STEPS - 1).map(lambda steps: steps / UNIFORM_STEPS)


@contextmanager
def scoring(vocab_size: int, num_threads: int = 2, max_rows: int = 8) -> Iterator[Executable]:
    """A program of nothing but an embedding and a head. Its logits are then replaced by whatever a test wants."""
    builder = ProgramBuilder()
    builder.logits(builder.embedding("table", vocab_size=vocab_size, width=16), "table", vocab_size=vocab_size)
    weights = MemoryWeights({"table": Tensor("f32", np.zeros((vocab_size, 16), np.float32))})
    limits = Limits(max_rows=max_rows, max_sequences=max_rows, max_context=16)
    executable = CpuDriver().open(DEVICE_ID, num_threads=num_threads).compile(builder.build(), weights, limits)
    try:
        yield executable
    finally:
        executable.close()


def drawn(executable: Executable, rows: Rows, draws: list[Draw]) -> list[Drawn]:
    count = len(rows)
    zeros = np.zeros(count, np.int32)
    own = np.arange(count, dtype=np.int32)
    step = Step(tokens=zeros, positions=zeros, sequences=own, block_tables=np.zeros((count, 1), np.int32), outputs=own)
    executable.run(step)[:] = rows
    assert isinstance(executable, SamplesNatively)
    return list(executable.draw(draws))


def defined(rows: Rows, draws: list[Draw]) -> list[Drawn]:
    return [draw(row, wish) for row, wish in zip(rows, draws, strict=True)]


def random_rows(rng: np.random.Generator, count: int, vocab_size: int) -> Rows:
    """Steep and flat ones, with and without ties."""
    rows = rng.standard_normal((count, vocab_size)).astype(np.float32) * rng.choice([0.01, 1, 4, 30], (count, 1))
    tied = rng.integers(0, 2, count).astype(bool)
    rows[tied] = np.round(rows[tied], 1)
    return rows.astype(np.float32)


WISHES = st.builds(
    Draw,
    temperature=st.sampled_from([0.0, 5e-324, 0.01, 0.5, 0.7, 1.0, 1.5, 100.0]),
    top_k=st.sampled_from([0, 0, 1, 2, 3, 16, 40, 255, 4999, 2**31 - 1]),
    top_p=st.sampled_from([1.0, 1e-12, 0.1, 0.5, 0.9, 0.95, 0.999999, 1 - 2**-53]),
    min_p=st.sampled_from([0.0, 0.0, 1e-30, 0.01, 0.5, 1.0]),
    uniform=UNIFORM,
    num_top=st.sampled_from([None, None, 0, 1, 5, 20, 10_000]),
)


def bent(wish: Draw, rng: np.random.Generator, vocab_size: int) -> Draw:
    """With edits, with some tokens forbidden (now and then all), with tokens to report."""
    edits = np.zeros(int(rng.integers(0, 9)), EDIT)
    edits["token"] = rng.integers(0, vocab_size, len(edits))
    edits["scale"] = rng.choice([1.0, 1.3, 0.01, 1e-38, 100.0], len(edits))
    edits["add"] = rng.choice([0.0, -100.0, 100.0, 1.5, -3e38], len(edits))
    allowed = rng.random((vocab_size + 31) // 32 * 32) < rng.choice([0.0, 0.001, 0.1, 0.9, 1.0])
    words = np.packbits(allowed, bitorder="little").view(np.uint32)
    return dataclasses.replace(
        wish,
        edits=edits if rng.integers(2) else None,
        allowed=words if rng.integers(3) else None,
        report=tuple(rng.integers(0, vocab_size, int(rng.integers(0, 3))).tolist()),
    )


@settings(max_examples=60)
@given(
    vocab_size=st.sampled_from(SIZES), seed=st.integers(0, 2**32 - 1), draws=st.lists(WISHES, min_size=1, max_size=6)
)
def test_any_rows_and_wishes(build: str, vocab_size: int, seed: int, draws: list[Draw]) -> None:
    rows = random_rows(np.random.default_rng(seed), len(draws), vocab_size)
    with scoring(vocab_size) as executable:
        assert drawn(executable, rows, draws) == defined(rows, draws)


@settings(max_examples=60)
@given(
    vocab_size=st.sampled_from(SIZES), seed=st.integers(0, 2**32 - 1), draws=st.lists(WISHES, min_size=1, max_size=6)
)
def test_any_edits_and_any_tokens_allowed(build: str, vocab_size: int, seed: int, draws: list[Draw]) -> None:
    rng = np.random.default_rng(seed)
    rows = random_rows(rng, len(draws), vocab_size)
    wishes = [bent(wish, rng, vocab_size) for wish in draws]
    with scoring(vocab_size) as executable:
        found = drawn(executable, rows, wishes)
    assert found == defined(rows, wishes)
    for wish, each in zip(wishes, found, strict=True):
        if each.token >= 0 and wish.allowed is not None:
            assert wish.allowed[each.token // 32] >> (each.token % 32) & 1, "a token that was forbidden"


@pytest.mark.parametrize("num_threads", [1, 3])
def test_some_rows_are_drawn_from_again_in_any_order(build: str, num_threads: int) -> None:
    rng = np.random.default_rng(8)
    rows = random_rows(rng, 7, 5000)
    with scoring(5000, num_threads) as executable:
        assert isinstance(executable, SamplesNatively)
        drawn(executable, rows, [Draw()] * 7)
        for some in ([], [6], [0, 1, 2, 3, 4, 5, 6], [5, 0, 3], [2, 2]):
            wishes = [bent(Draw(temperature=0.7, uniform=0.4, num_top=3), rng, 5000) for _ in some]
            assert executable.redraw(some, wishes) == defined(rows[some], wishes)
        for some, count in (([7], 1), ([-1], 1), ([0, 2**32], 2), ([0], 2), ([0, 1], 1)):
            with pytest.raises(ValueError, match="rows"):
                executable.redraw(some, [Draw()] * count)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), wish=WISHES)
def test_masks_that_leave_out_long_stretches(build: str, seed: int, wish: Draw) -> None:
    """As a grammar's do: whole words of the mask are empty or full, and logits rise or fall along the vocabulary."""
    rng = np.random.default_rng(seed)
    rows = random_rows(rng, 6, 5000) + rng.choice([-40, 0, 40], (6, 1)) * np.linspace(0, 1, 5000)
    wishes = []
    for _ in rows:
        words = rng.choice(np.array([0, 0, 0, 2**32 - 1, 1, 2**31], np.uint32), 157)
        words[rng.integers(157) :] = rng.choice(np.array([0, 2**32 - 1], np.uint32))
        wishes.append(dataclasses.replace(bent(wish, rng, 5000), allowed=words))
    with scoring(5000) as executable:
        rows = rows.astype(np.float32)
        assert drawn(executable, rows, wishes) == defined(rows, wishes)


def test_bits_beyond_the_vocabulary_allow_nothing(build: str) -> None:
    words = np.array([0, 0xFFFFFF00], np.uint32)
    with scoring(40) as executable:
        assert drawn(executable, np.zeros((1, 40), np.float32), [Draw(allowed=words)]) == [Drawn(token=-1)]


def test_impossible_edits_and_masks_are_refused(build: str) -> None:
    rows = np.zeros((1, 40), np.float32)
    edit = np.zeros(1, EDIT)
    for token, scale, add in ((40, 1, 0), (-1, 1, 0), (0, 0, 0), (0, -1, 0), (0, np.nan, 0), (0, 1, np.inf)):
        edit["token"], edit["scale"], edit["add"] = token, scale, add
        with scoring(40) as executable, pytest.raises(ValueError, match="impossible"):
            drawn(executable, rows, [Draw(edits=edit)])
    for words in (1, 3):
        with scoring(40) as executable, pytest.raises(ValueError, match="words"):
            drawn(executable, rows, [Draw(allowed=np.zeros(words, np.uint32))])
    with scoring(40) as executable, pytest.raises(ValueError, match="array"):
        drawn(executable, rows, [Draw(allowed=np.zeros(2, np.int64))])  # type: ignore[arg-type]


def test_a_large_vocabulary_on_any_number_of_threads(build: str) -> None:
    rows = random_rows(np.random.default_rng(5), 7, 151_936)
    draws = [
        Draw(temperature=temperature, top_k=top_k, top_p=top_p, uniform=uniform, num_top=num_top)
        for temperature, top_k, top_p, uniform, num_top in (
            (0.0, 0, 1.0, 0.0, 3),
            (1.0, 0, 1.0, 0.3, None),
            (0.7, 50, 0.9, 0.99, 20),
            (1.3, 0, 0.95, 0.5, None),
            (100.0, 0, 0.999, 1 - 2**-53, None),
            (0.2, 100_000, 1.0, 0.7, None),
            (1.0, 1, 0.5, 0.5, 1),
        )
    ]
    wanted = defined(rows, draws)
    for num_threads in (1, 3):
        with scoring(rows.shape[1], num_threads) as executable:
            assert drawn(executable, rows, draws) == wanted


def test_extreme_logits(build: str) -> None:
    largest, least = np.finfo(np.float32).max, np.finfo(np.float32).smallest_subnormal
    rows = np.array(
        [
            [largest, -largest, 0.0, largest, least],
            [-largest] * 5,
            [-0.0, 0.0, -0.0, 0.0, -least],
            [least, 0.0, -least, 0.0, least],
        ],
        np.float32,
    )
    with scoring(5) as executable:
        for wish in (
            Draw(num_top=5),
            Draw(temperature=5e-324, uniform=0.9, num_top=5),
            Draw(temperature=1.7e308, uniform=0.5),
            Draw(temperature=1.0, top_k=2, uniform=0.9),
            Draw(temperature=1.0, top_p=0.4, uniform=0.99),
        ):
            assert drawn(executable, rows, [wish] * 4) == defined(rows, [wish] * 4)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("vocab_size", [5, 100])
def test_logits_that_are_not_finite_are_counted_and_give_no_token(build: str, bad: float, vocab_size: int) -> None:
    rows = np.zeros((2, vocab_size), np.float32)
    rows[0, [0, vocab_size - 1]] = bad
    with scoring(vocab_size) as executable:
        found = drawn(executable, rows, [Draw(temperature=1.0, num_top=2), Draw(num_top=None)])
    assert found == [Drawn(token=-1, num_not_finite=2), Drawn(token=0)]


def test_as_many_draws_as_rows_or_none_at_all(build: str) -> None:
    with scoring(20) as executable:
        assert isinstance(executable, SamplesNatively)
        with pytest.raises(ValueError, match="1 draws from 0 rows"):
            executable.draw([Draw()])
        rows = np.zeros((2, 20), np.float32)
        for draws in ([], [Draw()], [Draw()] * 3):
            with pytest.raises(ValueError, match="draws from 2 rows"):
                drawn(executable, rows, draws)
        assert len(drawn(executable, rows, [Draw()] * 2)) == 2
        executable.close()
        with pytest.raises(ValueError, match="closed"):
            executable.draw([Draw()] * 2)


@contextmanager
def heading(head: Rows, *, scale: float, softcap: float, num_threads: int) -> Iterator[Executable]:
    """A program whose logits of token t are column t of `head`, (V, 16): its embedding is the identity."""
    builder = ProgramBuilder()
    x = builder.embedding("table", vocab_size=16, width=16)
    builder.logits(x, "head", vocab_size=len(head), scale=scale, softcap=softcap)
    weights = MemoryWeights({"table": Tensor("f32", np.eye(16, dtype=np.float32)), "head": Tensor("f32", head)})
    limits = Limits(max_rows=40, max_sequences=40, max_context=16)
    executable = CpuDriver().open(DEVICE_ID, num_threads=num_threads).compile(builder.build(), weights, limits)
    try:
        yield executable
    finally:
        executable.close()


@pytest.mark.parametrize(("scale", "softcap"), [(1.0, 0.0), (-0.5, 0.0), (1.0, 3.0)])
@settings(max_examples=20)
@given(
    vocab_size=st.sampled_from(SIZES),
    num_rows=st.sampled_from([1, 2, 13, 33, 40]),
    num_threads=st.sampled_from([1, 2, 3]),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_greedy_step_gives_the_tokens_of_the_logits_it_does_not_keep(
    build: str, scale: float, softcap: float, vocab_size: int, num_rows: int, num_threads: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    head = np.round(rng.standard_normal((vocab_size, 16)), 1).astype(np.float32)  # with many ties
    head[rng.random(head.shape) < 0.3] *= -0.0
    if seed % 5 == 0:
        head[rng.integers(vocab_size), 3] = rng.choice([np.nan, np.inf, -np.inf])
    tokens = rng.integers(0, 16, num_rows).astype(np.int32)
    own, zeros = np.arange(num_rows, dtype=np.int32), np.zeros(num_rows, np.int32)
    tables = np.zeros((num_rows, 1), np.int32)
    step = Step(tokens=tokens, positions=zeros, sequences=own, block_tables=tables, outputs=own[::-1].copy())
    with heading(head, scale=scale, softcap=softcap, num_threads=num_threads) as executable:
        assert isinstance(executable, SamplesNatively)
        wanted = defined(np.array(executable.run(step)), [Draw()] * num_rows)
        executable.run(dataclasses.replace(step, greedy=True))
        assert executable.draw([Draw()] * num_rows) == wanted
        again = rng.permutation(num_rows)[: num_rows // 2].tolist()
        assert executable.redraw(again, [Draw()] * len(again)) == [wanted[row] for row in again]


@pytest.mark.parametrize("wish", [Draw(num_top=0), Draw(temperature=0.1), Draw(allowed=np.zeros(1, np.uint32))])
def test_after_a_greedy_step_there_is_nothing_else_to_draw_from(build: str, wish: Draw) -> None:
    one, zeros = np.arange(1, dtype=np.int32), np.zeros(1, np.int32)
    step = Step(tokens=zeros, positions=zeros, sequences=one, block_tables=np.zeros((1, 1), np.int32), outputs=one)
    with heading(np.ones((20, 16), np.float32), scale=1.0, softcap=0.0, num_threads=1) as executable:
        assert isinstance(executable, SamplesNatively)
        executable.run(dataclasses.replace(step, greedy=True))
        with pytest.raises(ValueError, match="not greedy alone"):
            executable.draw([wish])
        assert executable.draw([Draw()]) == [Drawn(token=0)]
        executable.run(step)
        assert len(executable.draw([wish])) == 1


def test_a_program_that_gives_no_logits_gives_no_tokens(build: str) -> None:
    builder = ProgramBuilder()
    builder.pool(builder.embedding("table", vocab_size=20, width=16))
    weights = MemoryWeights({"table": Tensor("f32", np.ones((20, 16), np.float32))})
    backend = CpuDriver().open(DEVICE_ID, num_threads=1)
    executable = backend.compile(builder.build(), weights, Limits(max_rows=2, max_sequences=2, max_context=16))
    try:
        with pytest.raises(ValueError, match="no logits"):
            drawn(executable, np.zeros((1, 16), np.float32), [Draw()])
    finally:
        executable.close()
