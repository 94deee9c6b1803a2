"""A writer of GGUF files for tests, small and able to write what is wrong. Source: ggml docs/gguf.md."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

SCALARS = {"u8": (0, "B"), "i8": (1, "b"), "u16": (2, "H"), "i16": (3, "h"), "u32": (4, "I"), "i32": (5, "i"),
           "f32": (6, "f"), "bool": (7, "B"), "u64": (10, "Q"), "i64": (11, "q"), "f64": (12, "d")}  # fmt: skip
STRING, ARRAY = 8, 9


@dataclass(frozen=True)
class Typed:
    """A value written as exactly this type."""

    kind: str
    value: Any


@dataclass(frozen=True)
class Blocks:
    """A tensor: its type's number, its shape as NumPy has it (rows first), its bytes."""

    number: int
    shape: tuple[int, ...]
    data: bytes


def f32(values: np.ndarray) -> Blocks:
    return Blocks(0, values.shape, np.ascontiguousarray(values, "<f4").tobytes())


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def value(item: Any) -> bytes:
    """Type and value. Whole numbers are u32, floats f32, lists arrays of their first element's type."""
    kind, body = _parts(item)
    return struct.pack("<I", kind) + body


def _parts(item: Any) -> tuple[int, bytes]:
    if isinstance(item, Typed):
        number, code = SCALARS[item.kind]
        if isinstance(item.value, list | np.ndarray):
            packed = b"".join(struct.pack("<" + code, one) for one in item.value)
            return ARRAY, struct.pack("<IQ", number, len(item.value)) + packed
        return number, struct.pack("<" + code, item.value)
    if isinstance(item, bool):
        return 7, bytes([item])
    if isinstance(item, int):
        return 4, struct.pack("<I", item)
    if isinstance(item, float):
        return 6, struct.pack("<f", item)
    if isinstance(item, str | bytes):
        return STRING, text(item)
    parts = [_parts(one) for one in item]
    kind = parts[0][0] if parts else STRING
    return ARRAY, struct.pack("<IQ", kind, len(parts)) + b"".join(body for _, body in parts)


def encode_gguf(
    metadata: Mapping[str, Any],
    tensors: Mapping[str, Blocks] | Sequence[tuple[str, Blocks]],
    *,
    version: int = 3,
    alignment: int = 32,
    offsets: Sequence[int] | None = None,
) -> bytes:
    """A whole file. `offsets` replaces the right ones."""
    entries = list(tensors.items()) if isinstance(tensors, Mapping) else list(tensors)
    header = b"GGUF" + struct.pack("<IQQ", version, len(entries), len(metadata))
    header += b"".join(text(key) + value(item) for key, item in metadata.items())
    body = b""
    for i, (name, tensor) in enumerate(entries):
        body += b"\0" * (-len(body) % alignment)
        offset = len(body) if offsets is None else offsets[i]
        shape = tuple(reversed(tensor.shape))
        header += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, tensor.number, offset)
        body += tensor.data
    return header + b"\0" * (-len(header) % alignment) + body
