"""Memory of the host for large arrays: anonymous, zeroed, aligned to 2 MiB, in huge pages where the kernel has them."""

from __future__ import annotations

import mmap
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from thaloom.base.errors import OutOfMemory
from thaloom.base.units import MIB

ALIGNMENT = 2 * MIB
"""The size of a huge page on x86-64 and, with 4 KiB base pages, on aarch64."""


class HostMemory:
    """A driver.Buffer. Pages are committed when first written to; `free` gives them back at once.

    Arrays made from `data` keep the memory alive after `free`, so nothing of ours can ever point at nothing.
    """

    def __init__(self, num_bytes: int, release: Callable[[int], None]) -> None:
        """Raises OutOfMemory. `release(num_bytes)` is called once, by `free`."""
        if num_bytes < 0:
            raise ValueError(f"cannot allocate {num_bytes} bytes")
        self._num_bytes = num_bytes
        self._release = release
        try:
            mapping = mmap.mmap(-1, num_bytes + ALIGNMENT, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except (OSError, OverflowError, ValueError) as error:
            raise OutOfMemory(f"the kernel refused {num_bytes} bytes: {error}", needed_bytes=num_bytes) from error
        if hasattr(mmap, "MADV_HUGEPAGE") and num_bytes >= ALIGNMENT:
            try:
                mapping.madvise(mmap.MADV_HUGEPAGE)
            except OSError:
                pass  # a kernel without transparent huge pages: slower, not wrong
        whole = np.frombuffer(mapping, np.uint8)
        offset = -whole.ctypes.data % ALIGNMENT
        self._address = int(whole.ctypes.data) + offset  # NumPy gives an empty slice the address of what it is cut from
        self._data: NDArray[np.uint8] | None = whole[offset : offset + num_bytes]

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

    def free(self) -> None:
        """Harmless when repeated."""
        if self._data is not None:
            self._data = None
            self._release(self._num_bytes)
