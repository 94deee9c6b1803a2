"""Whole files read past the page cache, which saves a copy and leaves what others have cached where it is.

What lies in the page cache already, as after a pull, is taken from there. Not every file system reads past it (tmpfs
and some overlays refuse), and none has to: the same bytes come through it then. Source: open(2), O_DIRECT; preadv2(2),
RWF_NOWAIT.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

ALIGNMENT = 4096
"""Of addresses, offsets and lengths: what the largest common logical blocks ask for."""
_REFUSED = (errno.EINVAL, errno.EOPNOTSUPP)


def aligned(num_bytes: int) -> memoryview:
    """Memory for `read_whole` of so many bytes."""
    return memoryview(mmap.mmap(-1, max(ALIGNMENT, num_bytes + -num_bytes % ALIGNMENT)))


def read_whole(path: Path, room: memoryview) -> int:
    """Read the file to the start of `room`, made by `aligned`; how many bytes it has, at most that room's. Raises
    OSError."""
    with _opened(path, 0) as file:
        if (cached := _cached(file, room)) is not None:
            return cached
        with contextlib.suppress(_Refused), _opened(path, os.O_DIRECT) as past:
            return _read(past, room)
        return _read(file, room)


class _Refused(Exception):
    """This file system does not read past the page cache."""


@contextlib.contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    """Whatever asks for direct reads in vain raises _Refused, at once or at the first of them."""
    file = -1
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
        yield file
    except OSError as error:
        if flags and error.errno in _REFUSED:
            raise _Refused from error
        raise
    finally:
        if file >= 0:
            os.close(file)


def _cached(file: int, room: memoryview) -> int | None:
    """All of it, if that can be had without waiting for a disk. One page is asked for first: each try that fails makes
    the kernel read ahead what we shall then read again."""
    size = os.fstat(file).st_size
    if size > len(room):
        return None
    with contextlib.suppress(OSError):
        if os.preadv(file, [room[: min(size, ALIGNMENT)]], 0, os.RWF_NOWAIT) == min(size, ALIGNMENT):
            return size if os.preadv(file, [room[:size]], 0, os.RWF_NOWAIT) == size else None
    return None


def _read(file: int, room: memoryview) -> int:
    done = 0
    while done < len(room):
        count = os.preadv(file, [room[done:]], done)
        done += count
        if count == 0 or done % ALIGNMENT:  # only the end of a file is no multiple
            break
    return done
