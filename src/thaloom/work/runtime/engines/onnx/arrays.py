"""Tensors as they travel, and as NumPy has them. Source: Open Inference Protocol, "Tensor Data Types"."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thaloom.base.errors import BadParameter
from thaloom.kernel.models.types import ModelTensor
from thaloom.work.runtime.types import TensorValue

NUMPY: Mapping[str, str] = {
    "FP16": "<f2", "FP32": "<f4", "FP64": "<f8", "INT8": "<i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8",
    "UINT8": "<u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "BOOL": "|b1", "BYTES": "|O",
}  # fmt: skip
NAMES = {np.dtype(code): name for name, code in NUMPY.items()}
Array = NDArray[Any]


def array_of(value: TensorValue, wanted: ModelTensor) -> Array:
    """Raises BadParameter naming the input and what it should be."""
    where = f"input {value.name!r}"
    if value.dtype != wanted.dtype:
        raise BadParameter(f"{where} is {value.dtype}, the model takes {wanted.dtype}", param="inputs")
    if wanted.shape is not None and not _fits(value.shape, wanted.shape):
        raise BadParameter(
            f"{where} has the shape {list(value.shape)}, the model takes {list(wanted.shape)} (-1: any)", param="inputs"
        )
    count = math.prod(value.shape)
    if value.dtype == "BYTES":
        return _texts(value, count, where)
    dtype = np.dtype(NUMPY[value.dtype])
    if len(value.data) != count * dtype.itemsize:
        raise BadParameter(
            f"{where} has {len(value.data)} bytes; its shape asks for {count * dtype.itemsize}", param="inputs"
        )
    try:
        return np.frombuffer(value.data, dtype).reshape(value.shape)
    except ValueError as error:  # nothing at all, in a shape beyond what can be counted
        raise BadParameter(f"{where} has an impossible shape", param="inputs") from error


def value_of(name: str, array: Array) -> TensorValue:
    dtype = "BYTES" if array.dtype.kind in "OUS" else NAMES[array.dtype]
    if dtype == "BYTES":
        parts = [text if isinstance(text, bytes) else str(text).encode() for text in array.ravel().tolist()]
        data = b"".join(struct.pack("<I", len(part)) + part for part in parts)
    else:
        data = np.ascontiguousarray(array).tobytes()
    return TensorValue(name=name, dtype=dtype, shape=array.shape, data=data)


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return len(shape) == len(wanted) and all(
        size == want or want == -1 for size, want in zip(shape, wanted, strict=True)
    )


def _texts(value: TensorValue, count: int, where: str) -> Array:
    found, at = [], 0
    while at < len(value.data):
        if at + 4 > len(value.data):
            raise BadParameter(f"{where} ends in the middle of a length", param="inputs")
        (length,) = struct.unpack_from("<I", value.data, at)
        part = value.data[at + 4 : at + 4 + length]
        if len(part) != length:
            raise BadParameter(f"{where} ends in the middle of an element", param="inputs")
        try:
            found.append(part.decode())
        except UnicodeDecodeError as error:
            raise BadParameter(f"{where} has an element that is not UTF-8", param="inputs") from error
        at += 4 + length
    if len(found) != count:
        raise BadParameter(f"{where} has {len(found)} elements; its shape asks for {count}", param="inputs")
    array = np.empty(count, object)
    array[:] = found
    return array.reshape(value.shape)
