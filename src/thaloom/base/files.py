"""Files that are either whole or not there: write to `.partial`, flush to the disk, rename."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from thaloom.base.errors import DiskFull
from thaloom.base.units import format_bytes

_serial = itertools.count()  # two threads may write the same path at once

PARTIAL = ".partial"
"""Suffix of a file being written. Nothing ever reads one; any may be deleted when no writer runs."""


@contextlib.contextmanager
def atomic_writer(path: Path, *, sync: bool = True) -> Iterator[IO[bytes]]:
    """A binary file that appears at `path` only if the block ends well; otherwise nothing is left behind.

    Raises DiskFull when the disk is. With `sync=False` the caller flushes many files at once later.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.{next(_serial)}{PARTIAL}")
    try:
        with disk_errors(path):
            with partial.open("wb") as file:
                yield file
                file.flush()
                if sync:
                    os.fsync(file.fileno())
            partial.replace(path)
            if sync:
                sync_folder(path.parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_atomic(path: Path, data: bytes | str) -> None:
    """Replace `path` as a whole, or leave it as it was."""
    with atomic_writer(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def remove(path: Path) -> None:
    """A file, or a folder with all in it; nothing if it is gone. Never follows a link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` survive a power loss."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn 'no space left' and 'quota exceeded' into DiskFull, which names the place and what is free."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFull(f"no space left on the disk of {str(path)!r}", free_bytes=free_bytes(path)) from error


def free_bytes(path: Path) -> int:
    """Bytes an ordinary user may still write on the file system that holds (or will hold) `path`."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free


def require_space(path: Path, num_bytes: int) -> None:
    """Raise DiskFull now rather than half-way: `num_bytes` must fit where `path` lies."""
    free = free_bytes(path)
    if num_bytes > free:
        raise DiskFull(
            f"{format_bytes(num_bytes)} needed on the disk of {str(path)!r}, {format_bytes(free)} free",
            needed_bytes=num_bytes,
            free_bytes=free,
        )


class FolderLock:
    """Exclusive right to a folder, held by this process until closed or dead (flock on `<folder>/lock`)."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    @classmethod
    def take(cls, folder: Path) -> FolderLock | None:
        """The lock, or None if another living process has it. The holder's pid is in the file."""
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "lock").open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        return cls(file)

    def close(self) -> None:
        self._file.close()
