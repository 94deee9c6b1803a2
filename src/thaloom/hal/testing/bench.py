"""A case on a device: compiled, with a pool, ready to be played and compared with the reference."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from thaloom.hal.checks import MemoryWeights
from thaloom.hal.driver import Backend, Executable, Limits
from thaloom.hal.ops import TOLERANCE, Step
from thaloom.hal.quantise import convert
from thaloom.hal.reference import ReferencePool, run_reference
from thaloom.hal.tensors import QuantTensor
from thaloom.hal.testing.programs import VOCAB_SIZE, Case
from thaloom.hal.testing.schedules import Schedule, TokenSequence, make_sequences, play, together
from thaloom.hal.testing.suite import expect
from thaloom.hal.types import DType

F32 = NDArray[np.float32]
NUM_BLOCKS = 24
LENGTHS = (1, 17, 5, 40, 16)
"""One row, one more than a block, less, several blocks, exactly one."""
LIMITS = Limits(max_rows=96, max_sequences=8, max_context=128)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    case: Case
    executable: Executable

    def play(self, sequences: list[TokenSequence], schedule: Schedule, *, states: bool = False) -> list[F32]:
        return play(lambda step: self.executable.run(replace(step, states=states)), sequences, schedule)


@contextmanager
def bench(backend: Backend, case: Case, *, num_blocks: int = NUM_BLOCKS) -> Iterator[Bench]:
    """The case compiled and bound to a pool of its own; everything is given back at the end."""
    limits = Limits(
        max_rows=LIMITS.max_rows,
        max_sequences=LIMITS.max_sequences,
        max_context=LIMITS.max_context,
        kv_dtype=case.kv_dtype,
        weight_format=case.weight_format,
    )
    executable = backend.compile(case.program, MemoryWeights(case.weights), limits)
    pool = None
    try:
        if case.program.kv:
            pool = backend.allocate(num_blocks * executable.block_bytes)
            executable.bind_pool(pool, num_blocks)
        yield Bench(case=case, executable=executable)
    finally:
        executable.close()
        if pool is not None:
            pool.free()


def sequences_for(case: Case, seed: int = 1, lengths: tuple[int, ...] = LENGTHS) -> list[TokenSequence]:
    """Sequences of mixed lengths on shuffled blocks."""
    rng = np.random.default_rng(seed)
    return make_sequences(lengths, rng, vocab_size=VOCAB_SIZE, num_blocks=NUM_BLOCKS, adapters=case.adapters)


def right(case: Case, sequences: list[TokenSequence], *, states: bool = False) -> list[F32]:
    """What the reference says, (n, width) for each sequence."""
    kv = ReferencePool(case.program, NUM_BLOCKS, case.kv_dtype)
    weights = convert(case.program, case.weights, case.weight_format)

    def run(step: Step) -> F32:
        return run_reference(case.program, weights, replace(step, states=states), kv)

    return play(run, sequences, together(sequences))


def expect_close(case: Case, found: list[F32], wanted: list[F32]) -> None:
    """Within the contract's tolerance for each instruction the result went through."""
    is_whole = case.weight_format != "stored"
    dtypes: set[DType] = {case.kv_dtype}
    for tensor in case.weights.values():
        dtypes.add("i8" if is_whole or isinstance(tensor, QuantTensor) else tensor.dtype)
    absolute, relative = (max(TOLERANCE[dtype][part] for dtype in dtypes) for part in (0, 1))
    for index, (a, b) in enumerate(zip(found, wanted, strict=True)):
        expect(a.shape == b.shape, f"{case.name}: shape {a.shape}, not {b.shape}")
        allowed = case.num_instructions * (absolute + relative * np.abs(b))
        excess = np.abs(a - b) - allowed
        expect(
            bool((excess <= 0).all()),  # NaN is never <= 0
            f"{case.name}: sequence {index} differs from the reference by {_largest(np.abs(a - b)):.2e}",
        )


def expect_same(case: Case, found: list[F32], wanted: list[F32], what: str) -> None:
    """Equal to the last bit."""
    for index, (a, b) in enumerate(zip(found, wanted, strict=True)):
        expect(
            a.shape == b.shape and a.tobytes() == b.tobytes(),
            f"{case.name}: sequence {index} depends on {what} (by {_largest(np.abs(a - b)):.2e})",
        )


def _largest(values: F32) -> float:
    return float(values.max()) if values.size else 0.0
