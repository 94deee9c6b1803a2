"""A plain route: a JSON object in, an answer out, nothing of it streamed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from thaloom.edge.api.errors import to_json
from thaloom.edge.api.routes.body import ClientGone, read_object, while_connected

Answered = BaseModel | None
"""None: done, and there is nothing to say about it."""


class ObjectRoute:
    """An ASGI application. What `answer` raises of our tree is told by the application around it; work for a client
    that has gone is cancelled."""

    def __init__(self, answer: Callable[[dict[str, Any]], Awaitable[Answered]]) -> None:
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            data = await read_object(scope, receive)
            told = await while_connected(receive, self._work(data))
        except ClientGone:
            return
        body = b"" if told is None else to_json(told.model_dump(by_alias=True, exclude_none=True))
        media_type = None if told is None else "application/json"
        await Response(body, media_type=media_type)(scope, receive, send)

    async def _work(self, data: dict[str, Any]) -> Answered:
        return await self._answer(data)
