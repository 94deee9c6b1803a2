"""One request to a door's application, without a socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from starlette.types import ASGIApp, Message


def ask(
    app: ASGIApp,
    method: str,
    path: str,
    body: bytes,
    *,
    headers: Sequence[tuple[bytes, bytes]] = (),
    query: bytes = b"",
) -> tuple[int, bytes]:
    """The status and the body of the answer, which has to come to its end. Its sender stays."""
    sent: list[Message] = []
    inbox = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if inbox:
            return inbox.pop()
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http", "http_version": "1.1", "method": method, "path": path,
        "raw_path": path.encode(errors="replace"), "query_string": query, "root_path": "", "scheme": "http",
        "headers": [(b"host", b"localhost"), *headers], "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 5),
    }  # fmt: skip

    async def run() -> None:
        async with asyncio.timeout(30):
            await app(scope, receive, send)

    asyncio.run(run())
    assert not sent[-1].get("more_body", False), "the answer has no end"
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


def encode(data: Any) -> bytes:
    return json.dumps(data).encode("utf-8", "surrogatepass")
