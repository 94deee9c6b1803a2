"""Two kinds of right to the store, held by one opening of a lock file: many may read and add, or one may delete.

`flock` belongs to the open file and not to the process, so the same lock serves threads and processes alike, and ends
by itself with whoever held it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import weakref
from pathlib import Path
from types import TracebackType


class StoreLock:
    """A held lock. Released by `close`, by leaving a `with`, or when nobody refers to it any more."""

    def __init__(self, descriptor: int) -> None:
        self._release = weakref.finalize(self, os.close, descriptor)

    def close(self) -> None:
        self._release()

    def __enter__(self) -> StoreLock:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def share(path: Path) -> StoreLock:
    """Keep deleters away. Waits while one runs, which is as long as deleting files takes."""
    return _take(path, fcntl.LOCK_SH)


def exclude(path: Path) -> StoreLock:
    """Be alone. Waits for the others; only for sections that end by themselves and soon."""
    return _take(path, fcntl.LOCK_EX)


def try_exclude(path: Path) -> StoreLock | None:
    """Be alone, or None if anybody else holds the lock."""
    try:
        return _take(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None


def _take(path: Path, mode: int) -> StoreLock:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES):
            raise
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # a reader behind walls: a lock needs no writing
    try:
        fcntl.flock(descriptor, mode)
    except BaseException:
        os.close(descriptor)
        raise
    return StoreLock(descriptor)
