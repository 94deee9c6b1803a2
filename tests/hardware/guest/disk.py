"""The guest's empty disk: its number, and some of it as swap space."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from collections.abc import Iterator
from pathlib import Path

_PAGE = 4096


def device_number(path: str) -> str:
    facts = Path(path).stat().st_rdev
    return f"{os.major(facts)}:{os.minor(facts)}"


@contextlib.contextmanager
def swapping(path: str, num_bytes: int) -> Iterator[None]:
    """Source: mkswap(8) and include/linux/swap.h, `union swap_header`: version, last page, number of bad pages."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path(path).open("r+b") as disk:
        disk.seek(1024)
        disk.write(struct.pack("<III", 1, num_bytes // _PAGE - 1, 0))
        disk.seek(_PAGE - 10)
        disk.write(b"SWAPSPACE2")
    if libc.swapon(path.encode(), 0):
        raise OSError(ctypes.get_errno(), "swapon")
    try:
        yield
    finally:
        if libc.swapoff(path.encode()):
            raise OSError(ctypes.get_errno(), "swapoff")
