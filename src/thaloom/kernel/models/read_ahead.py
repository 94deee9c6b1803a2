"""Chunks of one file, fetched by several threads ahead of whoever reads them in order; each checked as it comes.

Checking costs as much time as reading: one thread would do the one while the other waits. Memory for the chunks is
taken once and used again, in the order in which they were asked for.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Executor, Future

from thaloom.kernel.models.direct import aligned
from thaloom.kernel.models.objects import Objects
from thaloom.kernel.models.trees import Chunk

NUM_THREADS = 4
"""Enough that the disk always has something to do while chunks are checked: benchmarks/cold_load.py."""
AHEAD = 8
"""Chunks beyond the one that is waited for."""
_KEPT = 4
"""Chunks behind it: what lies next to a tensor is often the next one."""


class ReadAhead:
    """For one thread at a time; `threads` are the caller's."""

    def __init__(self, objects: Objects, chunks: Sequence[Chunk], threads: Executor) -> None:
        self._objects = objects
        self._chunks = chunks
        self._threads = threads
        self._most_bytes = max((chunk.num_bytes for chunk in chunks), default=0)
        self._fetched: OrderedDict[int, tuple[Future[None], memoryview]] = OrderedDict()
        self._rooms: list[memoryview] = []

    def has(self, i: int) -> bool:
        return i in self._fetched

    def fetch(self, wanted: Sequence[int]) -> None:
        """Begin with these, as many as there is room for, and keep those that are here already."""
        wanted = wanted[: AHEAD + 1]
        for i in wanted:
            if i in self._fetched:
                self._fetched.move_to_end(i)
        for i in wanted:
            if i not in self._fetched:
                room = self._room()
                chunk = self._chunks[i]
                fetching = self._threads.submit(self._objects.read_direct, chunk.digest, room, chunk.num_bytes)
                self._fetched[i] = (fetching, room)

    def take(self, i: int) -> memoryview:
        """The chunk, which was asked for: valid until the next `fetch`. Raises BadObject, and what the key's source
        raises."""
        fetching, room = self._fetched[i]
        try:
            fetching.result()
        except BaseException:
            del self._fetched[i]
            self._rooms.append(room)
            raise
        finally:
            del fetching  # it holds what was raised, which holds this frame: nothing of it may outlive the caller
        return room[: self._chunks[i].num_bytes]

    def _room(self) -> memoryview:
        if not self._rooms and len(self._fetched) > AHEAD + _KEPT:
            _, (fetching, room) = self._fetched.popitem(last=False)
            if not fetching.cancel():
                fetching.exception()  # nobody came for it, whatever became of it
            return room
        return self._rooms.pop() if self._rooms else aligned(self._most_bytes)
