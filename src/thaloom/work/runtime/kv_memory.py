"""The memory behind an engine's block pool: how many of its blocks can be written to, and how that changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from thaloom.base.errors import OutOfMemory
from thaloom.hal.driver import ElasticBuffer, Executable


class KvMemory(Protocol):
    """Used by the engine's thread, between two steps."""

    @property
    def room(self) -> int:
        """Blocks there is memory for: those of lower numbers."""
        ...

    @property
    def is_fixed(self) -> bool:
        """Whether the room never changes."""
        ...

    @property
    def limit(self) -> int:
        """Blocks it may have memory for now: fewer than the room where others are to have some of it back."""
        ...

    def want(self, num_blocks: int) -> None:
        """How many would be of use now: what is lent to others meanwhile is decided by that."""
        ...

    def grow(self, room: int) -> int:
        """Have memory for at least so many blocks, or for as many as can be had. How many there are then."""
        ...

    def shrink(self, used: int) -> int:
        """Only the first `used` blocks hold anything: the rest goes back to the system. Blocks there is memory for
        then, which may be more: pages are whole, and some are promised."""
        ...

    def copy(self, source: int, target: int) -> None:
        """Make block `target` hold what block `source` holds."""
        ...


class FixedKv:
    """Memory for all blocks, for as long as the model is loaded."""

    is_fixed = True

    def __init__(self, num_blocks: int) -> None:
        self.room = self.limit = num_blocks

    def want(self, num_blocks: int) -> None:
        pass

    def grow(self, room: int) -> int:  # noqa: ARG002
        return self.room

    def shrink(self, used: int) -> int:  # noqa: ARG002
        return self.room

    def copy(self, source: int, target: int) -> None:
        raise AssertionError(f"block {source} was to move to {target}, though nothing ever goes back")


class ElasticKv:
    """Memory for as many blocks as are asked for, in whole pages of a buffer that is bound to the executable. That for
    the first `floor` is promised, so that whoever is alone can always go on."""

    is_fixed = False

    def __init__(self, buffer: ElasticBuffer, executable: Executable, *, floor: int) -> None:
        """Raises OutOfMemory if not even the floor can be had."""
        self._buffer = buffer
        self._block_bytes = executable.block_bytes
        self._num_blocks = buffer.capacity_bytes // executable.block_bytes
        self._floor = min(floor, self._num_blocks)
        self._copy: Callable[[int, int], None] = executable.copy_block
        self._resize(self._floor)

    @property
    def room(self) -> int:
        return self._buffer.num_bytes // self._block_bytes

    @property
    def limit(self) -> int:
        return self._num_blocks

    def want(self, num_blocks: int) -> None:
        pass

    def grow(self, room: int) -> int:
        try:
            self._resize(room)
        except OutOfMemory:
            pass  # others have it: who asked goes on with what there is
        return self.room

    def shrink(self, used: int) -> int:
        self._resize(used)
        self._resize(max(used, self._floor))
        return self.room

    def copy(self, source: int, target: int) -> None:
        self._copy(source, target)

    def _resize(self, num_blocks: int) -> None:
        self._buffer.resize(num_blocks * self._block_bytes)
