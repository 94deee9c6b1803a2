"""How much memory the bodies of all requests may take together, and giving it back when they are gone.

Connections are bounded, and so is each body; thousands of connections with a large body each would still be more than
a machine has. So whoever reads a body `hold`s room for it (visits.py), for what is read and for what becomes of it,
and what does not fit is refused at once. It holds it until the request is over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from thaloom.base.clock import Clock
from thaloom.base.errors import QueueFull, TooLarge
from thaloom.base.units import MIB, format_bytes

MAX_BYTES = 256 * MIB
"""Of all requests together, beyond what each has for itself."""
MAX_OF_ONE = 96 * MIB
"""Of one request: a prompt of a million tokens, as numbers, takes 70 MiB."""
OWN_BYTES = 64 * 1024
"""Each request has so much for itself, so that what is small is never refused for others' sake. The server reads as
much of each connection without asking anybody (uvicorn's HIGH_WATER_LIMIT)."""
WORTH_BYTES = MIB
"""Held by requests that are over. The C library keeps what they freed, in pieces, and what was made of it: a text of
one megabyte takes up to 400 to become tokens. So much is worth tidying up for."""
CALM_S = 10.0
"""Between two tidyings, at least. One took 70 to 120 ms for 130 MB to give back, on two cores with a load of ten; it is
a thread's, but whoever wants memory of the C library waits meanwhile."""
RETRY_S = 1.0


class Room:
    """Belongs to one event loop."""

    def __init__(self, *, max_bytes: int = MAX_BYTES, max_of_one: int = MAX_OF_ONE) -> None:
        self.max_bytes = max_bytes
        self.max_of_one = max_of_one
        self.held_bytes = 0
        self._let_go_bytes = 0
        self._is_worth_it = asyncio.Event()

    def holding(self) -> Holding:
        return Holding(self)

    def check(self) -> None:
        assert 0 <= self.held_bytes <= self.max_bytes, self.held_bytes

    async def tidy(self, clock: Clock, give_back: Callable[[], object]) -> None:
        """For as long as the door lives: `give_back`, in a thread, what large requests left behind. Soon after they are
        over, and not again before CALM_S."""
        while True:
            await self._is_worth_it.wait()
            self._is_worth_it.clear()
            self._let_go_bytes = 0
            await asyncio.to_thread(give_back)
            await clock.sleep(CALM_S)

    def _take(self, num_bytes: int) -> None:
        if self.held_bytes + num_bytes > self.max_bytes:
            raise QueueFull(
                f"requests that are being served hold {format_bytes(self.held_bytes)} of the "
                f"{format_bytes(self.max_bytes)} there are for bodies, and this one needs more than is left",
                retry_after_s=RETRY_S,
            )
        self.held_bytes += num_bytes

    def _let_go(self, num_bytes: int) -> None:
        self.held_bytes -= num_bytes
        self._let_go_bytes += num_bytes
        if self._let_go_bytes >= WORTH_BYTES:
            self._is_worth_it.set()


class Holding:
    """What one request holds."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._num_bytes = 0

    def hold(self, num_bytes: int) -> None:
        """So much more. Raises TooLarge for what no request may hold, QueueFull where others hold too much; then as
        much is held as before."""
        wanted = self._num_bytes + num_bytes
        if wanted > self._room.max_of_one:
            raise TooLarge(
                f"the request would take {format_bytes(wanted)} of memory, with all its values; one may take "
                f"{format_bytes(self._room.max_of_one)}"
            )
        self._room._take(_shared(wanted) - _shared(self._num_bytes))
        self._num_bytes = wanted

    def release(self) -> None:
        """Harmless when repeated."""
        held, self._num_bytes = self._num_bytes, 0
        self._room._let_go(_shared(held))


def _shared(num_bytes: int) -> int:
    return max(0, num_bytes - OWN_BYTES)
