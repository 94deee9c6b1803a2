"""A door that closes tells those it could not wait for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message

from thaloom.base.clock import ManualClock
from thaloom.base.events import Recorder
from thaloom.edge.api.app import door_app
from thaloom.work.runtime.types import Delta, Done, GenerateRequest, ServedModel


class Endless:
    """Says one word, and never comes to its end."""

    def __init__(self) -> None:
        self.closed = False

    def models(self) -> list[ServedModel]:
        return [ServedModel(name="tiny", ready=True, context_length=8, created_at=0.0)]

    async def start(self, request: GenerateRequest) -> AsyncIterator[Delta | Done]:
        async def answer() -> AsyncIterator[Delta | Done]:
            try:
                yield Delta(text="word", num_tokens=1)
                await asyncio.Event().wait()
            finally:
                self.closed = True

        return answer()

    async def worker_metrics(self) -> list[dict[str, Any]]:
        return []


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_the_door_cannot_wait_for_ends_in_a_typed_error(stream: bool) -> None:
    sent: list[Message] = []
    begun = asyncio.Event()
    generation = Endless()
    body = json.dumps({"model": "tiny", "prompt": "x", "stream": stream}).encode()
    inbox = [{"type": "http.request", "body": body, "more_body": False}]
    scope = {
        "type": "http", "http_version": "1.1", "method": "POST", "path": "/v1/completions", "query_string": b"",
        "raw_path": b"/v1/completions", "root_path": "", "scheme": "http", "headers": [(b"host", b"localhost")],
        "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 5),
    }  # fmt: skip

    async def receive() -> Message:
        if inbox:
            return inbox.pop()
        if not stream:
            begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)
        if b"word" in message.get("body", b""):
            begun.set()

    async def run() -> None:
        app = door_app(generation, control_socket=Path("/nonexistent"), clock=ManualClock(), emit=Recorder())
        serving = asyncio.create_task(app(scope, receive, send))  # type: ignore[arg-type]  # a coroutine it is
        async with asyncio.timeout(30):
            await begun.wait()
            serving.cancel()
            await serving

    asyncio.run(run())
    assert sent[0]["status"] == (200 if stream else 504)
    assert sent[-1].get("more_body", False) is False
    last = b"".join(message.get("body", b"") for message in sent).split(b"data: ")[-1]
    assert json.loads(last)["error"]["code"] == "deadline_exceeded"
    assert generation.closed or not stream
