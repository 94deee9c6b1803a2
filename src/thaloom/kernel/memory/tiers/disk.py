"""A folder of files that belong to one process, read and written past the page cache where the file system lets us.

What the page cache holds is memory that no tier counts. What is known of a file, its sum first of all, is in memory
alone: a file says nothing about itself, so one that was changed, exchanged or put back is found out. No file outlives
its process: none is flushed, and whoever takes the folder next removes what is there. Source: open(2), O_DIRECT.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import mmap
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from thaloom.base.errors import CorruptObject, DiskFull, StateUnusable
from thaloom.base.files import FolderLock, disk_errors, free_bytes
from thaloom.base.units import MIB, format_bytes
from thaloom.kernel.memory.tiers.types import UNIT_BYTES, StoredFile, whole_units

LEFT_FREE_BYTES = 256 * MIB
"""Of the disk, for those who cannot do without: what lies here can be made again."""
_HUGE_BYTES = 2 * MIB
"""From here on memory is in huge pages, which take a quarter of the time to be had and filled."""
_SUFFIX = ".tier"
_REFUSED = (errno.EINVAL, errno.EOPNOTSUPP)


def new_room(num_bytes: int) -> memoryview:
    """Memory of its own for so many bytes, in whole units, which goes back to the system when nobody refers to it.
    Raises OSError."""
    memory = mmap.mmap(-1, whole_units(num_bytes), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if num_bytes >= _HUGE_BYTES:
        with contextlib.suppress(OSError):  # a kernel without them: slower, not wrong
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(memory)


def fill_start(into: memoryview, data: memoryview) -> None:
    """To the start of `into`. By NumPy, which lets other threads go on."""
    if len(data):
        np.copyto(np.frombuffer(into, np.uint8, len(data)), np.frombuffer(data, np.uint8))


class DiskFolder:
    """Reading is for any number of threads, all else for one at a time."""

    def __init__(self, folder: Path) -> None:
        """Raises StateUnusable where another process has the folder, or it cannot be had."""
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = FolderLock.take(folder)
        except OSError as error:
            raise StateUnusable(f"{str(folder)!r} cannot be used for a tier: {error}") from error
        if lock is None:
            raise StateUnusable(f"{str(folder)!r} is in use by another process")
        self._folder, self._lock = folder, lock
        self._serial = itertools.count()
        self._remove_all()

    @property
    def path(self) -> Path:
        return self._folder

    def write(self, room: memoryview, num_bytes: int) -> StoredFile:
        """Write `room`, whole units of which the first `num_bytes` count. Raises DiskFull, also while less than
        LEFT_FREE_BYTES would be left, and OSError; nothing is there then."""
        path = self._folder / f"{next(self._serial)}{_SUFFIX}"
        if (free := free_bytes(self._folder)) < len(room) + LEFT_FREE_BYTES:
            raise DiskFull(
                f"{format_bytes(free)} are free on the disk of {str(self._folder)!r}, and some must stay so",
                needed_bytes=len(room),
                free_bytes=free,
            )
        try:
            with disk_errors(path):
                for flags in (os.O_DIRECT, 0):
                    with _refusals(flags), _opened(path, os.O_WRONLY | os.O_CREAT | flags) as file:
                        _write_all(file, room)
                        break
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return StoredFile(path=path, num_bytes=num_bytes, checksum=zlib.crc32(room[:num_bytes]))

    def read(self, stored: StoredFile, into: memoryview) -> None:
        """Fill the start of `into`. Raises CorruptObject where that is not what was written, and OSError: what stands
        in `into` is of no use then."""
        whole = stored.num_bytes // UNIT_BYTES * UNIT_BYTES
        for flags in (os.O_DIRECT, 0):
            with _refusals(flags), _opened(stored.path, os.O_RDONLY | flags) as file:
                _read_all(file, into[:whole], 0)
                if rest := stored.num_bytes - whole:
                    end = new_room(rest)
                    _read_all(file, end, whole)
                    into[whole : stored.num_bytes] = end[:rest]
                break
        if zlib.crc32(into[: stored.num_bytes]) != stored.checksum:
            raise CorruptObject(f"{str(stored.path)!r} is not what was written there")

    def remove(self, stored: StoredFile) -> None:
        """Raises OSError where it could not be; gone already is no error."""
        stored.path.unlink(missing_ok=True)

    def close(self) -> None:
        self._remove_all()
        self._lock.close()

    def _remove_all(self) -> None:
        for path in self._folder.glob(f"*{_SUFFIX}"):
            with contextlib.suppress(OSError):
                path.unlink()


@contextlib.contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    file = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        yield file
    finally:
        os.close(file)


@contextlib.contextmanager
def _refusals(flags: int) -> Iterator[None]:
    """Goes on after whatever asked for direct access in vain: this memory, or this file system, is not for it."""
    try:
        yield
    except OSError as error:
        if not flags or error.errno not in _REFUSED:
            raise


def _write_all(file: int, room: memoryview) -> None:
    done = 0
    while done < len(room):
        done += os.pwrite(file, room[done:], done)


def _read_all(file: int, into: memoryview, offset: int) -> None:
    done = 0
    while done < len(into):
        count = os.preadv(file, [into[done:]], offset + done)
        if count == 0:
            raise CorruptObject(f"a file of a tier ends {len(into) - done} bytes early")
        done += count
