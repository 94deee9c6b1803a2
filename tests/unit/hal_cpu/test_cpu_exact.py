"""A row's result is the same to the bit, whatever else runs, however it is cut, wherever it lies, on any threads."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thaloom.hal.checks import MemoryWeights
from thaloom.hal.driver import Limits
from thaloom.hal.drivers.cpu.driver import CpuDriver
from thaloom.hal.drivers.cpu.probe import DEVICE_ID
from thaloom.hal.ops import ProgramBuilder
from thaloom.hal.reference import ReferencePool, run_reference
from thaloom.hal.testing.bench import F32, NUM_BLOCKS, bench, expect_close, expect_same, sequences_for
from thaloom.hal.testing.programs import (
    VOCAB_SIZE,
    Case,
    arrived_whole,
    make_weights,
    operator_cases,
    operator_names,
    tiny_model,
    whole_number_cases,
)
from thaloom.hal.testing.schedules import (
    Schedule,
    TokenSequence,
    chopped,
    make_sequences,
    moved,
    one_by_one,
    play,
    together,
)
from thaloom.hal.types import DType, WeightFormat

DTYPES: tuple[DType, ...] = ("f32", "bf16")
KV_DTYPES: tuple[DType, ...] = ("f32", "bf16", "f16", "i8")
FORMATS: tuple[WeightFormat, ...] = ("stored", "int8", "int4")


def every_case() -> list[Case]:
    plain = [case for name in operator_names() for dtype in DTYPES for case in operator_cases(name, dtype=dtype)]
    converted = [case for name in FORMATS[1:] for case in whole_number_cases(name)]
    return [*plain, *on_every_store(), *converted, *(arrived_whole(case) for case in converted)]


def on_every_store() -> list[Case]:
    cases = operator_cases("paged_attention")
    return [dataclasses.replace(case, kv_dtype=kv_dtype) for kv_dtype in KV_DTYPES[1:] for case in cases]


@settings(max_examples=30)
@given(
    seed=st.integers(0, 10_000),
    dtype=st.sampled_from(DTYPES),
    kv_dtype=st.sampled_from(KV_DTYPES),
    weight_format=st.sampled_from(FORMATS),
    num_threads=st.integers(1, 3),
    data=st.data(),
)
def test_models_under_any_schedule(
    build: str,
    seed: int,
    dtype: DType,
    kv_dtype: DType,
    weight_format: WeightFormat,
    num_threads: int,
    data: st.DataObject,
) -> None:
    case = tiny_model(seed, dtype=dtype, kv_dtype=kv_dtype, weight_format=weight_format)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1), label="schedule"))
    lengths = tuple(data.draw(st.lists(st.integers(1, 24), min_size=1, max_size=4), label="lengths"))
    sequences = sequences_for(case, seed=seed, lengths=lengths)
    with bench(CpuDriver().open(DEVICE_ID, num_threads=1), case) as alone:
        wanted = alone.play(sequences, one_by_one(sequences))
    with bench(CpuDriver().open(DEVICE_ID, num_threads=num_threads), case) as ready:
        elsewhere = moved(sequences, rng, NUM_BLOCKS)
        expect_same(case, ready.play(elsewhere, chopped(elsewhere, rng)), wanted, "the schedule")
        expect_same(case, ready.play(sequences, together(sequences)), wanted, "its neighbours")


def test_every_operator_beside_others_and_alone(build: str) -> None:
    single, several = (CpuDriver().open(DEVICE_ID, num_threads=count) for count in (1, 3))
    for case in every_case():
        sequences = sequences_for(case)
        with bench(single, case) as alone, bench(several, case) as beside:
            wanted = alone.play(sequences, one_by_one(sequences))
            expect_same(case, beside.play(sequences, together(sequences)), wanted, "neighbours or threads")
            if case.cuttable:
                cut = chopped(sequences, np.random.default_rng(11))
                expect_same(case, beside.play(sequences, cut), wanted, "chunks")


def test_what_lay_in_a_block_before_does_not_matter(build: str) -> None:
    """Even infinities and NaN left behind by another sequence."""
    for case in [*operator_cases("paged_attention"), *on_every_store()]:
        sequences = sequences_for(case)
        opened = CpuDriver().open(DEVICE_ID, num_threads=1)
        with bench(opened, case) as clean:
            wanted = clean.play(sequences, together(sequences))
        limits = Limits(max_rows=96, max_sequences=8, max_context=128, kv_dtype=case.kv_dtype)
        executable = opened.compile(case.program, MemoryWeights(case.weights), limits)
        pool = opened.allocate(NUM_BLOCKS * executable.block_bytes)
        pool.data[:] = 0xFF  # type: ignore[attr-defined]  # NaN in every dtype
        executable.bind_pool(pool, NUM_BLOCKS)
        found = play(executable.run, sequences, together(sequences))
        executable.close()
        pool.free()
        expect_same(case, found, wanted, "what its blocks held before")


LONG = (700, 300, 257, 30)
"""Tokens of sequences that reach over two segments of 256, over one, just over one, and over none."""
LONG_LIMITS = {"max_rows": 800, "max_sequences": 4, "max_context": 1024}
LONG_BLOCKS = 128


def long_results(case: Case, sequences: list[TokenSequence], schedule: Schedule, num_threads: int) -> list[F32]:
    opened = CpuDriver().open(DEVICE_ID, num_threads=num_threads)
    limits = Limits(kv_dtype=case.kv_dtype, **LONG_LIMITS)
    executable = opened.compile(case.program, MemoryWeights(case.weights), limits)
    pool = opened.allocate(LONG_BLOCKS * executable.block_bytes)
    executable.bind_pool(pool, LONG_BLOCKS)
    found = play(executable.run, sequences, schedule)
    executable.close()
    pool.free()
    return found


def long_case(kv_dtype: DType, *, kv_heads: int, window: int = 0, softcap: float = 0.0, alibi: bool = False) -> Case:
    """Seven query heads for each key/value head, as some models have."""
    builder = ProgramBuilder()
    x = builder.embedding("embedding", vocab_size=VOCAB_SIZE, width=48)
    q = builder.linear(x, "q", width=7 * kv_heads * 20)
    k, v = (builder.linear(x, name, width=kv_heads * 20) for name in "kv")
    attended = builder.paged_attention(
        q,
        k,
        v,
        num_heads=7 * kv_heads,
        num_kv_heads=kv_heads,
        head_size=20,
        window=window,
        softcap=softcap,
        alibi=tuple(2.0 ** -(head + 1) for head in range(7 * kv_heads)) if alibi else (),
    )
    builder.pool(attended, normalise=False)
    program = builder.build()
    return Case(name=f"long.{kv_dtype}", program=program, weights=make_weights(program, 3), kv_dtype=kv_dtype)


@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
@pytest.mark.parametrize(
    "changes", [{"kv_heads": 1}, {"kv_heads": 2}, {"kv_heads": 1, "window": 300, "softcap": 3.0, "alibi": True}]
)
def test_long_contexts_in_segments(build: str, kv_dtype: DType, changes: dict[str, Any]) -> None:
    """Where threads share a row, where each has rows of its own, in one piece and in chunks: the same, and right."""
    case = long_case(kv_dtype, **changes)
    rng = np.random.default_rng(5)
    sequences = make_sequences(LONG, rng, vocab_size=VOCAB_SIZE, num_blocks=LONG_BLOCKS)
    pieces = [[(i, 0, length - 1)] for i, length in enumerate(LONG)]
    ends = [[(i, length - 1, length) for i, length in enumerate(LONG)]]
    wanted = long_results(case, sequences, [*pieces, *ends], num_threads=1)
    one_row_at_a_time = [*pieces, *([(i, length - 1, length)] for i, length in enumerate(LONG))]
    for num_threads in (1, 2, 3):
        expect_same(case, long_results(case, sequences, one_row_at_a_time, num_threads), wanted, "its neighbours")
    elsewhere = moved(sequences, rng, LONG_BLOCKS)
    for largest in (3, 90, 400):
        cut = chopped(elsewhere, rng, largest=largest)
        expect_same(case, long_results(case, elsewhere, cut, num_threads=2), wanted, "chunks, threads or blocks")
    kv = ReferencePool(case.program, LONG_BLOCKS, case.kv_dtype)
    right = play(lambda step: run_reference(case.program, case.weights, step, kv), sequences, [*pieces, *ends])
    expect_close(case, wanted, right)
