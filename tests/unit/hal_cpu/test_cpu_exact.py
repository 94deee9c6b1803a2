"""A row's result is the same to the bit, whatever else runs, however it is cut, wherever it lies, on any threads."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from thaloom.hal.checks import MemoryWeights
from thaloom.hal.driver import Limits
from thaloom.hal.drivers.cpu.driver import CpuDriver
from thaloom.hal.drivers.cpu.probe import DEVICE_ID
from thaloom.hal.testing.bench import NUM_BLOCKS, bench, expect_same, sequences_for
from thaloom.hal.testing.programs import (
    Case,
    arrived_whole,
    operator_cases,
    operator_names,
    tiny_model,
    whole_number_cases,
)
from thaloom.hal.testing.schedules import chopped, moved, one_by_one, play, together
from thaloom.hal.types import DType, WeightFormat

DTYPES: tuple[DType, ...] = ("f32", "bf16")
FORMATS: tuple[WeightFormat, ...] = ("stored", "int8", "int4")


def every_case() -> list[Case]:
    plain = [case for name in operator_names() for dtype in DTYPES for case in operator_cases(name, dtype=dtype)]
    converted = [case for name in FORMATS[1:] for case in whole_number_cases(name)]
    return [*plain, *converted, *(arrived_whole(case) for case in converted)]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10_000),
    dtype=st.sampled_from(DTYPES),
    kv_dtype=st.sampled_from(DTYPES),
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
    for case in operator_cases("paged_attention"):
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
