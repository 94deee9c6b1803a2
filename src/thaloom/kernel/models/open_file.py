"""A stored file whose bytes are handed on: any part of it, each chunk checked before a byte of it leaves."""

from __future__ import annotations

from collections.abc import Iterator

from thaloom.base.errors import CorruptObject
from thaloom.kernel.models.locks import StoreLock
from thaloom.kernel.models.objects import BadObject, Objects
from thaloom.kernel.models.reading import read_entry_tree
from thaloom.kernel.models.types import FileEntry


class OpenFile:
    """For one thread at a time. `close` it: it keeps the store from being swept."""

    def __init__(self, entry: FileEntry, trees: Objects, chunks: Objects, lock: StoreLock) -> None:
        self._entry = entry
        self._chunks = chunks
        self._lock = lock
        try:
            self._tree = read_entry_tree(trees, entry)
        except BadObject as error:
            lock.close()
            raise self._corrupt(error) from error

    def pieces(self, start: int, stop: int) -> Iterator[memoryview]:
        """Bytes `start` to `stop`, at most a chunk (4 MiB) at once. Raises CorruptObject where the file is damaged."""
        at = 0
        for chunk in self._tree.chunks:
            begin, end = max(start, at), min(stop, at + chunk.num_bytes)
            if begin < end:
                try:
                    data = self._chunks.read(chunk.digest, chunk.num_bytes)
                except BadObject as error:
                    raise self._corrupt(error) from error
                yield memoryview(data)[begin - at : end - at]
            at += chunk.num_bytes
            if at >= stop:
                return

    def close(self) -> None:
        self._lock.close()

    def _corrupt(self, error: BadObject) -> CorruptObject:
        return CorruptObject(f"file {self._entry.path!r} is {error.problem}: {error.message}", file=self._entry.path)
