"""The keys the door lets in, as it reads them."""

from __future__ import annotations

from pathlib import Path

from thaloom.base.errors import StateUnusable
from thaloom.base.events import Emit, ignore
from thaloom.kernel.state.events import KeysUnreadable
from thaloom.kernel.state.snapshots import SnapshotReader
from thaloom.kernel.state.types import Keys

NO_KEYS = Keys(version=0, published_at=0.0, require_keys=False)


class KeyReader:
    """The keys last published. For one thread."""

    def __init__(self, path: Path, emit: Emit = ignore) -> None:
        self._path = path
        self._file = SnapshotReader(Keys, path, lambda why: KeysUnreadable(path=str(path), problem=why), emit)

    def current(self) -> Keys:
        """NO_KEYS where none were published. Raises StateUnusable where they were and never could be read: who may
        come in is then not known, so nobody may."""
        try:
            keys = self._file.latest()
        except FileNotFoundError:
            return NO_KEYS
        if keys is None:
            raise StateUnusable(f"the node's keys {str(self._path)!r} cannot be read: {self._file.problem}")
        return keys
