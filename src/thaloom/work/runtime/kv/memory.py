"""The memory behind an engine's block pool: how many of its blocks can be written to, and how that changes."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from typing import Protocol

from thaloom.base.errors import DeadlineExceeded, OutOfMemory
from thaloom.hal.driver import ElasticBuffer, Executable
from thaloom.kernel.memory.seat import Seat


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

    @property
    def promised(self) -> int:
        """Blocks there may always be memory for, whatever others want: `limit` is never less. It never changes."""
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
        self.room = self.limit = self.promised = num_blocks

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

    def __init__(self, buffer: ElasticBuffer, executable: Executable, *, floor: int, most: int | None = None) -> None:
        """`most`: blocks there may ever be, if fewer than the buffer has addresses for. Raises OutOfMemory if not even
        the floor can be had."""
        self._buffer = buffer
        self._block_bytes = executable.block_bytes
        self._num_blocks = min(buffer.capacity_bytes // executable.block_bytes, most or sys.maxsize)
        self._floor = min(floor, self._num_blocks)
        self._copy: Callable[[int, int], None] = executable.copy_block
        self._resize(self._floor)

    @property
    def room(self) -> int:
        return min(self._buffer.num_bytes // self._block_bytes, self._num_blocks)

    @property
    def limit(self) -> int:
        return self._num_blocks

    @property
    def promised(self) -> int:
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


class LentKv(ElasticKv):
    """On pages that workers of the device lend each other: none is touched before it is taken at the board, and none
    given back there before the system has it. While a worker that was stopped in its turn keeps the others waiting,
    nothing comes and nothing goes."""

    def __init__(self, buffer: ElasticBuffer, executable: Executable, seat: Seat) -> None:
        """The seat's floor must be held already."""
        self._seat = seat
        self._wanted = seat.held()
        floor_bytes = min(seat.held() * buffer.page_bytes, buffer.capacity_bytes)
        super().__init__(buffer, executable, floor=floor_bytes // executable.block_bytes)

    @property
    def limit(self) -> int:
        return max(self._floor, self._blocks_of(self._seat.target()))

    @property
    def promised(self) -> int:
        return self._floor

    def want(self, num_blocks: int) -> None:
        with contextlib.suppress(DeadlineExceeded):
            self._give_spare()
            self._wanted = self._pages_of(max(num_blocks, self._floor))
            self._seat.want(self._wanted)

    def grow(self, room: int) -> int:
        missing = self._pages_of(room) - self._seat.held()
        if missing > 0:
            with contextlib.suppress(DeadlineExceeded):
                self._seat.take(missing)
                self._seat.want(self._wanted)  # to keep a cache is no reason for others to give anything back
        return super().grow(min(room, self._blocks_of(self._seat.held())))

    def shrink(self, used: int) -> int:
        room = super().shrink(used)
        with contextlib.suppress(DeadlineExceeded):
            self._give_spare()
        return room

    def _give_spare(self) -> None:
        """What the system has back already; also what could not be given earlier."""
        kept = max(self._buffer.num_bytes, self._floor * self._block_bytes)
        if (spare := self._seat.held() + -kept // self._buffer.page_bytes) > 0:
            self._seat.give(spare)

    def _pages_of(self, num_blocks: int) -> int:
        return -(-num_blocks * self._block_bytes // self._buffer.page_bytes)

    def _blocks_of(self, num_pages: int) -> int:
        return min(num_pages * self._buffer.page_bytes // self._block_bytes, self._num_blocks)
