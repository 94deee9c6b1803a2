"""A page for keys: never in a core dump, never in swap, and a descriptor to hand it on by.

`memfd_secret` where the kernel has it: its pages are locked, left out of dumps, and not even in the kernel's own map
of memory, so that not even root reads them through /proc. Else an ordinary memfd, locked and left out of dumps.
Source: memfd_secret(2), mlock(2), madvise(2) MADV_DONTDUMP, prctl(2) PR_SET_DUMPABLE.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import resource
import weakref
from pathlib import Path
from typing import Literal

_MEMFD_SECRET = 447
"""The same number on every architecture (Linux 5.14)."""
_PR_SET_DUMPABLE = 4
_libc = ctypes.CDLL(None, use_errno=True)


class SecretMemory:
    """One page. `view` is its bytes, zero at first; it is wiped when its maker closes or forgets it."""

    def __init__(self, descriptor: int, kind: Literal["memfd_secret", "memfd"], *, owner: bool) -> None:
        self._descriptor = descriptor
        self.kind = kind
        self._map = mmap.mmap(descriptor, mmap.PAGESIZE)
        self._map.madvise(mmap.MADV_DONTDUMP)
        self.locked = kind == "memfd_secret" or _lock(self._map)
        """Whether it stays out of swap; False where the host allows no locked memory at all."""
        self.view = memoryview(self._map)
        self._finish = weakref.finalize(self, _put_away, self._map, self.view, descriptor, owner)

    @classmethod
    def make(cls) -> SecretMemory:
        """An empty page. Raises OSError."""
        with contextlib.suppress(OSError):
            return cls(_new_secret(), "memfd_secret", owner=True)
        descriptor = os.memfd_create("thaloom-keys", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, mmap.PAGESIZE)
        return cls(descriptor, "memfd", owner=True)

    @classmethod
    def inherit(cls, descriptor: int) -> SecretMemory:
        """The page a parent made; the descriptor is ours from here on, and goes to no child of ours by itself.
        Raises OSError."""
        os.set_inheritable(descriptor, False)
        target = Path(f"/proc/self/fd/{descriptor}").readlink()
        return cls(descriptor, "memfd_secret" if "secretmem" in str(target) else "memfd", owner=False)

    def fileno(self) -> int:
        return self._descriptor

    def close(self) -> None:
        self._finish()


def shield_process() -> None:
    """No core dump of this process, and nobody of the same user looks into it: for whoever holds a key."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _new_secret() -> int:
    descriptor = int(_libc.syscall(_MEMFD_SECRET, os.O_CLOEXEC))
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "memfd_secret")
    try:
        os.ftruncate(descriptor, mmap.PAGESIZE)
        mmap.mmap(descriptor, mmap.PAGESIZE).close()  # more locked memory than is allowed shows only here
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _lock(page: mmap.mmap) -> bool:
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    return bool(_libc.mlock(ctypes.c_void_p(address), ctypes.c_size_t(mmap.PAGESIZE)) == 0)


def _put_away(page: mmap.mmap, view: memoryview, descriptor: int, owner: bool) -> None:
    if owner:
        view[:] = bytes(len(view))
    with contextlib.suppress(BufferError):  # a part of it is still looked at; it is wiped, and goes with its reader
        view.release()
        page.close()
    os.close(descriptor)
