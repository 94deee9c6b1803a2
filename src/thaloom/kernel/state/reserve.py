"""Space kept free on the node's own disk, so that stopping, healing and the journal still work when it is full.

A file of allocated blocks lies beside the database. When next to nothing is free any more, a piece of it is given up
before each transaction, and no more than a piece (what is published beside may take two): what is given up may be taken
by whoever fills the disk. Once there is room again, the file grows back. A node's actions are all written to its
journal first, so that whatever an action writes later finds the same room.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from thaloom.base.events import Emit, Event, at_level, ignore
from thaloom.base.files import free_bytes
from thaloom.base.units import MIB

DEFAULT_BYTES = 16 * MIB
"""Some thousand transactions of an ordinary size; the write-ahead log of SQLite takes 4 MiB of it at most."""
PIECE_BYTES = MIB
LOW_BYTES = 2 * MIB
GIVEN_UP_BYTES = LOW_BYTES + 2 * PIECE_BYTES
"""While no more than this is free it may be what was given up, which is the node's own: nobody takes it whose work can
be refused."""
PLENTY_BYTES = 64 * MIB
"""Free beyond the reserve before it grows back: not to go back and forth at the edge."""


@at_level("error")
@dataclass(frozen=True, slots=True, kw_only=True)
class ReserveOpened(Event):
    """The node's disk is full: what was kept free for it is being used up. Make room."""

    left_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReserveWhole(Event):
    """There is room again, and the reserve is whole."""

    held_bytes: int


def is_full(folder: Path) -> bool:
    """Whether next to nothing is left on its disk for work that can wait."""
    return free_bytes(folder) < GIVEN_UP_BYTES


class Reserve:
    """The file at `path`. One owner; not safe from several threads at once."""

    def __init__(self, path: Path, *, num_bytes: int = DEFAULT_BYTES, emit: Emit = ignore) -> None:
        self._path = path
        self._num_bytes = num_bytes
        self._emit = emit
        self._opened = False

    @property
    def held_bytes(self) -> int:
        """Allocated, not merely promised by the file's length."""
        try:
            status = self._path.stat()
        except OSError:
            return 0
        return min(status.st_size, status.st_blocks * 512)

    def keep(self) -> None:
        """Give up a piece if the disk is full, grow back if there is room again; else nothing. Costs one look at the
        file system. Never raises: it is there for when things go wrong."""
        with contextlib.suppress(OSError):
            free, held = free_bytes(self._path.parent), self.held_bytes
            if free < LOW_BYTES:
                self.release()
            elif held < self._num_bytes and free >= self._num_bytes - held + PLENTY_BYTES:
                self._grow()

    def make_room(self) -> bool:
        """Give up one piece if the disk is full; False if it is not, or there is none left."""
        return free_bytes(self._path.parent) < LOW_BYTES and self.release()

    def release(self) -> bool:
        """Give up one piece; False if there is none left."""
        held = self.held_bytes
        if held == 0:
            return False
        left = max(0, held - PIECE_BYTES)
        os.truncate(self._path, left)
        if not self._opened:
            self._opened = True
            self._emit(ReserveOpened(left_bytes=left, free_bytes=free_bytes(self._path.parent)))
        return True

    def _grow(self) -> None:
        held = self.held_bytes
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, self._num_bytes)
        except OSError:
            os.ftruncate(descriptor, held)  # somebody was faster
            raise
        finally:
            os.close(descriptor)
        if self._opened:
            self._opened = False
            self._emit(ReserveWhole(held_bytes=self.held_bytes))
