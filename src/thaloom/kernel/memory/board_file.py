"""The file of a board: words of 64 bits, mapped by all who share a device, and locks that end with their holder.

A *guard* is held by whoever changes words; a lock for each *seat* by whoever sits there. Both are byte-range locks of
an open file description, beyond the end of what is written: they guard nothing but each other, and the kernel lets go
of them when the last process that has the description open is gone, which is after its memory was (exit_mm comes
before exit_files). A fork shares the description and the memory alike, so a seat lives as long as either process.

Layout: HEADER words, then SEATS times SEAT_WORDS words. Words are little-endian, and 8-byte stores to them are single.
Source: fcntl(2), open file description locks.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import mmap
import os
import struct
import sys
import time
from pathlib import Path

from thaloom.base.errors import DeadlineExceeded, StateUnusable
from thaloom.base.files import PARTIAL, disk_errors

MAGIC = int.from_bytes(b"thaloomP", "little")
VERSION = 1
SEATS = 60
"""Workers of one device at the same time, those on their way out too. Each is a bit of one word."""

(
    MAGIC_AT, VERSION_AT, PAGE_BYTES_AT, SEATS_AT, NUM_PAGES_AT, GOAL_AT, ROOM_AT, OWED_AT, UNSETTLED_AT, TAKEN_AT,
    HOLDER_AT,
) = range(11)  # fmt: skip
HEADER = 16
FLOOR, SECURED, CEILING, PRIORITY, HELD, WANTED, TARGET, BELL = range(8)
"""Words of a seat, of which those to WANTED are read at once."""
NAME, SEAT_WORDS = 16, 32
NAME_BYTES = 8 * (SEAT_WORDS - NAME)

PATIENCE_S = 5.0
"""Turns take microseconds; who has not got one by then waits for a process that somebody stopped in its own."""
_PAUSE_S = 0.00002
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC

_SIZE = 8 * (HEADER + SEATS * SEAT_WORDS)
_FLOCK = struct.Struct("hhqqi4x")
"""struct flock of 64-bit Linux: l_type, l_whence, l_start, l_len, l_pid. Source: fcntl(2)."""
_GUARD = _SIZE + SEATS
_LOCK_GUARD = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _GUARD, 1, 0)
_LOCK_SEAT = [_FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _SIZE + seat, 1, 0) for seat in range(SEATS)]
_UNLOCKED = struct.pack("h", fcntl.F_UNLCK)
_UNLOCK_GUARD = _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, _GUARD, 1, 0)


def base_of(seat: int) -> int:
    """Where the words of a seat begin."""
    return HEADER + seat * SEAT_WORDS


def seat_at(begin: int) -> int:
    return (begin - HEADER) // SEAT_WORDS


class BoardFile:
    """One opening of it. `words`: all of it, by 64 bits. Raises StateUnusable for a file that is not ours."""

    def __init__(self, path: Path) -> None:
        if sys.byteorder != "little":
            raise StateUnusable("a board of pages is little-endian, and this machine is not")
        self._path = path
        self.patience_s = PATIENCE_S
        self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            if (size := os.fstat(self._descriptor).st_size) != _SIZE:
                raise StateUnusable(f"{str(path)!r} is no board of pages: {size} bytes, not {_SIZE}")
            self._map = mmap.mmap(self._descriptor, _SIZE)
        except BaseException:
            os.close(self._descriptor)
            raise
        self._anchor: ctypes.c_char | None = ctypes.c_char.from_buffer(self._map)
        self._address = ctypes.addressof(self._anchor)
        self.words = memoryview(self._map).cast("q")
        try:
            self._refuse_strangers()
        except BaseException:
            self.close()
            raise

    def _refuse_strangers(self) -> None:
        found = [self.words[at] for at in (MAGIC_AT, VERSION_AT, SEATS_AT)]
        if found[0] != MAGIC:
            raise StateUnusable(f"{str(self._path)!r} is no board of pages")
        if found[1:] != [VERSION, SEATS]:
            raise StateUnusable(
                f"{str(self._path)!r} is a board of version {found[1]} with {found[2]} seats, "
                f"this Thaloom reads version {VERSION} with {SEATS}"
            )
        if self.words[PAGE_BYTES_AT] <= 0:
            raise StateUnusable(f"{str(self._path)!r} is a board of pages without a size")

    @classmethod
    def create(cls, path: Path, *, num_pages: int, page_bytes: int) -> BoardFile:
        """The one that is there as it is, or a new one, which others see whole or not at all. Raises DiskFull too."""
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            words = [0] * (_SIZE // 8)
            words[:HEADER] = [MAGIC, VERSION, page_bytes, SEATS, num_pages, num_pages, num_pages, *[0] * (HEADER - 7)]
            partial = path.with_name(f"{path.name}.{os.getpid()}.{time.monotonic_ns()}{PARTIAL}")
            try:
                with disk_errors(path), os.fdopen(os.open(partial, _NEW, 0o600), "wb") as file:
                    file.write(struct.pack(f"<{len(words)}q", *words))
                with contextlib.suppress(FileExistsError):  # somebody else was first: theirs it is
                    path.hardlink_to(partial)
            finally:
                partial.unlink(missing_ok=True)
        return cls(path)

    def close(self) -> None:
        if self._anchor is not None:
            self.words.release()
            self._anchor = None  # the map cannot be closed while anything points into it
            self._map.close()
            os.close(self._descriptor)

    def lock(self) -> None:
        """Take the guard. Raises DeadlineExceeded."""
        try:
            fcntl.fcntl(self._descriptor, fcntl.F_OFD_SETLK, _LOCK_GUARD)
        except BlockingIOError:
            self._lock_late()

    def _lock_late(self) -> None:
        deadline = time.monotonic() + self.patience_s
        while time.monotonic() < deadline:
            time.sleep(_PAUSE_S)
            with contextlib.suppress(BlockingIOError):
                fcntl.fcntl(self._descriptor, fcntl.F_OFD_SETLK, _LOCK_GUARD)
                return
        raise DeadlineExceeded(
            f"no turn at {str(self._path)!r} within {self.patience_s:g} s: "
            f"process {self.words[HOLDER_AT]} was stopped in its own"
        )

    def unlock(self) -> None:
        fcntl.fcntl(self._descriptor, fcntl.F_OFD_SETLK, _UNLOCK_GUARD)

    def sit_down(self, seat: int) -> int | None:
        """A descriptor that holds the seat until it is closed, or None where somebody sits."""
        descriptor = os.open(f"/proc/self/fd/{self._descriptor}", os.O_RDWR | os.O_CLOEXEC)  # its path may be another's
        try:
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _LOCK_SEAT[seat])
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor

    def is_sat_on(self, seat: int) -> bool:
        answer: bytes = fcntl.fcntl(self._descriptor, fcntl.F_OFD_GETLK, _LOCK_SEAT[seat])
        return answer[:2] != _UNLOCKED

    def address(self, word: int) -> int:
        """Of a word, in this process."""
        return self._address + 8 * word

    def name(self, seat: int) -> str:
        begin = base_of(seat) + NAME
        return (
            struct.pack(f"<{SEAT_WORDS - NAME}q", *self.words[begin : begin + SEAT_WORDS - NAME]).rstrip(b"\0").decode()
        )


def name_words(name: str) -> tuple[int, ...]:
    """Raises ValueError if it is empty, or longer than NAME_BYTES."""
    data = name.encode()
    if not 0 < len(data) <= NAME_BYTES or data.endswith(b"\0"):
        raise ValueError(f"a seat's name has 1 to {NAME_BYTES} bytes, not {len(data)}: {name[:100]!r}")
    return struct.unpack(f"<{SEAT_WORDS - NAME}q", data.ljust(NAME_BYTES, b"\0"))
