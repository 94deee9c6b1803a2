"""The likeliest token of few rows, found without all bits of the head, is that of the whole product, to the bit."""

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
from thaloom.hal.draws import Draw, draw
from thaloom.hal.driver import Executable, Limits, SamplesNatively
from thaloom.hal.drivers.cpu.driver import CpuDriver
from thaloom.hal.drivers.cpu.probe import DEVICE_ID
from thaloom.hal.ops import ProgramBuilder, Step
from thaloom.hal.quantise import quantise
from thaloom.hal.tensors import QuantTensor, Tensor

Rows = NDArray[np.float32]
NUM_INPUTS = 12


@contextmanager
def heading(
    inputs: Rows, head: QuantTensor, *, scale: float = 1.0, softcap: float = 0.0, num_threads: int = 2
) -> Iterator[Executable]:
    """A program whose row for token t is inputs[t], and whose logits are that times `head`."""
    builder = ProgramBuilder()
    x = builder.embedding("table", vocab_size=len(inputs), width=inputs.shape[1])
    builder.logits(x, "head", vocab_size=len(head.data), scale=scale, softcap=softcap)
    weights = MemoryWeights({"table": Tensor("f32", inputs), "head": head})
    limits = Limits(max_rows=NUM_INPUTS, max_sequences=NUM_INPUTS, max_context=16)
    executable = CpuDriver().open(DEVICE_ID, num_threads=num_threads).compile(builder.build(), weights, limits)
    try:
        yield executable
    finally:
        executable.close()


def a_step(tokens: list[int]) -> Step:
    own = np.arange(len(tokens), dtype=np.int32)
    zeros = np.zeros_like(own)
    tables = np.zeros((len(tokens), 1), np.int32)
    return Step(tokens=np.array(tokens, np.int32), positions=zeros, sequences=own, block_tables=tables, outputs=own)


def expect_the_same(executable: Executable, tokens: list[int]) -> None:
    assert isinstance(executable, SamplesNatively)
    step, wishes = a_step(tokens), [Draw()] * len(tokens)
    wanted = [draw(row, wish) for row, wish in zip(np.array(executable.run(step)), wishes, strict=True)]
    executable.run(dataclasses.replace(step, greedy=True))
    assert executable.draw(wishes) == wanted


def heads(kind: str, rng: np.random.Generator, vocab_size: int, width: int, inputs: Rows) -> QuantTensor:
    match kind:
        case "random":
            return quantise(rng.standard_normal((vocab_size, width)).astype(np.float32), 8)
        case "tied":  # the same few rows again and again: the lowest number wins
            few = rng.standard_normal((3, width)).astype(np.float32)
            return quantise(few[rng.integers(0, 3, vocab_size)], 8)
        case "aligned":  # what the lower bits are worth goes with the inputs: as far from their middle as can be
            numbers = rng.integers(-31, 31, (vocab_size, width)) * 4
            numbers += np.where(inputs[rng.integers(0, len(inputs), vocab_size)] > 0, 3, 0)
            scales = rng.choice([0.5, -0.5, 2.0], (vocab_size, width // 32)).astype(np.float32)
            return QuantTensor(8, np.clip(numbers, -127, 127).astype(np.int8), scales)
        case _:  # next to nothing, nothing, and as much as there can be
            numbers = rng.integers(-127, 128, (vocab_size, width)).astype(np.int8)
            scales = rng.choice([0.0, 2.0**-24, 1.0, 65504.0], (vocab_size, width // 32)).astype(np.float32)
            return QuantTensor(8, numbers, scales)


@settings(max_examples=25)
@given(
    kind=st.sampled_from(["random", "tied", "aligned", "extreme"]),
    vocab_size=st.sampled_from([1, 15, 16, 17, 255, 1000, 1023, 1025, 1600]),
    width=st.sampled_from([64, 96, 256]),
    size=st.sampled_from([1.0, 1e-30, 1e-6, 1e20, 1e33]),
    tokens=st.lists(st.integers(0, NUM_INPUTS - 1), min_size=1, max_size=6),
    scale=st.sampled_from([1.0, 0.0625, 3.0, -1.0]),
    softcap=st.sampled_from([0.0, 0.0, 5.0]),
    num_threads=st.integers(1, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_greedy_step_finds_what_the_whole_product_does(
    build: str,
    kind: str,
    vocab_size: int,
    width: int,
    size: float,
    tokens: list[int],
    scale: float,
    softcap: float,
    num_threads: int,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    inputs = (rng.standard_normal((NUM_INPUTS, width)) * size).astype(np.float32)
    inputs[1] = 0
    inputs[2, ::7] *= 300
    head = heads(kind, rng, vocab_size, width, inputs)
    with heading(inputs, head, scale=scale, softcap=softcap, num_threads=num_threads) as executable:
        expect_the_same(executable, tokens)


@pytest.mark.parametrize("spoiled", [np.nan, np.inf, -np.inf, 3e38])
def test_numbers_that_are_not_finite_are_counted_as_ever(build: str, spoiled: float) -> None:
    rng = np.random.default_rng(1)
    inputs = rng.standard_normal((4, 64)).astype(np.float32)
    inputs[2, 5] = spoiled
    with heading(inputs, quantise(rng.standard_normal((500, 64)).astype(np.float32), 8)) as executable:
        expect_the_same(executable, [0, 2])
        expect_the_same(executable, [0, 1, 3])


def test_one_that_stands_out_is_found_wherever_it_stands(build: str) -> None:
    """By a last bit, at the end of the vocabulary: all others are the same but for it."""
    rng = np.random.default_rng(3)
    inputs = rng.standard_normal((1, 64)).astype(np.float32)
    row = np.where(inputs[0] > 0, 100, -100).astype(np.int8)
    for place in (0, 15, 16, 63, 64, 1023, 1024, 1499):
        numbers = np.tile(row, (1500, 1))
        numbers[place, np.argmax(np.abs(inputs[0]))] += np.int8(np.sign(inputs[0, np.argmax(np.abs(inputs[0]))]))
        head = QuantTensor(8, numbers, np.full((1500, 2), 0.5, np.float32))
        with heading(inputs, head) as executable:
            expect_the_same(executable, [0])
            assert isinstance(executable, SamplesNatively)
            assert executable.draw([Draw()])[0].token == place


@pytest.mark.parametrize("width", [64, 96, 896])
def test_lower_bits_decide_against_upper_ones(build: str, width: int) -> None:
    """One token is behind by its upper bits and ahead by all of them; the rest are far behind. A bound of less than six
    tenths of what it is would miss it."""
    rng = np.random.default_rng(width)
    inputs = rng.standard_normal((1, width)).astype(np.float32)
    signs = np.sign(inputs[0]).astype(np.int64)
    base = 4 * rng.integers(-20, 20, width)
    ahead = base + np.where(signs > 0, 3, 0)
    ahead[: width * 3 // 10] -= 4 * signs[: width * 3 // 10]
    for place in (16, 700, 1024, 1499):
        numbers = np.tile(base + 2 - 8 * signs, (1500, 1))  # of which the upper bits tell all
        numbers[0] = base + 2
        numbers[place] = ahead
        head = QuantTensor(8, numbers.astype(np.int8), np.full((1500, width // 32), 0.5, np.float32))
        with heading(inputs, head) as executable:
            expect_the_same(executable, [0])
            assert isinstance(executable, SamplesNatively)
            assert executable.draw([Draw()])[0].token == place
