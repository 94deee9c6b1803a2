"""The snapshot the door works from: published whole by the daemon, read by processes that may outlive it."""

from __future__ import annotations

import dataclasses
import json
import os
import weakref
from collections.abc import Callable
from pathlib import Path

from thaloom.base.config import from_mapping
from thaloom.base.errors import BadParameter, NodeNotRunning
from thaloom.base.events import Emit, ignore
from thaloom.base.files import write_atomic
from thaloom.kernel.state.events import RoutesUnreadable
from thaloom.kernel.state.types import Routes


def publish(path: Path, routes: Routes) -> None:
    """Replace the snapshot. Readers see the old one or the new one, never a part."""
    write_atomic(path, json.dumps(dataclasses.asdict(routes), ensure_ascii=False, allow_nan=False))


class RouteReader:
    """The latest snapshot, at the cost of one `stat` while it does not change. For one thread.

    The file last read stays open: while it is, no later file can have its inode, so even two snapshots of one size
    within one tick of the file system's clock are told apart.
    """

    def __init__(self, path: Path, emit: Emit = ignore) -> None:
        self._path = path
        self._emit = emit
        self._seen: tuple[int, int, int] | None = None
        self._routes: Routes | None = None
        self._problem = ""
        self._close: Callable[[], object] = lambda: None

    def current(self) -> Routes:
        """Raises NodeNotRunning where no snapshot is, or never was a readable one."""
        try:
            status = self._path.stat()
            if (status.st_mtime_ns, status.st_ino, status.st_size) != self._seen:
                self._read()
        except FileNotFoundError as error:
            raise NodeNotRunning(f"no node is running here: {str(self._path)!r} does not exist") from error
        if self._routes is None:
            raise NodeNotRunning(f"the node's routes {str(self._path)!r} cannot be read: {self._problem}")
        return self._routes

    def _read(self) -> None:
        """Try once for each published file: one that cannot be read is told of once, and the last good one kept."""
        descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        self._close()
        self._close = weakref.finalize(self, os.close, descriptor)
        status = os.fstat(descriptor)
        self._seen = (status.st_mtime_ns, status.st_ino, status.st_size)
        try:
            self._routes = from_mapping(Routes, json.loads(os.pread(descriptor, status.st_size, 0)))
        except (BadParameter, ValueError, TypeError, AttributeError, RecursionError) as error:
            self._problem = str(error)
            self._emit(RoutesUnreadable(path=str(self._path), problem=self._problem))
