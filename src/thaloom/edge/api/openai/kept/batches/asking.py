"""A request of the door to itself, without a socket: the same routes, the same refusals, the same words."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Scope

from thaloom.edge.api.entrance.visits import OF_A_BATCH


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    status: int
    request_id: str
    body: bytes


async def ask(app: ASGIApp, path: str, body: bytes, *, key: str | None) -> Answer:
    """POST `body` to `path`, for the holder of the key of this name (None: it was asked without one). To cancel this is
    to leave as a client does."""
    sent: list[Message] = []
    inbox: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if not inbox:
            await asyncio.Event().wait()  # the connection stays open until the answer is there
        return inbox.pop()

    async def send(message: Message) -> None:
        sent.append(message)

    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "headers": [
            (b"host", b"localhost"),
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ],
        "server": ("127.0.0.1", 0),
        "client": ("127.0.0.1", 0),
        OF_A_BATCH: key,
    }
    await app(scope, receive, send)
    headers = dict(sent[0]["headers"])
    return Answer(
        status=sent[0]["status"],
        request_id=headers.get(b"x-request-id", b"").decode("latin-1"),
        body=b"".join(message.get("body", b"") for message in sent[1:]),
    )
