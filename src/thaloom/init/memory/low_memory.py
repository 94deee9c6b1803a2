"""Low memory: what the node keeps for itself, and who is told to wait.

The kernel has no room to set apart for one process on every host, so three things are done, none of them a promise:
what is begun anew is refused while next to nothing is available (what runs goes on; stop, heal and journal are never
asked); a few locked pages, and weights that no worker uses, are given back at that moment; and where control groups are
of version 2 the node's own group is kept from reclaim (kernel.sandbox.protection). That the kernel takes others first
is their oom score.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
from collections.abc import Callable
from dataclasses import dataclass

from thaloom.base.clock import Clock
from thaloom.base.errors import OutOfMemory
from thaloom.base.events import Emit, Event, at_level
from thaloom.base.units import MIB, format_bytes
from thaloom.kernel.state.types import Condition

RESERVE_BYTES = 4 * MIB
"""What a daemon takes to write its journal, stop what runs and start a worker anew; given back it is the host's, and
may be taken by whoever is faster."""
LOOK_S = 1.0
_RETRY_S = 10.0
_libc = ctypes.CDLL(None, use_errno=True)


@at_level("error")
@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryLow(Event):
    """Next to no memory is available: nothing new is begun, and what the node kept for itself is given up."""

    available_bytes: int
    low_bytes: int
    given_up_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryBack(Event):
    """There is memory again."""

    available_bytes: int


class MemoryReserve:
    """Pages that are really there, locked where this user may lock them."""

    def __init__(self, num_bytes: int = RESERVE_BYTES) -> None:
        self._num_bytes = num_bytes
        self._pages: mmap.mmap | None = None
        self.locked = False

    @property
    def held_bytes(self) -> int:
        return 0 if self._pages is None else self._num_bytes

    def take(self) -> None:
        """Nothing if it is held already, or cannot be had."""
        if self._pages is not None:
            return
        with contextlib.suppress(OSError, MemoryError):
            pages = mmap.mmap(-1, self._num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            for at in range(0, self._num_bytes, mmap.PAGESIZE):
                pages[at] = 1  # a page that was never touched is not there
            view = (ctypes.c_char * self._num_bytes).from_buffer(pages)
            self.locked = _libc.mlock(ctypes.byref(view), ctypes.c_size_t(self._num_bytes)) == 0
            del view
            self._pages = pages

    def release(self) -> int:
        """How many bytes that gave back."""
        pages, self._pages = self._pages, None
        if pages is None:
            return 0
        pages.close()
        return self._num_bytes


class MemoryWatch:
    """`available()`: bytes a new process could take. Below `low_bytes` memory is low, until twice that is there."""

    def __init__(
        self,
        *,
        low_bytes: int,
        available: Callable[[], int],
        clock: Clock,
        emit: Emit,
        reserve: MemoryReserve | None = None,
        give_up: Callable[[], int] = lambda: 0,
    ) -> None:
        """`give_up()` gives back what is kept and not used; how many bytes that were."""
        self._low_bytes = low_bytes
        self._available = available
        self._clock = clock
        self._emit = emit
        self._give_up = give_up
        self._since: float | None = None
        self.reserve = MemoryReserve() if reserve is None else reserve

    def look(self) -> int:
        """What is available; heeds it. Some files of /proc are read."""
        available = self._available()
        if self._since is None and available < self._low_bytes:
            self._since = self._clock.now()
            given_up = self.reserve.release() + self._give_up()
            self._emit(MemoryLow(available_bytes=available, low_bytes=self._low_bytes, given_up_bytes=given_up))
        elif available < self._low_bytes:
            self._give_up()
        elif available >= 2 * self._low_bytes:
            if self._since is not None:
                self._since = None
                self._emit(MemoryBack(available_bytes=available))
            if available >= 2 * self._low_bytes + RESERVE_BYTES:
                self.reserve.take()
        return available

    def require(self, what: str) -> None:
        """Before something new is begun. Raises OutOfMemory with the figures."""
        available = self.look()
        if self._since is not None:
            raise OutOfMemory(
                f"{what} is not begun: {format_bytes(available)} of memory are available, and below "
                f"{format_bytes(2 * self._low_bytes)} nothing new is",
                retry_after_s=_RETRY_S,
                available_bytes=available,
                needed_bytes=2 * self._low_bytes,
            )

    def conditions(self) -> tuple[Condition, ...]:
        if self._since is None:
            return ()
        message = "next to no memory is available; nothing new is begun until there is more"
        return (Condition(kind="Degraded", status=True, reason="LowMemory", message=message, since=self._since),)

    def out_of_memory(self) -> None:
        """An allocation of ours has failed."""
        self.reserve.release()

    async def run(self) -> None:
        while True:
            self.look()
            await self._clock.sleep(LOOK_S)
