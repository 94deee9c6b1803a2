"""Tensors between JSON, raw bytes and the runtime's form: pure. Every refusal names its input."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

from thaloom.base.errors import BadParameter, BadRequest
from thaloom.edge.wire.kserve import InferenceRequest, RequestInput, ResponseOutput
from thaloom.work.runtime.types import TensorValue

CODES = {
    "BOOL": "?", "UINT8": "B", "UINT16": "H", "UINT32": "I", "UINT64": "Q", "INT8": "b", "INT16": "h", "INT32": "i",
    "INT64": "q", "FP16": "e", "FP32": "f", "FP64": "d",
}  # fmt: skip
MOST_DEPTH = 16


def inputs_of(asked: InferenceRequest, raw: bytes) -> tuple[TensorValue, ...]:
    """`raw`: what followed the JSON. Raises BadParameter, BadRequest if `raw` is more or less than the inputs say."""
    values, at = [], 0
    for index, tensor in enumerate(asked.inputs):
        where = f"inputs[{index}]"
        size = None if tensor.parameters is None else tensor.parameters.binary_data_size
        if (size is None) == (tensor.data is None):
            raise BadParameter(f"{where} needs either data or parameters.binary_data_size", param=f"{where}.data")
        if size is None:
            data = _packed(tensor, where)
        else:
            data = raw[at : at + size]
            if len(data) != size:
                raise BadRequest(f"{where} should have {size} bytes behind the JSON; {len(data)} are there")
            at += size
        values.append(TensorValue(name=tensor.name, dtype=tensor.datatype, shape=tuple(tensor.shape), data=data))
    if at != len(raw):
        raise BadRequest(f"inputs: {len(raw) - at} bytes behind the JSON belong to none of them")
    return tuple(values)


def output_of(value: TensorValue, *, binary: bool) -> ResponseOutput:
    """Without its bytes if `binary`: they follow the JSON. Raises BadParameter for what JSON cannot say."""
    told: dict[str, Any] = (
        {"parameters": {"binary_data_size": len(value.data)}} if binary else {"data": _unpacked(value)}
    )
    return ResponseOutput.model_construct(name=value.name, shape=list(value.shape), datatype=value.dtype, **told)


def _packed(tensor: RequestInput, where: str) -> bytes:
    flat: list[Any] = []
    _flatten(tensor.data or [], flat, where, 0)
    if len(flat) != math.prod(tensor.shape):
        raise BadParameter(
            f"{where}.data has {len(flat)} elements; its shape asks for {math.prod(tensor.shape)}",
            param=f"{where}.data",
        )
    kinds: tuple[type, ...] = {"BOOL": (bool,), "BYTES": (str,)}.get(
        tensor.datatype, (int, float) if tensor.datatype.startswith("FP") else (int,)
    )
    for element in flat:
        if not isinstance(element, kinds) or (isinstance(element, bool) and bool not in kinds):
            raise BadParameter(f"{where}.data has an element that is no {tensor.datatype}", param=f"{where}.data")
    try:
        if tensor.datatype == "BYTES":
            return b"".join(struct.pack("<I", len(text)) + text for text in (element.encode() for element in flat))
        return struct.pack(f"<{len(flat)}{CODES[tensor.datatype]}", *flat)
    except (struct.error, OverflowError, UnicodeEncodeError) as error:
        raise BadParameter(
            f"{where}.data does not fit into {tensor.datatype}: {error}", param=f"{where}.data"
        ) from error


def _flatten(data: Sequence[Any], flat: list[Any], where: str, depth: int) -> None:
    if depth > MOST_DEPTH:
        raise BadParameter(f"{where}.data is nested more than {MOST_DEPTH} deep", param=f"{where}.data")
    for element in data:
        if isinstance(element, list):
            _flatten(element, flat, where, depth + 1)
        else:
            flat.append(element)


def _unpacked(value: TensorValue) -> list[Any]:
    if value.dtype != "BYTES":
        found: list[Any] = list(struct.unpack(f"<{math.prod(value.shape)}{CODES[value.dtype]}", value.data))
        if value.dtype.startswith("FP") and not all(map(math.isfinite, found)):
            raise BadParameter(
                f"output {value.name!r} has values that are no numbers, which JSON cannot say: ask for binary_data",
                param="outputs",
            )
        return found
    found, at = [], 0
    while at < len(value.data):
        (length,) = struct.unpack_from("<I", value.data, at)
        found.append(value.data[at + 4 : at + 4 + length].decode(errors="replace"))
        at += 4 + length
    return found
