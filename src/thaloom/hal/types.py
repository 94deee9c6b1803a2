"""Facts about hardware, with units. Frozen, self-checking, holding no handles. Absent is None, never 0."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from thaloom.base.ids import DeviceId

DeviceKind = Literal["cpu", "gpu", "npu", "tpu", "fpga", "virtual"]
DType = Literal["f32", "f16", "bf16", "i8", "i32"]
Isolation = Literal["none", "time", "process", "hardware"]
Health = Literal["healthy", "degraded", "lost"]
WeightFormat = Literal["stored", "int8", "int4"]
"""How a driver keeps matrices: as they come, or in whole numbers of so many bits with scales."""
MatrixFormat = Literal["int8", "int8_groups", "int4"]
"""What one matrix becomes: 8 bits with a scale for each row, or for each 32 columns; 4 bits with one for each 32."""
Level = Literal["L1", "L2", "L3"]
"""How a driver runs an operator. L1: composed from plain tensor operators (hal/lower.py); L2: natively;
L3: natively inside one call for the whole step, pages updated in place."""

DTYPE_BYTES: dict[DType, int] = {"f32": 4, "f16": 2, "bf16": 2, "i8": 1, "i32": 4}
ISOLATION_ORDER: dict[Isolation, int] = {"none": 0, "time": 1, "process": 2, "hardware": 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    """One level of cache as one core sees it."""

    level: int
    kind: Literal["data", "instruction", "unified"]
    size_bytes: int
    shared_by: int
    """Number of logical processors that share it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A unit of compute that a driver found. `id` survives reboots and re-ordering of indices."""

    id: DeviceId
    driver: str
    kind: DeviceKind
    name: str
    vendor: str
    memory_bytes: int
    num_cores: int
    dtypes: frozenset[DType]
    isolation: Isolation
    """The strongest isolation a slice of this device can really be given."""
    features: tuple[str, ...] = ()
    """Instruction sets or capabilities, in the vendor's own words, sorted."""
    build: str | None = None
    """The build of the driver's library that programs run on here; None where there is only one way, or none."""
    unused: tuple[str, ...] = ()
    """Of the features, those that could make programs faster and that no build of ours uses."""
    caches: tuple[Cache, ...] = ()
    numa_node: int | None = None

    def __post_init__(self) -> None:
        if not self.id:
            raise ValueError("a device needs an id")
        if self.memory_bytes < 0 or self.num_cores < 0:
            raise ValueError(f"device {self.id!r}: sizes cannot be negative")


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A path for data between two devices, or between NUMA nodes of one (`cpu/node0`)."""

    a: str
    b: str
    kind: Literal["memory", "pcie", "nvlink", "network"]
    bandwidth_bytes_per_s: float | None = None
    latency_s: float | None = None
    distance: int | None = None
    """The firmware's relative NUMA distance (10 = local), where that is all it tells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a device reports of itself at one moment. A metric it cannot report is None."""

    device: DeviceId
    health: Health
    memory_used_bytes: int | None = None
    memory_free_bytes: int | None = None
    utilisation: float | None = None
    """Share of the device's compute in use since the previous reading, 0 to 1."""
    power_mw: int | None = None
    temperature_c: float | None = None
    errors: int | None = None
    """Uncorrected errors since boot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """A lease on part of a device. Compute is in thousandths of the whole."""

    device: DeviceId
    memory_bytes: int
    compute_permille: int = 1000
    power_mw: int | None = None
    isolation: Isolation = "none"

    def __post_init__(self) -> None:
        if self.memory_bytes < 0 or not 0 < self.compute_permille <= 1000:
            raise ValueError(f"impossible slice of {self.device!r}: {self.memory_bytes} B, {self.compute_permille}‰")


@dataclass(frozen=True, slots=True, kw_only=True)
class Support:
    """At which level a driver runs each operator, and what it promises about results."""

    levels: dict[str, Level] = field(default_factory=dict)
    """Operator name -> level. An operator that is not listed is refused by `compile`."""
    exact: bool = False
    """A row's result does not depend, to the bit, on the other rows, on chunking, pages or threads."""
    weight_dtypes: frozenset[DType] = frozenset({"f32"})
    kv_dtypes: frozenset[DType] = frozenset({"f32"})
    weight_formats: frozenset[WeightFormat] = frozenset({"stored"})
    """What it can make of matrices, and in which of them it takes a QuantTensor."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """Numbers with a dtype NumPy may not know: bf16 data is a uint16 array of its bits.

    `data` is C-contiguous and must not be written to by whoever receives it.
    """

    dtype: DType
    data: NDArray[np.generic]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    def to_f32(self) -> NDArray[np.float32]:
        """A float32 copy (or the data itself where it is float32 already)."""
        if self.dtype == "bf16":
            return (self.data.astype(np.uint32) << 16).view(np.float32)
        return self.data.astype(np.float32, copy=False)


GROUP = 32
"""Columns that share a scale, in a matrix of whole numbers that has more than one a row."""


@dataclass(frozen=True, slots=True)
class QuantTensor:
    """A matrix, or a stack of them, in whole numbers: value[..., r, c] = data[..., r, c] * scales[..., r, c // group].

    `data`: int8 (..., rows, columns), within [-127, 127] for 8 bits and [-8, 7] for 4, a byte each in memory here.
    `scales`: float32 (..., rows, columns // group), finite and of either sign. With one scale a row, group is
    `columns`; else it is 32 and every scale is a number of f16. 4 bits always come in groups of 32. Columns are
    whole groups of 32. Neither array may be written to by whoever receives it.

    Raises ValueError for anything else. Cost: reads all of it once.
    """

    bits: Literal[4, 8]
    data: NDArray[np.int8]
    scales: NDArray[np.float32]

    def __post_init__(self) -> None:
        rows, columns, groups = self.data.shape[:-1], self.data.shape[-1], self.scales.shape[-1]
        if self.bits not in (4, 8) or self.data.dtype != np.int8 or self.scales.dtype != np.float32:
            raise ValueError(f"no matrix of whole numbers: {self.bits} bits, {self.data.dtype}, {self.scales.dtype}")
        is_one_a_row = groups == 1 and self.bits == 8
        if not rows or not self.data.size or columns % GROUP or not (is_one_a_row or groups * GROUP == columns):
            raise ValueError(f"{self.data.shape} whole numbers of {self.bits} bits cannot have {groups} scales a row")
        if self.scales.shape[:-1] != rows:
            raise ValueError(f"{self.data.shape} whole numbers cannot have {self.scales.shape} scales")
        least, most = (-127, 127) if self.bits == 8 else (-8, 7)
        if self.data.min() < least or self.data.max() > most:
            raise ValueError(f"a number of {self.bits} bits is outside [{least}, {most}]")
        with np.errstate(over="ignore"):
            kept = self.scales if is_one_a_row else self.scales.astype(np.float16).astype(np.float32)
        if not np.isfinite(kept).all() or not np.array_equal(kept, self.scales):
            raise ValueError("a scale is not finite" + ("" if is_one_a_row else ", or not a number of f16"))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def group(self) -> int:
        """Columns that share a scale."""
        group: int = self.data.shape[-1] // self.scales.shape[-1]
        return group

    @property
    def format(self) -> WeightFormat:
        return "int8" if self.bits == 8 else "int4"

    def to_f32(self) -> NDArray[np.float32]:
        groups = self.data.reshape(*self.scales.shape, self.group).astype(np.float32)
        return (groups * self.scales[..., None]).reshape(self.shape)


def bf16_from_f32(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Round to nearest, ties to even, as hardware does; NaN stays NaN. Returns the bits."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)
