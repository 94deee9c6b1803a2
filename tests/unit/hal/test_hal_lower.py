"""Every operator composed from plain ones gives what the reference gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from thaloom.hal.lower import SUPPORT, LoweredBackend
from thaloom.hal.numpy_ops import Array, NumpyOps
from thaloom.hal.testing.bench import bench, expect_close, right, sequences_for
from thaloom.hal.testing.programs import operator_cases, operator_names, tiny_model
from thaloom.hal.testing.schedules import chopped, together
from thaloom.hal.testing.suite import expect
from thaloom.hal.types import Device

DEVICE = Device(
    id="weak", driver="test", kind="npu", name="weak chip", vendor="thaloom", memory_bytes=1 << 28, num_cores=1,
    dtypes=frozenset({"f32"}), isolation="none",
)  # type: ignore[arg-type]  # fmt: skip
CASES = [case for operator in operator_names() for case in operator_cases(operator) if case.kv_dtype == "f32"]


class Counting(NumpyOps):
    """Notes the shapes that multiplications come in."""

    def __init__(self) -> None:
        self.shapes: set[tuple[Any, ...]] = set()

    def matmul(self, a: Array, b: Array) -> Array:
        self.shapes.add((a.shape, b.shape))
        return super().matmul(a, b)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_operator(case: Any) -> None:
    sequences = sequences_for(case)
    schedules = [together(sequences)] + ([chopped(sequences, np.random.default_rng(2))] if case.cuttable else [])
    for schedule in schedules:
        with bench(LoweredBackend(NumpyOps(), DEVICE), case) as made:
            expect_close(case, made.play(sequences, schedule), right(case, sequences))


def test_every_operator_is_claimed_at_the_lowest_level() -> None:
    assert set(SUPPORT.levels) == set(operator_names())
    assert set(SUPPORT.levels.values()) == {"L1"}
    assert not SUPPORT.exact
    assert LoweredBackend(NumpyOps(), DEVICE, degraded="for a test").degraded == "for a test"


def test_shapes_are_few() -> None:
    """Steps of 33 to 64 rows, with contexts of one size class, look alike to the chip."""
    case = tiny_model(2)
    seen: list[set[tuple[Any, ...]]] = []
    for length in (33, 40, 64):
        ops = Counting()
        sequences = sequences_for(case, lengths=(length,))
        with bench(LoweredBackend(ops, DEVICE), case) as made:
            made.play(sequences, together(sequences))
        seen.append(ops.shapes)
    expect(seen[0] == seen[1] == seen[2], f"shapes differ: {seen}")


def test_a_pool_starts_from_zero_for_each_program() -> None:
    case = tiny_model(2)
    backend = LoweredBackend(NumpyOps(), DEVICE)
    sequences = sequences_for(case)
    with bench(backend, case) as made:
        made.play(sequences, together(sequences))
        made.executable.bind_pool(backend.allocate(24 * made.executable.block_bytes), 24)
        expect_close(case, made.play(sequences, together(sequences)), right(case, sequences))


def _shape(values: Sequence[float]) -> Array:
    return np.array(values, np.float32)


def test_numpy_ops_keep_f32_and_count_ties_from_the_lowest() -> None:
    ops = NumpyOps()
    assert ops.reduce("argmax", _shape([1, 3, 3])).tolist() == [1.0]
    assert ops.binary("less", _shape([1, 2]), _shape([2, 2])).tolist() == [1.0, 0.0]
    for found in (ops.unary("exp", _shape([1000.0])), ops.softmax(_shape([1, 2])), ops.reduce("sum", _shape([1, 2]))):
        assert found.dtype == np.float32
