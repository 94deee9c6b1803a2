"""A file of 64-bit words that several processes map, with seats at it, and locks that end with their holder.

A *guard* is held by whoever changes words; a lock for each *seat* by whoever sits there. Both are byte-range locks of
an open file description, beyond the end of what is written: they guard nothing but each other, and the kernel lets go
of them when the last process that has the description open is gone, which is after its memory was (exit_mm comes
before exit_files). A fork shares the description and the memory alike, so a seat lives as long as either process.

Layout: a header, then the words of each seat, of which the last are its name. Words are little-endian, and 8-byte
stores to them are single. Source: fcntl(2), open file description locks.
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
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from thaloom.base.errors import DeadlineExceeded, StateUnusable
from thaloom.base.files import PARTIAL, disk_errors

MAGIC_AT, VERSION_AT, _, SEATS_AT = range(4)
"""In every header; the rest of it is the file's own."""
PATIENCE_S = 5.0
"""Turns at the guard take microseconds; who has not got one by then waits for a process that somebody stopped in its
own."""

_PAUSE_S = 0.00002
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_FLOCK = struct.Struct("hhqqi4x")
"""struct flock of 64-bit Linux: l_type, l_whence, l_start, l_len, l_pid. Source: fcntl(2)."""
_UNLOCKED = struct.pack("h", fcntl.F_UNLCK)


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """What tells one kind of file from another."""

    what: str
    """In words, after "a" or "no"."""
    magic: bytes
    """Eight of them."""
    version: int
    seats: int
    header: int
    """Words before the first seat's."""
    seat_words: int
    name_at: int
    """Where in a seat its name begins, which goes on to the end of it."""
    holder_at: int
    """Where whoever has the guard puts its process number, for those who wait in vain."""

    @property
    def num_words(self) -> int:
        return self.header + self.seats * self.seat_words

    def base_of(self, seat: int) -> int:
        """Where the words of a seat begin."""
        return self.header + seat * self.seat_words

    def seat_at(self, begin: int) -> int:
        return (begin - self.header) // self.seat_words

    @property
    def name_bytes(self) -> int:
        return 8 * (self.seat_words - self.name_at)

    def name_words(self, name: str) -> tuple[int, ...]:
        """Raises ValueError if it is empty, or too long."""
        data = name.encode()
        if not 0 < len(data) <= self.name_bytes or data.endswith(b"\0"):
            raise ValueError(f"a seat's name has 1 to {self.name_bytes} bytes, not {len(data)}: {name[:100]!r}")
        return struct.unpack(f"<{self.seat_words - self.name_at}q", data.ljust(self.name_bytes, b"\0"))


class SharedWords:
    """One opening of such a file. `words`: all of it. Raises StateUnusable for a file that is not ours."""

    form: ClassVar[Form]

    def __init__(self, path: Path) -> None:
        form, size = self.form, 8 * self.form.num_words
        if sys.byteorder != "little":
            raise StateUnusable(f"a {form.what} is little-endian, and this machine is not")
        self._path = path
        self.patience_s = PATIENCE_S
        self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            if (found := os.fstat(self._descriptor).st_size) != size:
                raise StateUnusable(f"{str(path)!r} is no {form.what}: {found} bytes, not {size}")
            self._map = mmap.mmap(self._descriptor, size)
        except BaseException:
            os.close(self._descriptor)
            raise
        self._lock_seat = [_lock(fcntl.F_WRLCK, size + seat) for seat in range(form.seats)]
        self._lock_guard = _lock(fcntl.F_WRLCK, size + form.seats)
        self._unlock_guard = _lock(fcntl.F_UNLCK, size + form.seats)
        self._anchor: ctypes.c_char | None = ctypes.c_char.from_buffer(self._map)
        self._address = ctypes.addressof(self._anchor)
        self.words = memoryview(self._map).cast("q")
        try:
            self.refuse_strangers()
        except BaseException:
            self.close()
            raise

    def refuse_strangers(self) -> None:
        """Raises StateUnusable."""
        form = self.form
        if self.words[MAGIC_AT] != int.from_bytes(form.magic, "little"):
            raise StateUnusable(f"{str(self._path)!r} is no {form.what}")
        version, seats = self.words[VERSION_AT], self.words[SEATS_AT]
        if (version, seats) != (form.version, form.seats):
            raise StateUnusable(
                f"{str(self._path)!r} is a {form.what} of version {version} with {seats} seats, "
                f"this Thaloom reads version {form.version} with {form.seats}"
            )

    @classmethod
    def make(cls, path: Path, header: dict[int, int]) -> Self:
        """The one that is there as it is, or a new one, which others see whole or not at all. `header`: its own words
        there, the rest are 0. Raises StateUnusable, DiskFull."""
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            form = cls.form
            words = [0] * form.num_words
            own = {MAGIC_AT: int.from_bytes(form.magic, "little"), VERSION_AT: form.version, SEATS_AT: form.seats}
            for at, word in (header | own).items():
                words[at] = word
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
            fcntl.fcntl(self._descriptor, fcntl.F_OFD_SETLK, self._lock_guard)
        except BlockingIOError:
            self._lock_late()

    def _lock_late(self) -> None:
        deadline = time.monotonic() + self.patience_s
        while time.monotonic() < deadline:
            time.sleep(_PAUSE_S)
            with contextlib.suppress(BlockingIOError):
                fcntl.fcntl(self._descriptor, fcntl.F_OFD_SETLK, self._lock_guard)
                return
        raise DeadlineExceeded(
            f"no turn at {str(self._path)!r} within {self.patience_s:g} s: "
            f"process {self.words[self.form.holder_at]} was stopped in its own"
        )

    def unlock(self) -> None:
        fcntl.fcntl(self._descriptor, fcntl.F_OFD_SETLK, self._unlock_guard)

    def sit_down(self, seat: int) -> int | None:
        """A descriptor that holds the seat until it is closed, or None where somebody sits."""
        descriptor = os.open(f"/proc/self/fd/{self._descriptor}", os.O_RDWR | os.O_CLOEXEC)  # its path may be another's
        try:
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, self._lock_seat[seat])
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor

    def is_sat_on(self, seat: int) -> bool:
        answer: bytes = fcntl.fcntl(self._descriptor, fcntl.F_OFD_GETLK, self._lock_seat[seat])
        return answer[:2] != _UNLOCKED

    def address(self, word: int) -> int:
        """Of a word, in this process."""
        return self._address + 8 * word

    def name(self, seat: int) -> str:
        """Raises ValueError where there stands none."""
        begin = self.form.base_of(seat)
        return bytes(self.words[begin + self.form.name_at : begin + self.form.seat_words]).rstrip(b"\0").decode()


def _lock(kind: int, at: int) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, at, 1, 0)
