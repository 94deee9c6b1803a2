"""A step is either checked and safe, or refused before anything is written."""

from __future__ import annotations

import dataclasses

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from thaloom.hal.checks import MemoryWeights
from thaloom.hal.driver import Limits
from thaloom.hal.drivers.virtual.driver import VirtualDevice
from thaloom.hal.ops import Step
from thaloom.hal.reference import ReferenceBackend
from thaloom.hal.testing.programs import VOCAB_SIZE, tiny_model
from thaloom.hal.testing.schedules import make_sequences, make_step

CASE = tiny_model(3)
NUM_BLOCKS = 6
FIELDS = ("tokens", "positions", "sequences", "block_tables", "outputs")


@settings(max_examples=200)
@given(
    field=st.sampled_from(FIELDS),
    index=st.integers(0, 100),
    value=st.one_of(st.integers(-3, 70), st.sampled_from([-(2**31), 2**31 - 1])),
    seed=st.integers(0, 1000),
)
def test_one_altered_number_is_refused_or_harmless(field: str, index: int, value: int, seed: int) -> None:
    """Refused: no byte of the pool has changed. Taken: only blocks of the step's own sequences have."""
    backend = ReferenceBackend(VirtualDevice(id="virtual:0").to_device())
    limits = Limits(max_rows=32, max_sequences=3, max_context=48)
    executable = backend.compile(CASE.program, MemoryWeights(CASE.weights), limits)
    pool = backend.allocate(NUM_BLOCKS * executable.block_bytes)
    executable.bind_pool(pool, NUM_BLOCKS)
    rng = np.random.default_rng(seed)
    sequences = make_sequences([17, 3, 5], rng, vocab_size=VOCAB_SIZE, num_blocks=NUM_BLOCKS)
    step = make_step(sequences, [(0, 0, 17), (1, 0, 3), (2, 0, 5)])
    altered = _altered(step, field, index, value)
    before = pool.data.copy()
    try:
        result = executable.run(altered)
    except ValueError:
        assert np.array_equal(pool.data, before)
        return
    assert result.shape == (len(altered.outputs), VOCAB_SIZE)
    assert np.isfinite(result).all()
    size = executable.block_bytes
    written = {block for block in range(NUM_BLOCKS) if pool.data[block * size : (block + 1) * size].any()}
    assert written <= set(altered.block_tables.flat)


def _altered(step: Step, field: str, index: int, value: int) -> Step:
    array = getattr(step, field).copy()
    array.flat[index % array.size] = value
    return dataclasses.replace(step, **{field: array})
