"""Builds agree with each other, also those of other machines: what is exact is the same to the bit in all of them.

The digests were written down from one build and hold for every one that is tested anywhere, on a processor or under
emulation (tools/aarch64.py). Weights come from whole-number arithmetic, so they hold with any NumPy too.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from thaloom.hal.drivers.cpu.driver import CpuDriver
from thaloom.hal.drivers.cpu.probe import DEVICE_ID
from thaloom.hal.ops import ProgramBuilder
from thaloom.hal.tensors import QuantTensor, Tensor, bf16_from_f32
from thaloom.hal.testing.bench import bench
from thaloom.hal.testing.programs import Case
from thaloom.hal.testing.schedules import TokenSequence, together
from thaloom.hal.types import DType

INPUTS, WIDTH, ROWS = 160, 48, 13


def numbers(rows: int, columns: int, modulus: int) -> np.ndarray:
    """Whole numbers from 0 to modulus - 1 that look random."""
    index = np.arange(rows * columns, dtype=np.uint64).reshape(rows, columns)
    return (((index + np.uint64(1)) * np.uint64(2654435761) >> np.uint64(7)) % np.uint64(modulus)).astype(np.int64)


def whole(bits: int, group: int) -> QuantTensor:
    reach = 127 if bits == 8 else 7
    data = (numbers(WIDTH, INPUTS, 2 * reach + 1) - reach).astype(np.int8)
    scales = np.exp2(-(8.0 + numbers(WIDTH, INPUTS // group, 3)))
    return QuantTensor(bits=8 if bits == 8 else 4, data=data, scales=scales.astype(np.float32))


def product(matrix: Tensor | QuantTensor, *, spread: int) -> np.ndarray:
    """(ROWS, WIDTH) of activations times the matrix. Activations are whole numbers / 64 below `spread` / 64."""
    builder = ProgramBuilder()
    x = builder.embedding("embedding", vocab_size=61, width=INPUTS)
    builder.pool(builder.linear(x, "matrix", width=WIDTH), normalise=False)
    table = (numbers(61, INPUTS, 2 * spread + 1) - spread).astype(np.float32) / 64
    weights = {"embedding": Tensor("f32", table), "matrix": matrix}
    case = Case(name="agree", program=builder.build(), weights=weights)
    tokens = np.arange(ROWS, dtype=np.int32)
    sequences = [TokenSequence(tokens=tokens, table=np.arange(1, dtype=np.int32))]
    with bench(CpuDriver().open(DEVICE_ID, num_threads=1), case) as ready:
        return ready.play(sequences, together(sequences))[0]


def digest(values: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(values, "<f4").tobytes()).hexdigest()[:16]


MATRICES: dict[str, Tensor | QuantTensor] = {
    "f32": Tensor("f32", ((numbers(WIDTH, INPUTS, 2001) - 1000) / 77.7).astype(np.float32)),
    "int8": whole(8, INPUTS),
    "int8 in groups": whole(8, 32),
    "int4": whole(4, 32),
}
ONE_ROUNDING = {
    "f32": "ef7d7229f93fa0ad",
    "int8": "42cde52e34c3096c",
    "int8 in groups": "f6ee6c02a02e6513",
    "int4": "e17587b0eaea99b2",
}
TWO_ROUNDINGS = {
    "f32": "4bfcdd26067ade47",
    "int8": "f039dd4d648616a3",
    "int8 in groups": "4d08a350573d6c77",
    "int4": "d5c2c5576229951a",
}
"""Of builds for processors without a fused multiply-add."""


@pytest.mark.parametrize("name", MATRICES)
def test_builds_give_the_same_bits(build: str, name: str) -> None:
    wanted = TWO_ROUNDINGS if "v2" in build or "generic" in build else ONE_ROUNDING
    assert digest(product(MATRICES[name], spread=1000)) == wanted[name]


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_what_has_no_rounding_is_exact(build: str, dtype: DType) -> None:
    """Also in bf16, where the products of pairs round each in their own way."""
    matrix = numbers(WIDTH, INPUTS, 15) - 7
    values = matrix.astype(np.float32)
    tensor = Tensor(dtype, bf16_from_f32(values) if dtype == "bf16" else values)
    wanted = (numbers(61, INPUTS, 255) - 127)[:ROWS] @ matrix.T / 64
    np.testing.assert_array_equal(product(tensor, spread=127), wanted)
