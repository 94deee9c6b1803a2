"""Who was turned away at the door, told to the daemon, whose journal it belongs in: at once, then once a minute.

The door's own log has every one of them (access_log); this is for the record that cannot be altered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from thaloom.base.clock import Clock
from thaloom.base.errors import RateLimited, ThaloomError, Unauthorized

EACH_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnedAway:
    """The latest, and how many since the last that was told."""

    address: str
    what: str
    code: str
    message: str
    num: int


class Refusals:
    """Belongs to one event loop. `tell` may raise a leaf of the tree: then it is told with the next."""

    def __init__(self, tell: Callable[[TurnedAway], Awaitable[None]], clock: Clock) -> None:
        self._tell = tell
        self._clock = clock
        self._num = 0
        self._told_at = -EACH_S
        self._telling: asyncio.Task[None] | None = None

    def note(self, address: str, what: str, error: ThaloomError) -> None:
        """Of a request that was not let in. Others are none of ours."""
        guessed = isinstance(error, RateLimited) and error.details.get("limit_of") == "guesses"
        if not isinstance(error, Unauthorized) and not guessed:
            return
        self._num += 1
        now = self._clock.monotonic()
        if now - self._told_at < EACH_S or (self._telling is not None and not self._telling.done()):
            return
        self._told_at = now
        told = TurnedAway(address=address, what=what, code=error.code, message=error.message, num=self._num)
        self._telling = asyncio.create_task(self._report(told))

    async def _report(self, told: TurnedAway) -> None:
        try:
            await self._tell(told)
        except (ThaloomError, OSError):  # without a daemon there is no journal; the door's log has it
            return
        self._num -= told.num
