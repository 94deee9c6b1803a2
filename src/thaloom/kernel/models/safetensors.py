"""Headers of safetensors files, read strictly: whatever a header claims is proved before anybody relies on it.

A file is 8 bytes of header length (little-endian), a JSON object that names each tensor's dtype, shape and place, and
the tensors' bytes. Source: github.com/huggingface/safetensors, README, "Format", and safetensors/src/tensor.rs
(`Metadata::validate`). Where that text is lax we are not: a name that comes twice, an unknown key, a gap or an overlap
is refused, because two readers could then disagree about what the file holds.

Cost: memory and time grow with the header alone, which is at most MAX_HEADER_BYTES; no tensor is read.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from thaloom.base.errors import MalformedFile
from thaloom.hal.types import DType

MAX_HEADER_BYTES = 16 * 1024 * 1024
"""The format allows 100 MB. A header spends some 100 bytes on a tensor, so this is 160,000 tensors in one file."""
MAX_RANK = 16
MAX_DIMENSION = 2**48
_LENGTH_BYTES = 8

DTYPE_BITS = {
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E5M2FNUZ": 8, "F8_E4M3FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip
"""Every dtype of the format and its size. Source: safetensors/src/tensor.rs, `Dtype::bitsize`."""

DTYPES: dict[str, DType] = {"F32": "f32", "F16": "f16", "BF16": "bf16", "I8": "i8", "I32": "i32"}
"""Those we can hand to a device."""

ReadAt = Callable[[int, int], bytes]
"""(offset, number of bytes) -> that many bytes, or fewer at the end of the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorPlace:
    """One tensor of a file: bytes [start, end) counted from the file's beginning."""

    name: str
    dtype: str
    """In the format's words, a key of DTYPE_BITS."""
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def num_bytes(self) -> int:
        return self.end - self.start

    @property
    def num_elements(self) -> int:
        return _product(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a file says of itself, proved. `tensors` are in the order of their bytes, without gap or overlap."""

    tensors: tuple[TensorPlace, ...]
    metadata: dict[str, str]


def read_header(file: str, num_bytes: int, read_at: ReadAt) -> Header:
    """The header of a file of `num_bytes`. Raises MalformedFile that names `file` and the rule it breaks."""
    if num_bytes < _LENGTH_BYTES:
        raise _broken(file, f"is {num_bytes} bytes long, too short for the 8 bytes of a header length")
    length = int.from_bytes(read_at(0, _LENGTH_BYTES), "little")
    if length > MAX_HEADER_BYTES:
        raise _broken(file, f"claims a header of {length} bytes; at most {MAX_HEADER_BYTES} are allowed")
    if length > num_bytes - _LENGTH_BYTES:
        raise _broken(file, f"is truncated: its header should have {length} bytes, {num_bytes - _LENGTH_BYTES} follow")
    text = read_at(_LENGTH_BYTES, length)
    if len(text) != length:
        raise _broken(file, f"is truncated: its header should have {length} bytes, {len(text)} could be read")
    fields = _parse_json(file, text)
    metadata = _metadata(file, fields.pop("__metadata__", {}))
    data_start = _LENGTH_BYTES + length
    tensors = [_place(file, name, entry, data_start) for name, entry in fields.items()]
    tensors.sort(key=lambda tensor: (tensor.start, tensor.end))
    _check_layout(file, tensors, data_start, num_bytes)
    return Header(tensors=tuple(tensors), metadata=metadata)


def _parse_json(file: str, text: bytes) -> dict[str, Any]:
    if not text.startswith(b"{"):
        raise _broken(file, "has a header that does not begin with '{'")
    try:
        fields = json.loads(
            text.decode("utf-8"),
            object_pairs_hook=_unique_pairs,
            parse_constant=_refuse_number,
            parse_float=_refuse_number,
            parse_int=_small_int,
        )
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise _broken(file, f"has a header that is not JSON of this format: {error}") from error
    assert isinstance(fields, dict)  # it begins with '{'
    return fields


def _unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name in fields:
            raise ValueError(f"{name[:200]!r} comes twice")
        fields[name] = value
    return fields


def _refuse_number(text: str) -> None:
    raise ValueError(f"{text[:40]!r} is not a whole number")


def _small_int(text: str) -> int:
    if len(text) > 20:  # longer than any 64-bit number: would only cost time to convert
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _metadata(file: str, value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise _broken(file, "has '__metadata__' that is not an object of texts")
    return value


def _place(file: str, name: str, entry: Any, data_start: int) -> TensorPlace:
    where = f"tensor {name[:200]!r}"
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise _broken(file, f"{where} must have exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise _broken(file, f"{where} has the unknown dtype {str(dtype)[:40]!r}")
    if not isinstance(shape, list) or len(shape) > MAX_RANK or not all(_whole(size, MAX_DIMENSION) for size in shape):
        raise _broken(
            file, f"{where} has an impossible shape (at most {MAX_RANK} whole numbers, none negative or huge)"
        )
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_whole(at, 2**63) for at in offsets):
        raise _broken(file, f"{where} has data_offsets that are not two whole numbers")
    start, end = offsets
    if start > end:
        raise _broken(file, f"{where} ends at {end}, before it starts at {start}")
    num_bits = _product(tuple(shape)) * DTYPE_BITS[dtype]
    if num_bits != (end - start) * 8:
        raise _broken(file, f"{where}: {dtype} of shape {shape} takes {num_bits / 8:g} bytes, not {end - start}")
    return TensorPlace(name=name, dtype=dtype, shape=tuple(shape), start=data_start + start, end=data_start + end)


def _whole(value: Any, limit: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < limit


def _product(sizes: tuple[int, ...]) -> int:
    result = 1
    for size in sizes:
        result *= size
    return result


def _check_layout(file: str, tensors: list[TensorPlace], data_start: int, num_bytes: int) -> None:
    at = data_start
    for tensor in tensors:
        if tensor.start != at:
            fault = "overlaps the one before it" if tensor.start < at else f"leaves a gap of {tensor.start - at} bytes"
            raise _broken(file, f"tensor {tensor.name[:200]!r} {fault}")
        at = tensor.end
    if at > num_bytes:
        raise _broken(file, f"is truncated: its tensors end at byte {at}, the file at {num_bytes}")
    if at < num_bytes:
        raise _broken(file, f"has {num_bytes - at} bytes after its last tensor that belong to none")


def _broken(file: str, rule: str) -> MalformedFile:
    return MalformedFile(f"{file!r} {rule}", file=file)
