"""Memory is given back where the C library can."""

from __future__ import annotations

import ctypes
import subprocess
import sys
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


HEAP_OF_A_THREAD = """
import ctypes, sys, threading
from tests.unit.base.test_heap import MIB, resident_bytes
from thaloom.base.heap import keep_little

can = keep_little() if sys.argv[1] == "little" else hasattr(ctypes.CDLL(None), "mallopt")
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, (ctypes.c_void_p,)
libc.free(libc.malloc(30 * MIB))  # from which glibc learns to keep so much

def work():
    blocks = [libc.malloc(8192) for _ in range(5000)]
    for block in blocks:
        ctypes.memset(block, 1, 8192)
    for block in reversed(blocks):
        libc.free(block)

before = resident_bytes()
thread = threading.Thread(target=work)
thread.start()
thread.join()
print(int(can), (resident_bytes() - before) // MIB)
"""


def test_the_end_of_a_threads_heap_is_not_kept() -> None:
    def megabytes_kept(how: str) -> int:
        command = (sys.executable, "-c", HEAP_OF_A_THREAD, how)
        can, kept = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        return int(kept) if int(can) else 0

    assert megabytes_kept("little") < 8
