"""Memory is given back where the C library can."""

from __future__ import annotations

import ctypes
from pathlib import Path

from thaloom.base.heap import give_back

MIB = 1024 * 1024


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_what_was_freed_between_what_was_not_goes_back() -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, (ctypes.c_void_p,)
    size = 64 * 1024  # below what glibc maps by itself
    blocks = [libc.malloc(size) for _ in range(2000)]
    for block in blocks:
        ctypes.memset(block, 1, size)
    for block in blocks[:-1]:
        libc.free(block)
    before = resident_bytes()
    can = give_back()
    after = resident_bytes()
    libc.free(blocks[-1])
    assert can == hasattr(libc, "malloc_trim")
    assert not can or before - after > 64 * MIB
