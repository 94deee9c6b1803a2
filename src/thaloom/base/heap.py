"""Memory that the C library keeps for later, given back to the system."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

TOP_BYTES = 1 << 20
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3


def keep_little() -> bool:
    """From here on what is free at the end of a heap goes back when it is more than TOP_BYTES, and what is larger than
    that is mapped for itself. For programs that run long; call it first of all.

    Without it glibc raises both bounds with every large block that is freed, up to 64 MiB, for each of up to eight
    heaps a core, and `give_back` does not look at the ends of heaps: after large requests hundreds of megabytes stayed.
    False: this C library has no such bounds. Source: mallopt(3), glibc.
    """
    mallopt = _function("mallopt", ctypes.c_int, ctypes.c_int)
    return mallopt is not None and all([mallopt(bound, TOP_BYTES) for bound in (_TRIM_THRESHOLD, _MMAP_THRESHOLD)])


def give_back() -> bool:
    """What is free and lies between what is not. Takes less than a millisecond, mostly. False: this C library has no
    way to say so. Source: malloc_trim(3), glibc."""
    trim = _function("malloc_trim", ctypes.c_size_t)
    if trim is None:
        return False
    trim(0)
    return True


@functools.cache
def _function(name: str, *takes: type) -> Callable[..., int] | None:
    try:
        found = getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError):
        return None
    found.argtypes, found.restype = takes, ctypes.c_int
    return found  # type: ignore[no-any-return]
