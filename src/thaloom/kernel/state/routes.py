"""The snapshot the door works from: published whole by the daemon, read by processes that may outlive it."""

from __future__ import annotations

from pathlib import Path

from thaloom.base.errors import NodeNotRunning
from thaloom.base.events import Emit, ignore
from thaloom.kernel.state.events import RoutesUnreadable
from thaloom.kernel.state.snapshots import SnapshotReader, publish
from thaloom.kernel.state.types import Routes

__all__ = ["RouteReader", "publish"]


class RouteReader:
    """The routes last published. For one thread."""

    def __init__(self, path: Path, emit: Emit = ignore) -> None:
        self._path = path
        self._file = SnapshotReader(Routes, path, lambda why: RoutesUnreadable(path=str(path), problem=why), emit)

    def current(self) -> Routes:
        """Raises NodeNotRunning where no snapshot is, or never was a readable one."""
        try:
            routes = self._file.latest()
        except FileNotFoundError as error:
            raise NodeNotRunning(f"no node is running here: {str(self._path)!r} does not exist") from error
        if routes is None:
            raise NodeNotRunning(f"the node's routes {str(self._path)!r} cannot be read: {self._file.problem}")
        return routes
