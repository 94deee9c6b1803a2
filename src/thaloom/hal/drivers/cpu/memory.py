"""Memory of the host for large arrays: anonymous, zeroed, aligned to 2 MiB, in huge pages where the kernel has them."""

from __future__ import annotations

import errno
import mmap
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from thaloom.base.errors import OutOfMemory
from thaloom.base.units import MIB
from thaloom.hal.host import Budget

_NO_RESERVE = 0x4000
"""Linux's MAP_NORESERVE on x86-64 and aarch64: addresses are not counted as if all of them were to be used."""
ALIGNMENT = 2 * MIB
"""The size of a huge page on x86-64 and, with 4 KiB base pages, on aarch64."""
_MADV_POPULATE_WRITE = 23
"""Since Linux 5.14; Python has no name for it yet. Source: madvise(2)."""


class HostMemory:
    """A driver.Buffer. Pages are committed when first written to, or by `commit`; `decommit` gives some back at once,
    `free` all.

    Arrays made from `data` keep the memory alive after `free`, so nothing of ours can ever point at nothing.
    """

    _flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS

    def __init__(self, num_bytes: int, release: Callable[[int], None]) -> None:
        """Raises OutOfMemory. `release(num_bytes)` is called once, by `free`."""
        if num_bytes < 0:
            raise ValueError(f"cannot allocate {num_bytes} bytes")
        self._num_bytes = num_bytes
        self._release = release
        try:
            mapping = mmap.mmap(-1, num_bytes + ALIGNMENT, flags=self._flags)
        except (OSError, OverflowError, ValueError) as error:
            raise OutOfMemory(f"the kernel refused {num_bytes} bytes: {error}", needed_bytes=num_bytes) from error
        if hasattr(mmap, "MADV_HUGEPAGE") and num_bytes >= ALIGNMENT:
            try:
                mapping.madvise(mmap.MADV_HUGEPAGE)
            except OSError:
                pass  # a kernel without transparent huge pages: slower, not wrong
        self._mapping: mmap.mmap | None = mapping
        whole = np.frombuffer(mapping, np.uint8)
        self._offset = -whole.ctypes.data % ALIGNMENT
        # NumPy gives an empty slice the address of what it is cut from.
        self._address = int(whole.ctypes.data) + self._offset
        self._data: NDArray[np.uint8] | None = whole[self._offset : self._offset + num_bytes]

    @property
    def num_bytes(self) -> int:
        return self._num_bytes

    @property
    def capacity_bytes(self) -> int:
        """What it has addresses for."""
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

    def commit(self, offset: int, num_bytes: int) -> None:
        """Have the pages that hold these bytes now rather than when they are written to; what is in them stays, new
        ones are zeros. Raises OutOfMemory where the kernel knows it has none left, ValueError once freed."""
        mapping = self._mapping_of(offset, num_bytes)
        begin = (self._offset + offset) // mmap.PAGESIZE * mmap.PAGESIZE
        try:
            mapping.madvise(_MADV_POPULATE_WRITE, begin, self._offset + offset + num_bytes - begin)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise OutOfMemory(f"the kernel refused {num_bytes} bytes: {error}", needed_bytes=num_bytes) from error
            self.data[offset : offset + num_bytes : mmap.PAGESIZE] |= 0  # before Linux 5.14: a write to each

    def decommit(self, offset: int, num_bytes: int) -> int:
        """Give the memory of whole pages of ALIGNMENT among these bytes back to the system, and stay in place: they
        read as zeros from now on, and are committed anew when written to. How many bytes that were. Raises ValueError
        once freed."""
        mapping = self._mapping_of(offset, num_bytes)
        begin = -(-offset // ALIGNMENT) * ALIGNMENT
        end = (offset + num_bytes) // ALIGNMENT * ALIGNMENT
        if begin >= end:
            return 0
        mapping.madvise(mmap.MADV_DONTNEED, self._offset + begin, end - begin)
        return end - begin

    def _mapping_of(self, offset: int, num_bytes: int) -> mmap.mmap:
        if self._mapping is None:
            raise ValueError("this buffer was freed")
        if not 0 <= offset <= offset + num_bytes <= self._num_bytes:
            raise ValueError(f"{num_bytes} bytes from {offset} on do not lie within {self._num_bytes}")
        return self._mapping

    def free(self) -> None:
        """Harmless when repeated."""
        if self._data is not None:
            self._data = self._mapping = None
            self._release(self._num_bytes)


class ElasticHostMemory(HostMemory):
    """A driver.ElasticBuffer: addresses for all of it, memory for its beginning, which the budget counts."""

    page_bytes = ALIGNMENT
    _flags = HostMemory._flags | _NO_RESERVE

    def __init__(self, capacity_bytes: int, budget: Budget) -> None:
        """Raises OutOfMemory where there are not so many addresses."""
        super().__init__(capacity_bytes, lambda _: budget.give_back(self._committed_bytes))
        self._budget = budget
        self._committed_bytes = 0

    @property
    def num_bytes(self) -> int:
        return min(self._committed_bytes, self.capacity_bytes)

    def resize(self, num_bytes: int) -> None:
        if self._mapping is None or not 0 <= num_bytes <= self.capacity_bytes:
            raise ValueError(f"{num_bytes} bytes of {self.capacity_bytes}, or this buffer was freed")
        committed = -(-num_bytes // ALIGNMENT) * ALIGNMENT  # the mapping is a page longer than what is asked for
        more = committed - self._committed_bytes
        if more > 0:
            self._budget.reserve(more)
        elif more < 0:
            self._mapping.madvise(mmap.MADV_DONTNEED, self._offset + committed, -more)
            self._budget.give_back(-more)
        self._committed_bytes = committed
