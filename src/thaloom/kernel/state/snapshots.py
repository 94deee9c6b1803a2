"""Files that one process publishes whole and others read: routes, keys."""

from __future__ import annotations

import json
import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from thaloom.base.config import from_mapping
from thaloom.base.errors import BadParameter
from thaloom.base.events import Emit, Event, ignore
from thaloom.base.files import write_atomic

T = TypeVar("T")


def publish(path: Path, snapshot: Any) -> None:
    """Replace the snapshot, a dataclass. Readers see the old one or the new one, never a part."""
    write_atomic(path, msgspec.json.encode(snapshot))


class SnapshotReader(Generic[T]):
    """The latest snapshot, at the cost of one `stat` while it does not change. For one thread.

    The file last read stays open: while it is, no later file can have its inode, so even two snapshots of one size
    within one tick of the file system's clock are told apart.
    """

    def __init__(self, kind: type[T], path: Path, unreadable: Callable[[str], Event], emit: Emit = ignore) -> None:
        self._kind = kind
        self._path = path
        self._unreadable = unreadable
        self._emit = emit
        self._seen: tuple[int, int, int] | None = None
        self._latest: T | None = None
        self._close: Callable[[], object] = lambda: None
        self.problem = ""
        """Of the file last looked at."""

    def latest(self) -> T | None:
        """The last one that could be read; None if none ever could. Raises FileNotFoundError where there is no file."""
        status = self._path.stat()
        if (status.st_mtime_ns, status.st_ino, status.st_size) != self._seen:
            self._read()
        return self._latest

    def _read(self) -> None:
        """Try once for each published file: one that cannot be read is told of once, and the last good one kept."""
        descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        self._close()
        self._close = weakref.finalize(self, os.close, descriptor)
        status = os.fstat(descriptor)
        self._seen = (status.st_mtime_ns, status.st_ino, status.st_size)
        try:
            self._latest = from_mapping(self._kind, json.loads(os.pread(descriptor, status.st_size, 0)))
        except (BadParameter, ValueError, TypeError, AttributeError, RecursionError) as error:
            self.problem = str(error)
            self._emit(self._unreadable(self.problem))
