"""Packed weights on disk: one file, read by several threads straight into huge pages.

Layout: MAGIC, the length of a JSON header, the header, its SHA-256; then, from the next multiple of 4,096 bytes on, the
weights as they lie in memory, with a pair of sums for each CHUNK of them in the header. The sums guard against
accidents (torn writes, failing disks), not against malice: whoever can write here could as well replace the library.

The same bytes in a memory file are what processes share. They are checked once, when they are put there; that it is
sealed is how one that is whole is known.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thaloom.base import memory_files
from thaloom.base.files import atomic_writer, disk_errors, free_bytes
from thaloom.hal.arena import aligned
from thaloom.hal.drivers.cpu import native
from thaloom.hal.drivers.cpu.memory import HostMemory
from thaloom.hal.drivers.cpu.shared_memory import SharedMemory, whole_pages

MAGIC = b"THALPAK1"
CHUNK = 1 << 22
_ALIGNMENT = 4096
_MOST_HEADER = 1 << 26
_LENGTH_BYTES, _SUM_BYTES = 8, 32
_FIELDS = ("kind", "dtype", "count", "rows", "columns")
_WORDS = np.dtype("<u8")

Sums = tuple[int, int]


class Unusable(Exception):
    """Why a file is no use: not whole, or of something else."""


def write(path: Path, structs: dict[str, native.Weight], layout: str, num_threads: int) -> None:
    """Put the weights at `path`, whole or not at all. Raises DiskFull, OSError."""
    at, entries = 0, []
    for name, weight in structs.items():
        at = aligned(at)
        entries.append([name, *(getattr(weight, field) for field in _FIELDS), at, int(weight.num_bytes)])
        at += int(weight.num_bytes)
    with disk_errors(path):
        if at > free_bytes(path) // 2:
            raise OSError(f"{at} bytes would take more than half of what is free on its disk")
    pieces = [_memory(weight) for weight in structs.values()]
    with ThreadPoolExecutor(num_threads) as pool:
        sums = list(pool.map(_sums, (piece[i : i + CHUNK] for piece in pieces for i in range(0, piece.size, CHUNK))))
    told = {"layout": layout, "weights": entries, "num_bytes": at, "sums": sums}
    header = json.dumps(told, separators=(",", ":")).encode()
    head = MAGIC + len(header).to_bytes(_LENGTH_BYTES, "little") + header + hashlib.sha256(header).digest()
    with atomic_writer(path, sync=False) as file:  # what a crash leaves half is found by its sums
        file.write(head + bytes(-len(head) % _ALIGNMENT))
        end = 0
        for piece in pieces:
            file.write(bytes(aligned(end) - end))
            file.write(piece.data)
            end = aligned(end) + piece.size


def read(
    path: Path, names: Iterable[str], layout: str, allocate: Callable[[int], HostMemory], num_threads: int
) -> tuple[dict[str, native.Weight], HostMemory]:
    """The weights at `path`, in memory of their own. Raises FileNotFoundError, OSError, Unusable, OutOfMemory."""
    with path.open("rb", buffering=0) as file:
        header, start = _require(file.fileno(), names, layout)
        memory = allocate(header["num_bytes"])
        try:
            _read_weights(file.fileno(), start, memory.data, header, num_threads)
        except BaseException:
            memory.free()
            raise
    return {entry[0]: _weight(entry, memory.address) for entry in header["weights"]}, memory


def share(path: Path, names: Iterable[str], layout: str, blank: int, num_threads: int) -> None:
    """Copy the file at `path` into the empty memory file `blank`, and seal that. Raises FileNotFoundError, OSError,
    Unusable; then it is not sealed, and so nothing."""
    with path.open("rb", buffering=0) as file:
        header, start = _require(file.fileno(), names, layout)
        os.ftruncate(blank, whole_pages(start + header["num_bytes"]))
        memory = SharedMemory(blank, _ignore, write=True)
        try:
            memory.make_huge()
            os.preadv(file.fileno(), [memory.data[:start].data], 0)
            _read_weights(file.fileno(), start, memory.data[start:], header, num_threads)
        finally:
            memory.free()  # while it is mapped for writing it cannot be sealed
    memory_files.seal(blank)


def attach(
    shared: int, names: Iterable[str], layout: str, map_shared: Callable[[int], SharedMemory]
) -> tuple[dict[str, native.Weight], SharedMemory]:
    """The weights in a memory file, where they lie. Raises OSError, Unusable, OutOfMemory."""
    if not memory_files.is_sealed(shared):
        raise Unusable("it is not sealed")
    header, start = _require(shared, names, layout, in_pages=True)
    memory = map_shared(shared)
    return {entry[0]: _weight(entry, memory.address + start) for entry in header["weights"]}, memory


def _require(file: int, names: Iterable[str], layout: str, *, in_pages: bool = False) -> tuple[dict[str, Any], int]:
    """The header of a file of just these weights, of its whole length, and where the weights begin."""
    header, start = _read_header(file)
    if header.get("layout") != layout or [entry[0] for entry in header["weights"]] != list(names):
        raise Unusable("it holds other weights")
    length = start + header["num_bytes"]
    if os.fstat(file).st_size != (whole_pages(length) if in_pages else length):
        raise Unusable("it is not as long as it should be")
    return header, start


def _read_header(file: int) -> tuple[dict[str, Any], int]:
    """The header, and where the weights begin."""
    start = os.pread(file, len(MAGIC) + _LENGTH_BYTES, 0)
    length = int.from_bytes(start[len(MAGIC) :], "little")
    if not start.startswith(MAGIC) or length > _MOST_HEADER:
        raise Unusable("it is not a file of packed weights")
    text = os.pread(file, length + _SUM_BYTES, len(start))
    if hashlib.sha256(text[:length]).digest() != text[length:]:
        raise Unusable("its header is damaged")
    header: dict[str, Any] = json.loads(text[:length])
    head = len(start) + len(text)
    return header, head + -head % _ALIGNMENT


def _read_weights(file: int, start: int, target: NDArray[np.uint8], header: dict[str, Any], num_threads: int) -> None:
    work = list(zip(_spans(header["weights"]), header["sums"], strict=True))
    shares = [work[number::num_threads] for number in range(num_threads)]
    with ThreadPoolExecutor(num_threads) as pool:
        for _ in pool.map(lambda share: _read_some(file, start, target, share), shares):
            pass


def _spans(entries: list[list[Any]]) -> list[tuple[int, int]]:
    """Where each chunk of each weight begins, and its bytes."""
    return [(e[-2] + i, min(CHUNK, e[-1] - i)) for e in entries for i in range(0, e[-1], CHUNK)]


def _read_some(file: int, start: int, target: NDArray[np.uint8], work: Sequence[tuple[tuple[int, int], Sums]]) -> None:
    for (at, num_bytes), wanted in work:
        piece, done = target[at : at + num_bytes], 0
        while done < num_bytes:
            count = os.preadv(file, [piece[done:].data], start + at + done)
            if count == 0:
                raise Unusable("it ends too early")
            done += count
        if _sums(piece) != tuple(wanted):
            raise Unusable(f"its bytes from {at} on are damaged")


def _sums(piece: NDArray[np.uint8]) -> Sums:
    """The words' sum and exclusive or: as fast as memory, and the interpreter is let go meanwhile."""
    whole = piece.size // 8 * 8
    words = piece[:whole].view(_WORDS)
    rest = int.from_bytes(piece[whole:].tobytes(), "little")
    return (int(words.sum(dtype=_WORDS)) + rest) % 2**64, int(np.bitwise_xor.reduce(words)) ^ rest


def _memory(weight: native.Weight) -> NDArray[np.uint8]:
    return np.frombuffer((ctypes.c_uint8 * weight.num_bytes).from_address(weight.data), np.uint8)


def _weight(entry: list[Any], address: int) -> native.Weight:
    _, kind, dtype, count, rows, columns, at, num_bytes = entry
    return native.Weight(
        data=address + at, num_bytes=num_bytes, kind=kind, dtype=dtype, count=count, rows=rows, columns=columns
    )


def _ignore(_num_bytes: int) -> None: ...
