"""Headers of GGUF files, read strictly: whatever a header claims is proved before anybody relies on it.

A file is a magic, a version, two counts, typed metadata, one entry for each tensor, and the tensors' bytes at aligned
offsets. Source: github.com/ggml-org/ggml, docs/gguf.md (versions 2 and 3). Where that text is lax we are not: a key or
a tensor that comes twice, an array of arrays, a gap or an overlap is refused, because two readers could then disagree
about what the file holds.

Cost: memory and time grow with the header alone, which is at most MAX_HEADER_BYTES; no tensor is read. A count or a
length is compared with the bytes that are left before anything is made of it, so no number in a file asks for memory
that the file itself does not fill.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thaloom.base.errors import MalformedFile, NotServable

MAGIC = b"GGUF"
MAX_HEADER_BYTES = 64 * 1024 * 1024
"""A vocabulary of 256,000 tokens with its merges takes some 12 MB."""
MAX_STRINGS = 2**21
"""In all arrays together: each costs some 60 bytes of memory, however short it is in the file."""
MAX_ENTRIES = 2**16
"""Metadata keys, and tensors."""
MAX_TENSOR_NAME_BYTES = 63
"""Source: ggml.h, GGML_MAX_NAME."""
MAX_RANK = 4
MAX_DIMENSION = 2**48
_DEFAULT_ALIGNMENT = 32
_MAX_ALIGNMENT = 2**16
_READ_BYTES = 1024 * 1024

Value = bool | int | float | str | NDArray[np.generic] | tuple[str, ...]
ReadAt = Callable[[int, int], bytes]
"""(offset, number of bytes) -> that many bytes, or fewer at the end of the file."""

_UINT32, _BOOL, _STRING, _ARRAY = 4, 7, 8, 9
_SCALARS: dict[int, str] = {
    0: "u1", 1: "i1", 2: "u2", 3: "i2", 4: "u4", 5: "i4", 6: "f4", 7: "u1", 10: "u8", 11: "i8", 12: "f8",
}  # fmt: skip
"""Value types of fixed size, as NumPy names them (little-endian); 7 is a bool."""


@dataclass(frozen=True, slots=True)
class BlockType:
    """How numbers lie in a tensor: blocks of `elements`, each `num_bytes` long."""

    name: str
    elements: int
    num_bytes: int


BLOCK_TYPES: dict[int, BlockType] = {
    number: BlockType(name, elements, num_bytes)
    for number, name, elements, num_bytes in (
        (0, "F32", 1, 4), (1, "F16", 1, 2), (2, "Q4_0", 32, 18), (3, "Q4_1", 32, 20), (6, "Q5_0", 32, 22),
        (7, "Q5_1", 32, 24), (8, "Q8_0", 32, 34), (10, "Q2_K", 256, 84), (11, "Q3_K", 256, 110),
        (12, "Q4_K", 256, 144), (13, "Q5_K", 256, 176), (14, "Q6_K", 256, 210),
        (16, "IQ2_XXS", 256, 66), (17, "IQ2_XS", 256, 74), (18, "IQ3_XXS", 256, 98), (19, "IQ1_S", 256, 50),
        (20, "IQ4_NL", 32, 18), (21, "IQ3_S", 256, 110), (22, "IQ2_S", 256, 82), (23, "IQ4_XS", 256, 136),
        (24, "I8", 1, 1), (25, "I16", 1, 2), (26, "I32", 1, 4), (27, "I64", 1, 8), (28, "F64", 1, 8),
        (29, "IQ1_M", 256, 56), (30, "BF16", 1, 2), (34, "TQ1_0", 256, 54), (35, "TQ2_0", 256, 66),
        (39, "MXFP4", 32, 17),
    )
}  # fmt: skip
"""Every type that files hold. Source: ggml.h, `enum ggml_type`; ggml-common.h, the block structs. (Q8_1 and Q8_K are
forms of activations and never stored.)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufTensor:
    """One tensor of a file: bytes [start, end) counted from the file's beginning."""

    name: str
    block: BlockType
    shape: tuple[int, ...]
    """Rows before columns, as NumPy has it: the reverse of the order in the file."""
    start: int
    end: int

    @property
    def num_bytes(self) -> int:
        return self.end - self.start


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufHeader:
    """What a file says of itself, proved. `tensors` are in the order of their bytes."""

    version: int
    metadata: dict[str, Value]
    """Arrays of numbers as NumPy arrays, arrays of texts as tuples."""
    tensors: tuple[GgufTensor, ...]


def read_gguf(file: str, num_bytes: int, read_at: ReadAt) -> GgufHeader:
    """The header of a file of `num_bytes`. Raises MalformedFile that names `file` and the rule it breaks; NotServable
    for what is sound but not read here (version 1, big-endian, one file of several, an unknown tensor type)."""
    cursor = _Cursor(file, num_bytes, read_at)
    if cursor.take(4, "the magic") != MAGIC:
        raise broken(file, "does not begin with 'GGUF'")
    version = cursor.uint32("the version")
    if version not in (2, 3):
        if version in (2 << 24, 3 << 24):
            raise NotServable(f"{file!r} is big-endian GGUF; only little-endian is read", param="path")
        raise NotServable(f"{file!r} is GGUF version {version}; versions 2 and 3 are read", param="path")
    num_tensors = cursor.count("tensors", least_bytes=24)
    num_keys = cursor.count("metadata keys", least_bytes=13)
    metadata = _metadata(cursor, num_keys)
    alignment = _alignment(file, metadata)
    split_count = metadata.get("split.count", 1)
    if isinstance(split_count, int) and split_count > 1:
        raise NotServable(f"{file!r} is one of {split_count} files; join them first", param="path")
    entries = [_tensor(cursor) for _ in range(num_tensors)]
    tensors = _place(file, entries, _align(cursor.at, alignment), alignment, num_bytes)
    return GgufHeader(version=version, metadata=metadata, tensors=tensors)


def broken(file: str, rule: str) -> MalformedFile:
    return MalformedFile(f"{file!r} {rule}", file=file)


class _Cursor:
    """Reads a header from its beginning on, never past the file's end or MAX_HEADER_BYTES."""

    def __init__(self, file: str, num_bytes: int, read_at: ReadAt) -> None:
        self.file = file
        self.at = 0
        self._num_bytes = num_bytes
        self._read_at = read_at
        self._read = bytearray()
        self._num_strings = 0

    @property
    def left(self) -> int:
        return min(self._num_bytes, MAX_HEADER_BYTES) - self.at

    def take(self, num_bytes: int, what: str) -> memoryview:
        """The next bytes. Raises MalformedFile before anything is read if they cannot be there."""
        if num_bytes > self.left:
            if self._num_bytes > MAX_HEADER_BYTES:
                raise broken(self.file, f"has a header of more than {MAX_HEADER_BYTES} bytes ({what})")
            raise broken(self.file, f"is truncated: {what} should have {num_bytes} bytes, {self.left} are left")
        end = self.at + num_bytes
        if end > len(self._read):
            # A new buffer: whoever holds a view of the old one keeps it alive.
            wanted = min(max(end, len(self._read) + _READ_BYTES), self._num_bytes, MAX_HEADER_BYTES)
            self._read = self._read + self._read_at(len(self._read), wanted - len(self._read))
            if end > len(self._read):
                raise broken(self.file, f"is truncated: {what} could not be read")
        view = memoryview(self._read)[self.at : end]
        self.at = end
        return view

    def uint32(self, what: str) -> int:
        return int.from_bytes(self.take(4, what), "little")

    def uint64(self, what: str) -> int:
        return int.from_bytes(self.take(8, what), "little")

    def count(self, what: str, *, least_bytes: int) -> int:
        """How many entries follow; each takes at least `least_bytes`, so more than fit are refused at once."""
        count = self.uint64(f"the number of {what}")
        if count > MAX_ENTRIES or count * least_bytes > self.left:
            raise broken(self.file, f"claims {count} {what}; {self.left} bytes are left for its header")
        return count

    def text(self, what: str) -> str:
        length = self.uint64(f"the length of {what}")
        try:
            return str(self.take(length, what), "utf-8")
        except UnicodeDecodeError as error:
            raise broken(self.file, f"has {what} that is not UTF-8") from error

    def texts(self, count: int, what: str) -> tuple[str, ...]:
        self._num_strings += count
        if count * 8 > self.left or self._num_strings > MAX_STRINGS:
            raise broken(self.file, f"has {what} of {count} texts; {self.left} bytes are left for its header")
        return tuple(self.text(what) for _ in range(count))


def _metadata(cursor: _Cursor, num_keys: int) -> dict[str, Value]:
    metadata: dict[str, Value] = {}
    for _ in range(num_keys):
        key = cursor.text("a metadata key")
        if not key or len(key) > 65_535 or not key.isprintable():
            raise broken(cursor.file, f"has the metadata key {key[:80]!r}, which is none")
        if key in metadata:
            raise broken(cursor.file, f"has the metadata key {key[:80]!r} twice")
        metadata[key] = _value(cursor, f"metadata {key[:80]!r}")
    return metadata


def _value(cursor: _Cursor, what: str) -> Value:
    kind = cursor.uint32(f"the type of {what}")
    if kind == _STRING:
        return cursor.text(what)
    if kind == _ARRAY:
        return _array(cursor, what)
    if kind not in _SCALARS:
        raise broken(cursor.file, f"has {what} of the unknown type {kind}")
    value: bool | int | float = _numbers(cursor, kind, 1, what)[0].item()
    return bool(value) if kind == _BOOL else value


def _array(cursor: _Cursor, what: str) -> Value:
    kind = cursor.uint32(f"the element type of {what}")
    count = cursor.uint64(f"the length of {what}")
    if kind == _ARRAY:
        raise broken(cursor.file, f"has {what}: an array of arrays")
    if kind == _STRING:
        return cursor.texts(count, what)
    if kind not in _SCALARS:
        raise broken(cursor.file, f"has {what} of the unknown element type {kind}")
    values = _numbers(cursor, kind, count, what)
    return values.astype(np.bool_) if kind == _BOOL else values


def _numbers(cursor: _Cursor, kind: int, count: int, what: str) -> NDArray[np.generic]:
    dtype = np.dtype("<" + _SCALARS[kind])
    values: NDArray[np.generic] = np.frombuffer(bytes(cursor.take(count * dtype.itemsize, what)), dtype)
    if kind == _BOOL and values.size and int(values.max()) > 1:
        raise broken(cursor.file, f"has {what}: a truth value that is neither 0 nor 1")
    return values


def _alignment(file: str, metadata: dict[str, Value]) -> int:
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    sound = isinstance(alignment, int) and not isinstance(alignment, bool) and 8 <= alignment <= _MAX_ALIGNMENT
    if not isinstance(alignment, int) or not sound or alignment & (alignment - 1):
        shown = alignment if isinstance(alignment, int | float | str) else type(alignment).__name__
        raise broken(file, f"has the alignment {str(shown)[:40]!r}; a power of two from 8 to {_MAX_ALIGNMENT} is one")
    return alignment


@dataclass(frozen=True, slots=True)
class _Entry:
    """A tensor as the header lists it, its offset not looked at yet."""

    name: str
    block: BlockType
    shape: tuple[int, ...]
    num_bytes: int
    offset: int


def _tensor(cursor: _Cursor) -> _Entry:
    name = cursor.text("a tensor's name")
    where = f"tensor {name[:80]!r}"
    if not name or len(name.encode()) > MAX_TENSOR_NAME_BYTES or not name.isprintable():
        raise broken(cursor.file, f"{where}: its name is empty, not printable, or over {MAX_TENSOR_NAME_BYTES} bytes")
    rank = cursor.uint32(f"the rank of {where}")
    if not 1 <= rank <= MAX_RANK:
        raise broken(cursor.file, f"{where} has {rank} dimensions; 1 to {MAX_RANK} are possible")
    sizes = struct.unpack(f"<{rank}Q", cursor.take(8 * rank, f"the shape of {where}"))
    if not all(1 <= size < MAX_DIMENSION for size in sizes):
        raise broken(cursor.file, f"{where} has the impossible shape {list(sizes)}")
    number = cursor.uint32(f"the type of {where}")
    offset = cursor.uint64(f"the offset of {where}")
    block = BLOCK_TYPES.get(number)
    if block is None:
        raise NotServable(f"{cursor.file!r}: {where} is of the tensor type {number}, which is not known", param="path")
    columns, rows = sizes[0], int(np.prod([1, *sizes[1:]], dtype=object))
    if columns % block.elements:
        raise broken(cursor.file, f"{where} has rows of {columns}, not whole blocks of {block.elements} ({block.name})")
    num_bytes = rows * (columns // block.elements) * block.num_bytes
    return _Entry(name, block, tuple(reversed(sizes)), num_bytes, offset)


def _place(file: str, entries: list[_Entry], start: int, alignment: int, num_bytes: int) -> tuple[GgufTensor, ...]:
    """Where each tensor is. They follow each other, each at the next aligned byte, and fill the file."""
    names: set[str] = set()
    tensors = []
    at = start
    for entry in sorted(entries, key=lambda entry: entry.offset):
        where = f"tensor {entry.name!r}"
        if entry.name in names:
            raise broken(file, f"{where} comes twice")
        names.add(entry.name)
        begin = start + entry.offset
        if entry.offset % alignment:
            raise broken(file, f"{where} is at offset {entry.offset}, not a multiple of {alignment}")
        if begin != _align(at, alignment):
            raise broken(file, f"{where} {'overlaps the one before it' if begin < at else 'leaves a gap before it'}")
        at = begin + entry.num_bytes
        if at > num_bytes:
            raise broken(file, f"is truncated: {where} ends at byte {at}, the file at {num_bytes}")
        tensors.append(GgufTensor(name=entry.name, block=entry.block, shape=entry.shape, start=begin, end=at))
    if num_bytes > _align(at, alignment):
        raise broken(file, f"has {num_bytes - at} bytes after its last tensor that belong to none")
    return tuple(tensors)


def _align(at: int, alignment: int) -> int:
    return -(-at // alignment) * alignment
