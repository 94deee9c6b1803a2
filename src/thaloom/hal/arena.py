"""Memory of one lifetime: handed out from front to back, and given up as a whole.

What a model needs as long as it is loaded, or what one step needs, is never freed piece by piece: an arena keeps no
list of its pieces, nothing in it is ever between two others, and nothing outlives it. (What lives as long as a request
does comes and goes in any order and lies in blocks: kernel.memory.pages.) One thread at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from thaloom.base.errors import OutOfMemory
from thaloom.hal.driver import ALIGNMENT, Buffer

B = TypeVar("B", bound=Buffer)


def aligned(num_bytes: int) -> int:
    """What a piece of so many bytes takes: the next piece begins at a multiple of ALIGNMENT."""
    if num_bytes < 0:
        raise ValueError(f"cannot take {num_bytes} bytes")
    return -(-num_bytes // ALIGNMENT) * ALIGNMENT


class Arena:
    """A span of a buffer whose offset is a multiple of ALIGNMENT. The buffer's owner frees it."""

    def __init__(self, num_bytes: int, *, offset: int = 0) -> None:
        if offset % ALIGNMENT or num_bytes < 0:
            raise ValueError(f"no arena of {num_bytes} bytes begins at {offset}")
        self._offset = offset
        self._num_bytes = num_bytes
        self._used_bytes = 0

    @property
    def num_bytes(self) -> int:
        return self._num_bytes

    @property
    def free_bytes(self) -> int:
        return max(0, self._num_bytes - self._used_bytes)

    def take(self, num_bytes: int) -> int:
        """The offset in the buffer of the next piece, which holds whatever was there. Raises OutOfMemory, and then
        nothing is taken."""
        taken = aligned(num_bytes)
        if self._used_bytes + num_bytes > self._num_bytes:
            raise OutOfMemory(
                f"an arena of {self._num_bytes} bytes has {self.free_bytes} left, {num_bytes} are needed",
                needed_bytes=num_bytes,
                free_bytes=self.free_bytes,
            )
        begin = self._offset + self._used_bytes
        self._used_bytes += taken
        return begin

    def reset(self) -> None:
        """Nothing that was taken is anybody's any more."""
        self._used_bytes = 0


@dataclass(frozen=True, slots=True)
class Piece(Generic[B]):
    """So many bytes of `buffer`, from `offset` on; valid until its arena is freed."""

    buffer: B
    offset: int
    num_bytes: int


class GrowingArena(Generic[B]):
    """As many buffers as it takes: small pieces share some of `chunk_bytes`, one that is larger has its own."""

    def __init__(self, allocate: Callable[[int], B], *, chunk_bytes: int) -> None:
        self._allocate = allocate
        self._chunk_bytes = chunk_bytes
        self._buffers: list[B] = []
        self._chunk: tuple[B, Arena] | None = None

    @property
    def buffers(self) -> Sequence[B]:
        return self._buffers

    @property
    def num_bytes(self) -> int:
        """Of all its buffers."""
        return sum(buffer.num_bytes for buffer in self._buffers)

    def take(self, num_bytes: int) -> Piece[B]:
        """Zeroed. Raises OutOfMemory, and then nothing is taken."""
        if num_bytes >= self._chunk_bytes:
            return Piece(self._new(num_bytes), 0, num_bytes)
        if self._chunk is None or self._chunk[1].free_bytes < num_bytes:
            self._chunk = (self._new(self._chunk_bytes), Arena(self._chunk_bytes))
        buffer, arena = self._chunk
        return Piece(buffer, arena.take(num_bytes), num_bytes)

    def adopt(self, buffer: B) -> None:
        """It lives as long as this arena from now on, and is freed with it."""
        self._buffers.append(buffer)

    def free(self) -> None:
        """All of it. Harmless when repeated; what is taken afterwards begins a new life."""
        for buffer in self._buffers:
            buffer.free()
        self._buffers.clear()
        self._chunk = None

    def _new(self, num_bytes: int) -> B:
        buffer = self._allocate(num_bytes)
        self._buffers.append(buffer)
        return buffer
