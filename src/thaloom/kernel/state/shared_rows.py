"""Rows of numbers that several processes count in: one small file, mapped into each of them.

Several doors may share a port, and a limit of a key holds for all of them together. A row has numbers that all write
(under a lock, held for microseconds) and, for each process, one count of its own. A process that was killed leaves its
count behind; that it is gone is seen by its place in the file being locked by nobody, which the operating system sees
to. The file is no state worth keeping: a door that finds itself alone begins with an empty one.

Belongs to one thread. Layout: places (one byte each, only ever locked), then rows of a 16-byte name, `NUMBERS` f64, and
one u32 for each place.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import mmap
import os
import struct
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from thaloom.base.errors import StateUnusable
from thaloom.base.files import disk_errors

PLACES = 16
"""Processes that may count at the same time."""
ROWS = 2048
"""For each key and each tenant a node may keep (state.store), and some to spare."""
NUMBERS = 4
PATIENCE_S = 0.1
"""A process that was stopped in the middle of a count is not waited for any longer; the count may then be off by one
request, which is better than a door that hangs."""

_ROW = struct.Struct(f"<16s{NUMBERS}d{PLACES}I")
_HEAD_BYTES = 64
_SIZE = _HEAD_BYTES + ROWS * _ROW.size
_FLOCK = struct.Struct("hhqqi4x")
"""struct flock of 64-bit Linux: l_type, l_whence, l_start, l_len, l_pid. Source: fcntl(2)."""
_OFFSETS = range(_HEAD_BYTES, _SIZE, _ROW.size)
_FREE = bytes(16)


class Row:
    """One row while it is held. Changing it changes the file when the turn ends."""

    __slots__ = ("_mine", "counts", "numbers")

    def __init__(self, numbers: list[float], counts: list[int], mine: int) -> None:
        self.numbers = numbers
        self.counts = counts
        self._mine = mine

    @property
    def own(self) -> int:
        """What this process counts."""
        return self.counts[self._mine]

    @own.setter
    def own(self, count: int) -> None:
        self.counts[self._mine] = count


class SharedRows:
    """Open on `path`; `close` it. Raises StateUnusable if all places are taken, DiskFull."""

    def __init__(self, path: Path) -> None:
        self._offsets: dict[str, int] = {}
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._place, alone = self._take_place()
            with self._turn(), disk_errors(path):
                if alone or os.fstat(self._file).st_size < _SIZE:
                    os.pwrite(self._file, bytes(_SIZE), 0)  # written, not only made long: a full disk shows itself here
            self._map = mmap.mmap(self._file, _SIZE)
        except BaseException:
            os.close(self._file)
            raise
        self._forget_counts(self._place)

    def close(self) -> None:
        self._forget_counts(self._place)
        self._map.close()
        os.close(self._file)

    @contextlib.contextmanager
    def turn(self, name: str, new: Sequence[float]) -> Iterator[Row]:
        """The row of that name, for a moment, to change; `new`: its numbers if there is none yet."""
        with self._turn():
            offset = self._offset(name, new)
            key, *values = _ROW.unpack_from(self._map, offset)
            row = Row(values[:NUMBERS], values[NUMBERS:], self._place)
            yield row
            _ROW.pack_into(self._map, offset, key, *row.numbers, *row.counts)

    def forget_the_dead(self, row: Row) -> None:
        """Take away from a row what processes counted that are gone."""
        for place, count in enumerate(row.counts):
            if count and place != self._place and not self._is_taken(place):
                row.counts[place] = 0

    def _offset(self, name: str, new: Sequence[float]) -> int:
        key = hashlib.sha256(name.encode()).digest()[:16]
        known = self._offsets.get(name)
        if known is not None and self._map[known : known + 16] == key:
            return known
        heads = {self._map[offset : offset + 16]: offset for offset in reversed(_OFFSETS)}
        offset = heads.get(key)
        if offset is None:
            offset = heads[_FREE] if _FREE in heads else min(_OFFSETS, key=self._age)
            _ROW.pack_into(self._map, offset, key, *new, *[0] * PLACES)
        self._offsets[name] = offset
        return offset

    def _age(self, offset: int) -> tuple[bool, float]:
        """Rows of nobody's running requests first, of those the one with the least last number (its time)."""
        values = _ROW.unpack_from(self._map, offset)
        return any(values[1 + NUMBERS :]), values[NUMBERS]

    def _forget_counts(self, place: int) -> None:
        with self._turn():
            for offset in _OFFSETS:
                struct.pack_into("<I", self._map, offset + 16 + 8 * NUMBERS + 4 * place, 0)

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        deadline = time.monotonic() + PATIENCE_S
        held = False
        while not held and time.monotonic() < deadline:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                held = True
            except BlockingIOError:
                time.sleep(0.0001)  # others hold it for microseconds
        try:
            yield
        finally:
            if held:
                fcntl.flock(self._file, fcntl.LOCK_UN)

    def _take_place(self) -> tuple[int, bool]:
        """Our place, and whether nobody else has one."""
        taken = [place for place in range(PLACES) if self._is_taken(place)]
        for place in range(PLACES):
            if place not in taken:
                with contextlib.suppress(BlockingIOError):
                    fcntl.fcntl(self._file, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, place, 1, 0))
                    return place, not taken
        raise StateUnusable(f"{PLACES} doors share this node already")

    def _is_taken(self, place: int) -> bool:
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, place, 1, 0)
        answer = fcntl.fcntl(self._file, fcntl.F_OFD_GETLK, asked)
        return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)
