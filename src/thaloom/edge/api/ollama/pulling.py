"""`/api/pull`: the node's own pull, told in Ollama's words."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from thaloom.base.errors import BadParameter, InternalError, ModelNotFound, ThaloomError
from thaloom.edge.api.entrance.visits import only_without_keys
from thaloom.edge.api.errors import to_json
from thaloom.edge.api.ollama.errors import body as error_body
from thaloom.edge.api.ollama.names import local_name, source_of
from thaloom.edge.api.ollama.node import Node
from thaloom.edge.api.ollama.requests import read
from thaloom.edge.api.routes.body import ClientGone, read_object, while_connected
from thaloom.edge.wire import control
from thaloom.edge.wire import ollama as wire


@dataclass(frozen=True, slots=True)
class PullRoute:
    """An ASGI application. A client that leaves ends its pull as any caller of the control API does."""

    node: Node

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            only_without_keys("models are pulled")
            fields = read(wire.PullRequest, await read_object(scope, receive))
            steps = self._steps(fields.model)
            async with contextlib.aclosing(steps):
                if fields.stream is False:
                    last = await while_connected(receive, _last(steps))
                    await Response(to_json(_body(last)), media_type="application/json")(scope, receive, send)
                    return
                first = await while_connected(receive, _next(steps))  # what is refused at once is an ordinary refusal
                await while_connected(receive, _stream(first, steps, send))
        except ClientGone:
            return

    async def _steps(self, name: str) -> AsyncGenerator[wire.Progress, None]:
        """A model of that name, if there is one, gives way to what the source has now, as there."""
        request = control.PullRequest(source=source_of(name), name=local_name(name), replace=True)
        told: wire.Progress | None = None
        async with contextlib.aclosing(self._lines(name, request)) as lines:
            async for line in lines:
                if isinstance(line, control.PullDone):
                    yield wire.Progress(status="success")
                    return
                progress = wire.Progress(
                    status=f"pulling {name}: {line.stage}", completed=line.done_bytes, total=line.total_bytes
                )
                if progress != told:
                    yield progress
                told = progress
        raise InternalError("the pull ended without its last word")

    async def _lines(
        self, name: str, request: control.PullRequest
    ) -> AsyncGenerator[control.Progress | control.PullDone, None]:
        try:
            async with contextlib.aclosing(self.node.pull(request)) as lines:
                async for line in lines:
                    yield line
        except BadParameter as error:  # a name there is no source for: whatever else is asked is right
            raise ModelNotFound(f"model {name!r} cannot be pulled: {error.message}", param="model") from error


async def _stream(first: wire.Progress | None, steps: AsyncGenerator[wire.Progress, None], send: Send) -> None:
    headers = [(b"content-type", wire.NDJSON.encode()), (b"cache-control", b"no-cache")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    step = first
    try:
        while step is not None:
            await _write(send, to_json(_body(step)) + b"\n")
            step = await _next(steps)
    except ThaloomError as error:
        await _write(send, to_json(error_body(error)) + b"\n")
    await _write(send, b"", more=False)


async def _write(send: Send, body: bytes, *, more: bool = True) -> None:
    try:
        await send({"type": "http.response.body", "body": body, "more_body": more})
    except OSError as error:
        raise ClientGone from error


async def _last(steps: AsyncGenerator[wire.Progress, None]) -> wire.Progress:
    last = await anext(steps)
    async for step in steps:
        last = step
    return last


async def _next(steps: AsyncGenerator[wire.Progress, None]) -> wire.Progress | None:
    return await anext(steps, None)


def _body(step: wire.Progress) -> dict[str, Any]:
    return step.model_dump(exclude_none=True)
