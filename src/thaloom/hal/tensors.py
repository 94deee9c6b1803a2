"""Arrays with dtypes and scales NumPy does not know. Apart from `types`: who speaks of devices loads no arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from thaloom.hal.types import DType, WeightFormat


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
