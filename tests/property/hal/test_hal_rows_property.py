"""The promise everything else rests on: a row's result depends on its own sequence alone, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thaloom.base.ids import DeviceId
from thaloom.base.plugins import Registry
from thaloom.hal.checks import MemoryWeights
from thaloom.hal.driver import Backend, Driver, Limits
from thaloom.hal.drivers.virtual.driver import VirtualDevice, VirtualDriver
from thaloom.hal.testing.programs import VOCAB_SIZE, Case, operator_cases, operator_names, tiny_model
from thaloom.hal.testing.schedules import Schedule, TokenSequence, chopped, make_sequences, moved, play, together
from thaloom.hal.types import DType

NUM_BLOCKS = 32
LIMITS = {"max_rows": 200, "max_sequences": 8, "max_context": 64}
LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=5)
SEEDS = st.integers(0, 2**32 - 1)
KV = st.sampled_from(["f32", "bf16", "f16", "i8"])


def reference() -> Backend:
    device = VirtualDevice(id="virtual:0", dtypes=("f32", "bf16", "f16", "i8"))
    return VirtualDriver([device]).open(DeviceId("virtual:0"), num_threads=1)


def cpu(num_threads: int) -> Backend:
    registry: Registry[Driver] = Registry("driver")
    registry.discover()
    return registry.create("cpu").open(DeviceId("cpu"), num_threads=num_threads)


def results(backend: Backend, case: Case, sequences: list[TokenSequence], schedule: Schedule) -> list[np.ndarray]:
    executable = backend.compile(case.program, MemoryWeights(case.weights), Limits(kv_dtype=case.kv_dtype, **LIMITS))
    pool = backend.allocate(NUM_BLOCKS * executable.block_bytes)
    executable.bind_pool(pool, NUM_BLOCKS)
    found = play(executable.run, sequences, schedule)
    executable.close()
    pool.free()
    return found


def same(found: list[np.ndarray], wanted: list[np.ndarray]) -> bool:
    return all(a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in zip(found, wanted, strict=True))


@settings(max_examples=60)
@given(model=st.integers(0, 10_000), kv_dtype=KV, lengths=LENGTHS, seed=SEEDS, largest=st.integers(1, 40))
def test_reference_rows_are_independent(
    model: int, kv_dtype: DType, lengths: list[int], seed: int, largest: int
) -> None:
    """Alone and whole, against any chunks, any neighbours, any blocks."""
    case, rng, backend = tiny_model(model, kv_dtype=kv_dtype), np.random.default_rng(seed), reference()
    sequences = make_sequences(lengths, rng, vocab_size=VOCAB_SIZE, num_blocks=NUM_BLOCKS)
    alone = [results(backend, case, [sequence], together([sequence]))[0] for sequence in sequences]
    assert same(results(backend, case, sequences, together(sequences)), alone)
    elsewhere = moved(sequences, rng, NUM_BLOCKS)
    assert same(results(backend, case, elsewhere, chopped(elsewhere, rng, largest=largest)), alone)


@settings(max_examples=60)
@given(operator=st.sampled_from(operator_names()), which=st.integers(0, 20), lengths=LENGTHS, seed=SEEDS)
def test_reference_operators_are_independent(operator: str, which: int, lengths: list[int], seed: int) -> None:
    cases = operator_cases(operator, seed=seed % 1000)
    case, rng, backend = cases[which % len(cases)], np.random.default_rng(seed), reference()
    sequences = make_sequences(lengths, rng, vocab_size=VOCAB_SIZE, num_blocks=NUM_BLOCKS, adapters=case.adapters)
    alone = [results(backend, case, [sequence], together([sequence]))[0] for sequence in sequences]
    schedule = chopped(sequences, rng) if case.cuttable else together(sequences)
    assert same(results(backend, case, sequences, schedule), alone)


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_cpu_rows_are_independent(num_threads: int) -> None:
    """The CPU driver, native or not, keeps the same promise, with any number of threads."""
    backend, one = cpu(num_threads), cpu(1)
    assert backend.support.exact

    @settings(max_examples=40)
    @given(model=st.integers(0, 10_000), kv_dtype=KV, lengths=LENGTHS, seed=SEEDS)
    def check(model: int, kv_dtype: DType, lengths: list[int], seed: int) -> None:
        case, rng = tiny_model(model, kv_dtype=kv_dtype), np.random.default_rng(seed)
        sequences = make_sequences(lengths, rng, vocab_size=VOCAB_SIZE, num_blocks=NUM_BLOCKS)
        alone = [results(one, case, [sequence], together([sequence]))[0] for sequence in sequences]
        elsewhere = moved(sequences, rng, NUM_BLOCKS)
        assert same(results(backend, case, elsewhere, chopped(elsewhere, rng)), alone)

    check()


@settings(max_examples=40)
@given(model=st.integers(0, 10_000), lengths=LENGTHS, seed=SEEDS)
def test_cpu_agrees_with_the_reference(model: int, lengths: list[int], seed: int) -> None:
    case, rng = tiny_model(model), np.random.default_rng(seed)
    sequences = make_sequences(lengths, rng, vocab_size=VOCAB_SIZE, num_blocks=NUM_BLOCKS)
    wanted = results(reference(), case, sequences, together(sequences))
    found = results(cpu(2), case, sequences, chopped(sequences, rng))
    for a, b in zip(found, wanted, strict=True):
        assert np.allclose(a, b, atol=2e-4, rtol=1e-4)
