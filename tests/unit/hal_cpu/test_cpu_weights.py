"""Matrices made whole numbers by the native library: to the bit what hal/quantise.py says, whatever they come in."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from tests.unit.hal_cpu.test_cpu_native import backend
from thaloom.base.errors import MalformedFile
from thaloom.hal.checks import MemoryWeights
from thaloom.hal.drivers.cpu import native
from thaloom.hal.drivers.cpu.weights import PackedWeights
from thaloom.hal.ops import Program, ProgramBuilder
from thaloom.hal.quantise import quantise, quantise_as
from thaloom.hal.tensors import QuantTensor, Tensor
from thaloom.hal.testing.programs import store
from thaloom.hal.types import DType, MatrixFormat, WeightFormat

ROWS, COLUMNS = 37, 96
FORMATS: tuple[MatrixFormat, ...] = ("int8", "int8_groups", "int4")


def a_program(columns: int = COLUMNS, rows: int = ROWS, *, is_head: bool = False) -> Program:
    builder = ProgramBuilder()
    x = builder.embedding("table", vocab_size=5, width=columns)
    if is_head:
        builder.logits(x, "matrix", vocab_size=rows)
    else:
        builder.pool(builder.linear(x, "matrix", width=rows), normalise=False)
    return builder.build()


def packed(
    library_file: Path, matrix: Tensor | QuantTensor, to: MatrixFormat | Literal["stored"], num_threads: int = 1
) -> tuple[int, bytes]:
    """The native dtype of a matrix and its panels. In 8 bits heads are what gets a scale for 32 columns; their bits are
    put together again."""
    rows, columns = matrix.shape
    table = Tensor("f32", np.zeros((5, columns), np.float32))
    owner, library = backend(library_file, num_threads=num_threads), native.load(library_file)
    program = a_program(columns, rows, is_head=to == "int8_groups")
    weight_format: WeightFormat = "int8" if to == "int8_groups" else to
    weights = PackedWeights(program, MemoryWeights({"table": table, "matrix": matrix}), owner, library, weight_format)
    struct = weights.structs["matrix"]
    buffer = next(found for found in weights._arena.buffers if 0 <= struct.data - found.address < found.num_bytes)
    start = struct.data - buffer.address
    data = bytes(buffer.data[start : start + struct.num_bytes])
    weights.free()
    return (native.INT8_GROUPS, joined(data, columns)) if struct.dtype == native.INT8_SPLIT else (struct.dtype, data)


def joined(data: bytes, columns: int) -> bytes:
    """Panels of int8_split as int8_groups has them, by what split.h says of the layout, without the lengths
    behind the scales."""
    groups, scales = columns // 32, -(-columns // 64) * 64
    upper_bytes, lower_bytes = scales + 64 + groups * 384, groups * 128
    count = len(data) // (upper_bytes + lower_bytes)
    panels = np.frombuffer(data, np.uint8)
    upper = panels[: count * upper_bytes].reshape(count, upper_bytes)
    lower = panels[count * upper_bytes :].reshape(count, groups, 2, 64)
    high = upper[:, scales + 64 :].reshape(count, groups, 6, 64)
    vectors = []
    for v in range(8):
        pair = 2 * (v % 4)
        top, middle = high[:, :, v // 2] >> (v % 2 * 4) & 15, high[:, :, 4 + v // 4] >> pair & 3
        vectors.append(top << 4 | middle << 2 | lower[:, :, v // 4] >> pair & 3)
    numbers = np.stack(vectors, axis=2).reshape(count, groups * 512)
    return np.concatenate([upper[:, :scales], numbers], axis=1).astype(np.uint8).tobytes()


def values(seed: int, shape: tuple[int, int] = (ROWS, COLUMNS)) -> np.ndarray:
    """Heavy tails, zeros, tiny rows, ties, and both signs of the largest."""
    rng = np.random.default_rng(seed)
    found = rng.standard_t(2, shape).astype(np.float32)
    found[rng.random(shape) < 0.1] = 0
    found[3], found[5], found[6, 32:64] = 0, found[5] * np.float32(1e-32), -0.0
    found[7] = np.where(np.arange(shape[1]) % 2, 1.5, -1.5)
    found[8] = np.arange(shape[1]) - 40
    found[9] *= np.float32(1e-6)
    return found


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("weight_format", FORMATS)
def test_floats_become_what_the_definition_says(library_file: Path, weight_format: MatrixFormat, dtype: DType) -> None:
    for seed in range(20):
        matrix = store(values(seed), dtype)
        made = packed(library_file, matrix, weight_format)
        assert made == packed(library_file, quantise_as(matrix, weight_format), "stored")
        assert made[0] == {"int8": native.INT8, "int8_groups": native.INT8_GROUPS, "int4": native.INT4}[weight_format]


def test_eight_bits_in_groups_are_taken_as_they_come(library_file: Path) -> None:
    dtype, data = packed(library_file, quantise(values(1), 8), "int4")
    assert dtype == native.INT8_GROUPS
    assert len(data) == 3 * (-(-3 * 32 // 64) * 64 + 3 * 512)


@pytest.mark.parametrize("weight_format", FORMATS)
def test_threads_pack_what_one_packs(library_file: Path, weight_format: MatrixFormat) -> None:
    matrix = Tensor("f32", values(2, (1030, 288)))
    assert packed(library_file, matrix, weight_format, 3) == packed(library_file, matrix, weight_format, 1)


def test_what_is_packed_can_be_read_back(library_file: Path) -> None:
    """The layout itself: number and scale of every row and column are where whole.h says."""
    whole = quantise(values(4), 4)
    _, data = packed(library_file, whole, "stored")
    panels = np.frombuffer(data, np.uint8).reshape(3, 128 + 3 * 256)
    scales = panels[:, :96].copy().view(np.float16).reshape(3, 3, 16).transpose(0, 2, 1).reshape(-1, 3)[:ROWS]
    assert np.array_equal(scales.astype(np.float32), whole.scales)
    halves = panels[:, 128:].reshape(3, 3, 4, 16, 4)
    numbers = np.stack([halves & 15, halves >> 4], axis=3).transpose(0, 4, 1, 2, 3, 5).reshape(-1, COLUMNS)[:ROWS]
    assert np.array_equal(numbers.astype(np.int16) - 8, whole.data)


@pytest.mark.parametrize("spoiled", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("weight_format", FORMATS)
def test_numbers_that_are_not_finite_are_refused(
    library_file: Path, weight_format: MatrixFormat, dtype: DType, spoiled: float
) -> None:
    matrix = values(1)
    matrix[36, 95] = spoiled
    with pytest.raises(MalformedFile, match=r"'matrix' cannot be made int.: a number is not finite"):
        packed(library_file, store(matrix, dtype), weight_format)


@pytest.mark.parametrize(("weight_format", "number"), [("int4", 1e20), ("int8_groups", 1e7)])
def test_a_number_without_a_scale_is_refused(library_file: Path, weight_format: MatrixFormat, number: float) -> None:
    matrix = values(1)
    matrix[20, 5] = number
    with pytest.raises(MalformedFile, match="too large"):
        packed(library_file, Tensor("f32", matrix), weight_format)
    with pytest.raises(ValueError, match="scale"):
        quantise_as(Tensor("f32", matrix), weight_format)


def test_columns_that_are_no_whole_groups_stay_as_they_are(library_file: Path) -> None:
    dtype, _ = packed(library_file, store(values(1, (ROWS, 80)), "bf16"), "int8")
    assert dtype == native.BF16


@pytest.mark.parametrize(("weight_format", "bits"), [("int8", 8), ("int4", 4.5)])
def test_weights_take_the_bytes_they_should(library_file: Path, weight_format: WeightFormat, bits: float) -> None:
    _, data = packed(library_file, Tensor("f32", np.ones((512, 1024), np.float32)), weight_format)
    assert len(data) == pytest.approx(512 * 1024 * bits / 8, rel=0.01)


@pytest.mark.parametrize(
    "spoil",
    [
        {"num_bytes": 1},
        {"num_scales": 2},
        {"scales": None},
        {"dtype": native.SOURCE_F32},
        {"dtype": 9},
        {"num_threads": 0},
        {"num_threads": 1 << 20},
        {"data": None},
    ],
)
def test_a_source_that_does_not_fit_is_refused(library_file: Path, spoil: dict[str, int | None]) -> None:
    library, whole = native.load(library_file), quantise(np.ones((16, 32), np.float32), 8)
    num_bytes = library.packed_bytes(native.INT8_GROUPS, 1, 16, 32)
    memory = backend(library_file).allocate(num_bytes)
    target = native.Weight(data=memory.address, num_bytes=num_bytes, kind=native.MATRICES, dtype=native.INT8_GROUPS)
    target.count, target.rows, target.columns = 1, 16, 32
    fields = {
        "data": whole.data.ctypes.data,
        "num_bytes": whole.data.nbytes,
        "scales": whole.scales.ctypes.data,
        "num_scales": whole.scales.size,
        "dtype": native.SOURCE_I8,
        "num_threads": 1,
    }
    library.pack(target, native.Source(**fields))
    with pytest.raises(ValueError, match=r"fit|nothing"):
        library.pack(target, native.Source(**fields | spoil))
    memory.free()


def test_the_largest_is_packed_first_and_all_stand_in_the_programs_order(library_file: Path) -> None:
    class Noting(MemoryWeights):
        def read(self, name: str) -> Tensor | QuantTensor:
            read.append(name)
            return super().read(name)

    read: list[str] = []
    source = Noting({"table": Tensor("f32", values(0)[:5]), "matrix": Tensor("f32", values(1))})
    weights = PackedWeights(a_program(), source, backend(library_file), native.load(library_file))
    assert (read, list(weights.structs)) == (["matrix", "table"], ["table", "matrix"])
    weights.free()


@pytest.mark.parametrize("weight_format", ["stored", "int8"])
@pytest.mark.parametrize(
    ("stored", "num_heads", "wanted"),
    [("bf16", 4, native.BF16_WIDE), ("bf16", 2, native.BF16), ("f16", 4, native.F32), ("f32", 4, native.F32)],
)
def test_what_makes_shared_keys_and_values_stays_as_stored(
    library_file: Path, stored: DType, num_heads: int, wanted: int, weight_format: WeightFormat
) -> None:
    """Whatever becomes of the others, and reads floats unless those read whole numbers. Heads that share nothing have
    no such matrices."""
    builder = ProgramBuilder()
    x = builder.embedding("table", vocab_size=5, width=64)
    q, k, v = (builder.linear(x, name, width=16 * n) for name, n in (("q", num_heads), ("k", 2), ("v", 2)))
    builder.pool(builder.paged_attention(q, k, v, num_heads=num_heads, num_kv_heads=2, head_size=16), normalise=False)
    program = builder.build()
    numbers = np.random.default_rng(1).standard_normal((64, 64), np.float32)
    tensors = {name: store(numbers[: shape[0], : shape[1]], stored) for name, shape in program.weights.items()}
    made = PackedWeights(
        program, MemoryWeights(tensors), backend(library_file), native.load(library_file), weight_format
    )
    dtypes = {name: struct.dtype for name, struct in made.structs.items()}
    made.free()
    if weight_format == "int8":
        wanted = native.INT8_GROUPS if num_heads == 2 else native.BF16 if stored == "bf16" else native.F32
    assert [dtypes[name] for name in "kv"] == 2 * [wanted]
    other = native.INT8_GROUPS if weight_format == "int8" else native.BF16 if stored == "bf16" else native.F32
    assert dtypes["q"] == other
