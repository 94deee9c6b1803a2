"""A file on its way out: a few MiB at once, whatever its length, and not more files at once than memory bears."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

from thaloom.base.errors import QueueFull
from thaloom.edge.api.hub.shelf import Shelf
from thaloom.kernel.models.types import FileEntry, Manifest

MOST_AT_ONCE = 32
"""Each holds a chunk of 4 MiB while its client takes it."""
SEND_BYTES = 256 * 1024


class Handing:
    """The one thing the hub remembers: how many files are on their way."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._at_once = 0

    @contextlib.asynccontextmanager
    async def part(
        self, manifest: Manifest, entry: FileEntry, start: int, stop: int
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """The bytes from `start` to `stop`, once it is sure that the first of them are sound. Raises CorruptObject,
        QueueFull."""
        if self._at_once >= MOST_AT_ONCE:
            raise QueueFull(f"{MOST_AT_ONCE} files are being handed out already", retry_after_s=5)
        self._at_once += 1
        try:
            file = await asyncio.to_thread(self._shelf.open_file, manifest, entry)
            try:
                pieces = file.pieces(start, stop)
                first = await asyncio.to_thread(next, pieces, None)
                yield _slices(first, pieces)
            finally:
                file.close()
        finally:
            self._at_once -= 1


async def _slices(piece: memoryview | None, pieces: Iterator[memoryview]) -> AsyncIterator[bytes]:
    while piece is not None:
        for at in range(0, len(piece), SEND_BYTES):
            yield bytes(piece[at : at + SEND_BYTES])
        piece = await asyncio.to_thread(next, pieces, None)
