"""The door's application on a real loopback socket, in the test's own event loop, with a fake worker behind it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import openai
import uvicorn
from prometheus_client.registry import Collector

from tests.contract.edge.fake_worker import FakeWorker
from tests.models import make_model
from thaloom.base.clock import SystemClock
from thaloom.base.events import Recorder
from thaloom.base.ids import ServiceName
from thaloom.door import listen
from thaloom.edge.api.app import door_app
from thaloom.edge.api.entrance.connection import BoundedConnection
from thaloom.edge.api.entrance.room import Room
from thaloom.edge.api.entrance.tracing import Tracing
from thaloom.kernel.models.store import ModelStore
from thaloom.kernel.state.kept import KeepLimits, open_kept
from thaloom.kernel.state.types import Alias, Route, Routes
from thaloom.work.runtime.frontend.call import Deadlines
from thaloom.work.runtime.frontend.doorkeeper import Doorkeeper
from thaloom.work.runtime.frontend.frontend import Frontend
from thaloom.work.runtime.text.tokenizer import Tokenizer, read_text_files
from thaloom.work.runtime.types import Generation, Inference

TEXT_FILES = ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "config.json")


class FixedRoutes:
    """A snapshot that a test changes by hand."""

    def __init__(self, *routes: Route) -> None:
        self.routes = list(routes)
        self.aliases: tuple[Alias, ...] = ()

    def current(self) -> Routes:
        return Routes(version=1, published_at=0.0, control_socket="", routes=tuple(self.routes), aliases=self.aliases)


@dataclass
class LiveDoor:
    url: str
    worker: FakeWorker
    routes: FixedRoutes
    tokenizer: Tokenizer
    events: Recorder
    folder: Path
    http: httpx2.AsyncClient = field(init=False)

    @functools.cached_property
    def client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=10.0)

    def say(self, text: str) -> None:
        """Let the worker answer with this text."""
        self.worker.tokens = self.tokenizer.encode_rendered(text)

    async def post(self, path: str, body: Any = None, **options: Any) -> httpx2.Response:
        if body is not None:
            options["json"] = body
        return await self.http.post(path, **options)

    async def chat(self, **body: Any) -> httpx2.Response:
        return await self.post("/v1/chat/completions", ASK | body)


ASK: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}


def text_files(folder: Path) -> dict[str, str]:
    make_model(folder)
    return {name: str(folder / name) for name in TEXT_FILES}


def route(folder: Path, files: dict[str, str], **changes: Any) -> Route:
    facts: dict[str, Any] = {
        "name": ServiceName("tiny"),
        "model": "tiny",
        "phase": "ready",
        "sockets": (str(folder / "w.sock"),),
        "context_length": 256,
        "created_at": 1_700_000_000.0,
        "tokenizer_files": files,
    }
    return Route(**facts | changes)


class NobodyAbove:
    """A hub's upstream that fetches nothing."""

    async def fetch(self, repo: str, revision: str) -> bool:
        return False


@contextlib.asynccontextmanager
async def live_door(
    folder: Path,
    *,
    worker: FakeWorker | None = None,
    deadlines: Deadlines | None = None,
    connection: type[BoundedConnection] = BoundedConnection,
    limits: KeepLimits | None = None,
    generation: Generation | None = None,
    doorkeeper: Doorkeeper | None = None,
    tracing: Tracing | None = None,
    hub: Any = None,
    room: Room | None = None,
    collectors: Sequence[Collector] = (),
) -> AsyncIterator[LiveDoor]:
    """`generation`: instead of a frontend with a worker behind it."""
    files = text_files(folder / "model")
    routes = FixedRoutes(route(folder, files))
    events = Recorder()
    frontend = Frontend(routes, SystemClock(), events, deadlines=deadlines)
    kept = open_kept(folder / "kept", SystemClock(), limits)
    app = door_app(
        generation or frontend,
        keeping=kept,
        control_socket=folder / "control.sock",
        clock=SystemClock(),
        emit=events,
        inference=generation if isinstance(generation, Inference) else frontend,
        doorkeeper=doorkeeper,
        tracing=tracing,
        hub=hub or (lambda: (ModelStore(folder / "models", SystemClock()), NobodyAbove())),
        room=room,
        collectors=collectors,
    )
    worker = worker or FakeWorker()
    async with worker.listening(folder / "w.sock"), serving(app, connection) as url:
        door = LiveDoor(url, worker, routes, Tokenizer(read_text_files(files)), events, folder)
        async with httpx2.AsyncClient(base_url=url, trust_env=False, verify=False, timeout=10.0) as door.http:
            try:
                yield door
            finally:
                if "client" in vars(door):
                    await door.client.close()
    frontend.close()
    kept.close()


@contextlib.asynccontextmanager
async def serving(app: Any, connection: type[BoundedConnection] = BoundedConnection) -> AsyncIterator[str]:
    listener = listen("127.0.0.1", 0)
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http=connection,
        ws="none",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
    running = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await running
