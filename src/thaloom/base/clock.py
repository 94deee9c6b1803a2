"""Time as an argument: nothing above this file asks the system for it, so tests and rehearsals never wait."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Coroutine
from typing import Any, Protocol


class Clock(Protocol):
    """`now` for people and files, `monotonic` for durations and deadlines. Both in seconds."""

    def now(self) -> float: ...
    def monotonic(self) -> float: ...
    async def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class ManualClock:
    """Time that moves only when told to. Sleepers wake in the order of their deadlines."""

    def __init__(self, start: float = 0.0) -> None:
        self._now = start
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._num_sleeps = 0

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        wake: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._num_sleeps += 1
        heapq.heappush(self._sleepers, (self._now + seconds, self._num_sleeps, wake))
        await wake

    async def advance(self, seconds: float) -> None:
        """Move on by `seconds`, letting every sleeper due on the way run before time goes further."""
        target = self._now + seconds
        while self._sleepers and self._sleepers[0][0] <= target:
            self._now, _, wake = heapq.heappop(self._sleepers)
            if not wake.done():
                wake.set_result(None)
            for _ in range(8):  # what was woken may itself go to sleep again before `target`
                await asyncio.sleep(0)
        self._now = target


async def first_of(*waits: Coroutine[Any, Any, object]) -> None:
    """When one of them is over (news, say, or a time); the others are given up."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)  # ours to be cancelled in, which is not theirs
