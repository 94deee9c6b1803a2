"""A route that answers one JSON object with another, for what is no generation: within the same bounds, and given up
when its client goes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from thaloom.base.clock import Clock
from thaloom.base.errors import BadParameter
from thaloom.base.ids import RequestId, new_request_id
from thaloom.edge.api.errors import to_json
from thaloom.edge.api.routes.body import ClientGone, read_object, while_connected
from thaloom.edge.api.routes.generation import told_first
from thaloom.work.runtime.types import Generation

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    data: dict[str, Any]
    id: RequestId
    now: float
    """Seconds since the epoch."""


Answering = Callable[[Generation, Asked], Coroutine[Any, Any, Mapping[str, Any]]]
"""Raises ThaloomError."""


class Exchange:
    """A plain ASGI application."""

    def __init__(self, answer: Answering, id_prefix: str, *, generation: Generation, clock: Clock) -> None:
        self._answer = answer
        self._id_prefix = id_prefix
        self._generation = generation
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            data = await read_object(scope, receive)
            asked = Asked(data=data, id=new_request_id(self._id_prefix), now=self._clock.now())
            answer = await while_connected(receive, self._answer(self._generation, asked))
        except ClientGone:
            return
        except BadParameter as error:
            raise told_first(self._generation, data, error) from error
        await Response(to_json(answer), 200, media_type="application/json")(scope, receive, send)


async def in_turn(works: Sequence[Callable[[], Awaitable[T]]], *, at_once: int) -> list[T]:
    """What all `works` give, in their order, no more than `at_once` of them under way.

    Raises the first error of any; then the others are cancelled.
    """
    turns = asyncio.Semaphore(at_once)

    async def one(work: Callable[[], Awaitable[T]]) -> T:
        async with turns:
            return await work()

    tasks = [asyncio.create_task(one(work)) for work in works]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
