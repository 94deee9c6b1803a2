"""What the door does while nobody waits for it: claimed out of the store, worked on, given back when the door closes.

It holds nothing that is not also kept: a door that is killed loses what it was just doing, and another does it again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from thaloom.base.clock import Clock
from thaloom.base.errors import InternalError, ThaloomError
from thaloom.base.events import Emit, Event, at_level

POLL_S = 5.0
"""Between two looks for what other doors did: new things to do, cancelled ones, those of doors that died."""
SWEEP_S = 3600.0
REST_S = 30.0
"""Before what could not go on (a full disk ...) is tried again."""


@at_level("warning")
@dataclass(frozen=True, slots=True, kw_only=True)
class ErrandStalled(Event):
    """It cannot go on now, and is tried again. Without an id: nothing of this kind can be begun."""

    kind: str
    id: str
    code: str
    message: str


class Errand(Protocol):
    """One thing to do."""

    @property
    def id(self) -> str: ...


class Kind(Protocol):
    """A kind of things to do. `claim` and `release` wait for a disk."""

    name: str
    most: int
    """At once in one door: one that waits for a model to load does not hold up the others."""

    def claim(self, beside: Collection[str]) -> Errand | None:
        """One that nobody works on, but none of `beside`: ours until it is released."""
        ...

    async def work(self, errand: Any) -> None:
        """Until there is nothing left to do about it."""
        ...

    def release(self, errand_id: str) -> None: ...


class News:
    """Something changed in the store: whoever waits looks at once. For one event loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.coming = asyncio.Event()

    def tell(self) -> None:
        news, self.coming = self.coming, asyncio.Event()
        news.set()

    async def wait(self, coming: asyncio.Event, *others: asyncio.Task[None]) -> None:
        """Until there is news (`coming`, taken before one looked), one of the others ends, or it is time to look."""
        await heard(self._clock, coming, POLL_S, *others)


async def heard(clock: Clock, coming: asyncio.Event, seconds: float, *others: asyncio.Task[None]) -> None:
    """Wait until it comes, one of the others ends, or so long."""
    waiting = [asyncio.create_task(coming.wait()), asyncio.create_task(clock.sleep(seconds))]
    try:
        await asyncio.wait((*waiting, *others), return_when=asyncio.FIRST_COMPLETED)
    finally:
        await _end(waiting)


class Errands:
    """Call `run` in a task; cancelling that gives everything back. `sweep` is done at first and then every hour."""

    def __init__(
        self, kinds: Sequence[Kind], *, sweep: Callable[[], None], news: News, clock: Clock, emit: Emit
    ) -> None:
        self._kinds = kinds
        self._sweep = sweep
        self._sweep_at = clock.monotonic()
        self._news = news
        self._clock = clock
        self._emit = emit
        self._working: dict[str, dict[str, asyncio.Task[None]]] = {kind.name: {} for kind in kinds}
        self._stalled: dict[str, str] = {}

    async def run(self) -> None:
        try:
            while True:
                coming = self._news.coming
                for kind in self._kinds:
                    await self._supervised(kind.name, self._take_more(kind))
                if self._clock.monotonic() >= self._sweep_at:
                    await self._supervised("sweep", asyncio.to_thread(self._sweep))
                    self._sweep_at = self._clock.monotonic() + SWEEP_S
                await self._news.wait(coming, *self._tasks())
        finally:
            await _end(self._tasks())

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [task for tasks in self._working.values() for task in tasks.values()]

    async def _take_more(self, kind: Kind) -> None:
        working = self._working[kind.name]
        for errand_id in [errand_id for errand_id, task in working.items() if task.done()]:
            del working[errand_id]
        while len(working) < kind.most:
            errand = await asyncio.to_thread(kind.claim, tuple(working))
            if errand is None:
                return
            working[errand.id] = asyncio.create_task(self._work(kind, errand))

    async def _supervised(self, name: str, doing: Coroutine[Any, Any, None]) -> None:
        """What goes wrong is told once, and tried again in the next round."""
        try:
            await doing
        except Exception as error:  # noqa: BLE001 - see above
            stalled = _stalled(name, "", error)
            if self._stalled.get(name) != stalled.code:
                self._emit(stalled)
            self._stalled[name] = stalled.code
        else:
            self._stalled.pop(name, None)

    async def _work(self, kind: Kind, errand: Errand) -> None:
        """Its supervisor: whatever goes wrong is told, and tried again later by whoever claims it then."""
        try:
            await kind.work(errand)
        except Exception as error:  # noqa: BLE001 - see above
            self._emit(_stalled(kind.name, errand.id, error))
            await self._clock.sleep(REST_S)
        finally:
            with contextlib.suppress(ThaloomError):
                await asyncio.to_thread(kind.release, errand.id)


async def unless(work: Coroutine[Any, Any, None], stopped: Coroutine[Any, Any, None]) -> bool:
    """Do `work` unless `stopped` ends first: then it is cancelled. Whether it was done. Raises what it raises."""
    working, watching = asyncio.create_task(work), asyncio.create_task(stopped)
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
            return True
        watching.result()
        return False
    finally:
        await _end([working, watching])


def is_cancelled() -> bool:
    """Whether this task is being cancelled, though something it called has taken that for its own."""
    me = asyncio.current_task()
    return me is not None and me.cancelling() > 0


def _stalled(kind: str, errand_id: str, error: Exception) -> ErrandStalled:
    code = error.code if isinstance(error, ThaloomError) else InternalError.code
    return ErrandStalled(kind=kind, id=errand_id, code=code, message=str(error) or type(error).__name__)


async def _end(tasks: Collection[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
