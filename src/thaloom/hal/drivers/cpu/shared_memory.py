"""A memory file mapped for large arrays: aligned to 2 MiB and in huge pages, which all who map it then share.

The kernel is not asked for huge pages in advance, for which most hosts have a switch that is off
(`transparent_hugepage/shmem_enabled`), but to join the pages that are there, which no switch governs: MADV_COLLAPSE,
since Linux 6.1. Where it will not, nothing is shared: small pages would slow down every step (docs/decisions/0029).
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from thaloom.hal.drivers.cpu.memory import ALIGNMENT

_MAP_FIXED = 0x10
_POPULATE_READ, _COLLAPSE = 22, 25
"""Source: madvise(2), <asm-generic/mman-common.h>; the same on x86-64 and aarch64."""
_TRIES = 3
"""A page that somebody else holds for a moment ends one attempt with EAGAIN."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def whole_pages(num_bytes: int) -> int:
    """The length of a file that holds so many bytes in huge pages."""
    return num_bytes + -num_bytes % ALIGNMENT


class SharedMemory:
    """A driver.Buffer over all of a memory file. Writing to one that was opened for reading is a fault of ours, and the
    kernel ends it."""

    def __init__(self, descriptor: int, release: Callable[[int], None], *, write: bool = False) -> None:
        """Raises OSError. `release(num_bytes)` is called once, by `free`. The descriptor may be closed meanwhile."""
        self._num_bytes = os.fstat(descriptor).st_size
        self._release = release
        self._room: mmap.mmap | None = mmap.mmap(  # address space of our own, in which the file is put where it fits
            -1, self._num_bytes + ALIGNMENT, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        )
        room = np.frombuffer(self._room, np.uint8)
        offset = -room.ctypes.data % ALIGNMENT
        self._address = int(room.ctypes.data) + offset
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if write else 0)
        flags = mmap.MAP_SHARED | _MAP_FIXED
        if _libc.mmap(self._address, self._num_bytes, protection, flags, descriptor, 0) != self._address:
            raise _error("mmap")
        self._data: NDArray[np.uint8] | None = room[offset : offset + self._num_bytes]
        if not write:
            self._data.flags.writeable = False

    @property
    def num_bytes(self) -> int:
        return self._num_bytes

    @property
    def data(self) -> NDArray[np.uint8]:
        """All of it as bytes. Raises ValueError once freed."""
        if self._data is None:
            raise ValueError("this buffer was freed")
        return self._data

    @property
    def address(self) -> int:
        """Raises ValueError once freed."""
        if self._data is None:
            raise ValueError("this buffer was freed")
        return self._address

    def make_huge(self) -> None:
        """Put huge pages where there are none yet. Raises OSError where the kernel will not, or has none left."""
        self.data[::ALIGNMENT] = 0  # a page that is not there at all is not joined
        for attempt in range(_TRIES):
            if _libc.madvise(self._address, self._num_bytes, _COLLAPSE) == 0:
                return
            if ctypes.get_errno() != errno.EAGAIN or attempt == _TRIES - 1:
                raise _error("huge pages for shared memory")

    def touch(self) -> None:
        """Take the page faults now and not in the first step, where the kernel can (since Linux 5.14)."""
        _libc.madvise(self._address, self._num_bytes, _POPULATE_READ)

    def free(self) -> None:
        """Harmless when repeated. Arrays made from `data` keep the mapping alive."""
        if self._data is not None:
            self._data = None
            self._room = None
            self._release(self._num_bytes)


def _error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")
