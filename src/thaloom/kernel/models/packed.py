"""Matrices of whole numbers in safetensors files, in Thaloom's own naming.

A matrix `NAME` (rows, columns) of 8 bits is two tensors: `NAME.q8`, I8 of its shape, and `NAME.scales`: F32 (rows, 1)
with one scale a row, or F16 (rows, columns / 32). One of 4 bits is `NAME.q4`, U8 (rows, columns / 2), and
`NAME.scales`, F16 (rows, columns / 32). Byte c of a row of `.q4` holds column 2 c in its low half and column 2 c + 1
in its high one, each plus 8. What each number means: hal.types.QuantTensor. Any reader of safetensors can open such a
file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from thaloom.base.errors import MalformedFile
from thaloom.hal.tensors import GROUP, QuantTensor
from thaloom.kernel.models.safetensors import TensorPlace

SCALES = ".scales"
NUMBERS: dict[str, Literal[4, 8]] = {".q8": 8, ".q4": 4}


@dataclass(frozen=True, slots=True)
class PackedPlace:
    """Where one matrix of whole numbers is."""

    name: str
    bits: Literal[4, 8]
    shape: tuple[int, ...]
    numbers: TensorPlace
    scales: TensorPlace

    @property
    def num_elements(self) -> int:
        return self.numbers.num_elements * (2 if self.bits == 4 else 1)


def find_packed(tensors: Mapping[str, TensorPlace]) -> dict[str, PackedPlace]:
    """Name -> matrix, of all tensors of a model. Raises MalformedFile for numbers that do not fit their scales."""
    found = {}
    for stored, numbers in tensors.items():
        name, bits = stored[:-3], NUMBERS.get(stored[-3:])
        if bits is None:
            continue
        scales = tensors.get(name + SCALES)
        if scales is None or name in tensors or name in found:
            fault = "has no scales" if scales is None else "is there in another form too"
            raise MalformedFile(f"tensor {stored[:200]!r} {fault}", tensor=stored)
        found[name] = _place(name, bits, numbers, scales)
    return found


def _place(name: str, bits: Literal[4, 8], numbers: TensorPlace, scales: TensorPlace) -> PackedPlace:
    columns = (numbers.shape[-1] if numbers.shape else 0) * (2 if bits == 4 else 1)
    groups = scales.shape[-1] if scales.shape else 0
    by_row = bits == 8 and groups == 1
    sound = (
        len(numbers.shape) >= 2
        and numbers.num_elements > 0
        and columns % GROUP == 0
        and numbers.dtype == {8: "I8", 4: "U8"}[bits]
        and scales.shape[:-1] == numbers.shape[:-1]
        and (by_row or groups * GROUP == columns)
        and scales.dtype == ("F32" if by_row else "F16")
    )
    if not sound:
        raise MalformedFile(
            f"tensor {numbers.name[:200]!r} ({numbers.dtype} {list(numbers.shape)}) and its scales "
            f"({scales.dtype} {list(scales.shape)}) do not make a matrix of {bits} bits",
            tensor=numbers.name,
        )
    return PackedPlace(name, bits, (*numbers.shape[:-1], columns), numbers, scales)


def pack(matrix: QuantTensor) -> tuple[str, NDArray[np.generic], NDArray[np.generic]]:
    """(suffix, the numbers as they are stored, the scales as they are stored)."""
    scales = matrix.scales if matrix.group == matrix.shape[-1] and matrix.bits == 8 else matrix.scales.astype("<f2")
    if matrix.bits == 8:
        return ".q8", matrix.data, scales
    shifted = (matrix.data + np.int8(8)).view(np.uint8)
    return ".q4", shifted[..., 0::2] | (shifted[..., 1::2] << np.uint8(4)), scales


def unpack(place: PackedPlace, numbers: NDArray[np.uint8], scales: NDArray[np.uint8]) -> QuantTensor:
    """From the bytes at the two places. Raises MalformedFile if they are no numbers of this kind."""
    stored_scales = scales.view("<f4" if place.scales.dtype == "F32" else "<f2").astype(np.float32)
    if place.bits == 8:
        data = numbers.view(np.int8)
    else:
        both = np.empty((numbers.size, 2), np.int8)
        both[:, 0] = (numbers & 15).view(np.int8) - np.int8(8)
        both[:, 1] = (numbers >> np.uint8(4)).view(np.int8) - np.int8(8)
        data = both
    try:
        return QuantTensor(place.bits, data.reshape(place.shape), stored_scales.reshape(place.scales.shape))
    except ValueError as error:
        raise MalformedFile(f"tensor {place.numbers.name!r}: {error}", tensor=place.numbers.name) from error
