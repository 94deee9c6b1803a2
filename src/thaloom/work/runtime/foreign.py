"""A foreign engine's answer followed at the door: text as it comes, nothing to be made of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

from thaloom.base.errors import NotServable
from thaloom.kernel.state.types import Route
from thaloom.work.runtime.call import Call
from thaloom.work.runtime.messages import Ended
from thaloom.work.runtime.types import Delta, Done


class ForeignAnswer(AsyncIterator[Delta | Done]):
    """One answer, and its connection. Lost in the middle it is lost: the engine's next draw would not go on with it."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._ended = False

    async def __anext__(self) -> Delta | Done:
        if self._ended:
            raise StopAsyncIteration
        try:
            reply = await self._call.piece()
        except BaseException:
            self._end()
            raise
        if not isinstance(reply, Ended):
            return reply.delta
        self._end()
        return reply.done

    async def aclose(self) -> None:
        self._end()

    def _end(self) -> None:
        self._ended = True
        self._call.close()


def require_own(route: Route, what: str) -> None:
    """Raises NotServable for what needs tokens, which a foreign engine keeps to itself."""
    if route.engine == "onnx":
        raise NotServable(f"{route.name!r} is no language model; it is asked at /v2/models", param="model")
    if route.engine != "thaloom":
        raise NotServable(
            f"{route.name!r} is served by engine {route.engine!r}: {what} needs its tokens", param="model"
        )


def require_tensors(route: Route) -> None:
    """Raises NotServable for what is no model of tensors."""
    if route.engine != "onnx":
        raise NotServable(f"{route.name!r} is a language model; it is asked at /v1", param="model")
