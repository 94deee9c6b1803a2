"""A foreign engine's answer followed at the door: text as it comes, nothing to be made of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

from thaloom.base.errors import NotServable, QueueFull, ServiceLoading, ThaloomError, WorkerLost
from thaloom.kernel.state.types import Route
from thaloom.work.runtime.frontend.workers import Placed, Workers
from thaloom.work.runtime.messages import Ask, Ended, Piece
from thaloom.work.runtime.types import Delta, Done


class ForeignAnswer(AsyncIterator[Delta | Done]):
    """One answer, and its connection. Lost before anything was told, another worker may give it; lost in the middle it
    is lost: the next engine's draws would not go on with it."""

    def __init__(self, workers: Workers, placed: Placed, message: Ask) -> None:
        self.degraded: str | None = None
        self._workers = workers
        self._placed = placed
        self._message = message
        self._shown = False
        self._ended = False

    async def __anext__(self) -> Delta | Done:
        if self._ended:
            raise StopAsyncIteration
        try:
            reply = await self._next()
        except BaseException:
            self._end()
            raise
        self._shown = True
        if not isinstance(reply, Ended):
            return reply.delta
        self._end()
        return reply.done

    async def aclose(self) -> None:
        self._end()

    async def _next(self) -> Piece | Ended:
        try:
            return await self._placed.call.piece()
        except (WorkerLost, ServiceLoading, QueueFull) as lost:  # the engine's own words are among them
            if self._shown:
                raise
            self._placed.call.close()
            try:
                self._placed = await self._workers.begin(
                    self._placed.service, self._message, tried=[self._placed.socket]
                )
            except ThaloomError as refusal:
                raise lost from refusal
            return await self._placed.call.piece()

    def _end(self) -> None:
        self._ended = True
        self._placed.call.close()


def require_own(route: Route, what: str) -> None:
    """Raises NotServable for what needs tokens, which a foreign engine keeps to itself."""
    if route.engine == "onnx":
        raise NotServable(f"{route.name!r} is no language model; it is asked at /v2/models", param="model")
    if route.engine != "thaloom":
        raise NotServable(
            f"{route.name!r} is served by engine {route.engine!r}: {what} needs its tokens", param="model"
        )
