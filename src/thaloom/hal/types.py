"""Facts about hardware, with units. Frozen, self-checking, holding no handles. Absent is None, never 0."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

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
