"""The control client of the event loop: every answer understood, every failure a leaf, nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from tests.contract.edge.test_ollama_client import controlled
from tests.unit.edge_control.plane import MANIFEST, Plane
from thaloom.base.errors import (
    DeadlineExceeded,
    DiskFull,
    InternalError,
    ModelInUse,
    ModelNotFound,
    NodeNotRunning,
    Refused,
    ServiceNotFound,
)
from thaloom.edge.client.control_async import AsyncControlClient
from thaloom.edge.wire.control import CopyRequest, Progress, PullDone, PullRequest, ServeRequest

Test = Callable[[AsyncControlClient, Plane], Awaitable[None]]


def asked(folder: Path, test: Test) -> None:
    async def run() -> None:
        plane = Plane()
        async with controlled(plane, folder):
            client = AsyncControlClient(folder / "control.sock")
            try:
                await test(client, plane)
            finally:
                await client.close()

    asyncio.run(run())


def test_answers_are_typed_and_refusals_are_the_nodes_own(short_path: Path) -> None:
    async def test(client: AsyncControlClient, plane: Plane) -> None:
        assert [model.name for model in await client.models()] == ["tiny:v1"]
        assert (await client.model("tiny:v1")).digest == MANIFEST.digest
        assert (await client.serve("x", ServeRequest(model="tiny:v1"))).phase == "loading"
        assert [service.name for service in await client.services()] == ["x"]
        assert (await client.service("x")).spec.model == "tiny:v1"
        assert (await client.stop("x")).name == "x"
        assert (await client.copy_model("tiny:v1", CopyRequest(name="n"))).name == "n"
        for refused, leaf in (
            (client.model("none"), ModelNotFound),
            (client.service("none"), ServiceNotFound),
            (client.remove_model("tiny"), ModelInUse),
        ):
            with pytest.raises(leaf):
                await refused
        for name in ("..", ".", "../services", "a/b"):
            with pytest.raises(Refused):
                await client.model(name)

    asked(short_path, test)


def test_a_pull_tells_its_steps_and_its_end(short_path: Path) -> None:
    async def test(client: AsyncControlClient, plane: Plane) -> None:
        lines = []
        async with contextlib.aclosing(client.pull(PullRequest(source="/x"))) as pull:
            async for line in pull:
                lines.append(line)
                plane.gate.set()
        assert isinstance(lines[0], Progress)
        assert isinstance(lines[-1], PullDone)
        plane.fault = DiskFull("full")
        with pytest.raises(DiskFull):
            async for _ in client.pull(PullRequest(source="/x")):
                pass

    asked(short_path, test)


def test_leaving_a_pull_ends_it(short_path: Path) -> None:
    async def test(client: AsyncControlClient, plane: Plane) -> None:
        async with contextlib.aclosing(client.pull(PullRequest(source="/x"))) as pull:
            await anext(pull)
        async with asyncio.timeout(30):
            await plane.cancelled.wait()

    asked(short_path, test)


@contextlib.asynccontextmanager
async def saying(socket: Path, said: bytes, *, stay: bool = False) -> AsyncIterator[None]:
    """A node that answers everybody with these bytes, and goes (or stays, silent)."""
    gone = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)
        await writer.drain()
        if stay:
            await gone.wait()
        writer.close()

    server = await asyncio.start_unix_server(answer, socket)
    try:
        yield
    finally:
        gone.set()
        server.close()
        await server.wait_closed()


def head(status: int, length: int) -> bytes:
    return f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n".encode()


@pytest.mark.parametrize(
    ("said", "stay", "leaf"),
    [
        (b"", False, NodeNotRunning),
        (head(200, 100) + b'{"models"', False, NodeNotRunning),
        (head(200, 2) + b"[]", False, InternalError),
        (head(500, 4) + b"oops", False, InternalError),
        (head(500, 2) + b"[]", False, InternalError),
        (b"", True, DeadlineExceeded),
        (head(200, 100), True, DeadlineExceeded),
    ],
)
def test_a_node_that_fails_is_named(short_path: Path, said: bytes, stay: bool, leaf: type[Exception]) -> None:
    async def run() -> None:
        socket = short_path / "control.sock"
        client = AsyncControlClient(socket, silence_s=0.1 if stay else 10.0)
        async with saying(socket, said, stay=stay):
            with pytest.raises(leaf):
                await client.models()
        await client.close()

    asyncio.run(run())


def test_a_pull_that_breaks_off_is_no_success(short_path: Path) -> None:
    line = b'{"kind":"progress","stage":"s","done_bytes":1,"total_bytes":2}\n'

    async def run() -> None:
        socket = short_path / "control.sock"
        client = AsyncControlClient(socket)
        async with saying(socket, head(200, len(line)) + line):  # whole, but without its last line
            with pytest.raises(NodeNotRunning):
                assert [step async for step in client.pull(PullRequest(source="/x"))]
        await client.close()

    asyncio.run(run())


def test_nobody_listens(short_path: Path) -> None:
    async def run() -> None:
        client = AsyncControlClient(short_path / "control.sock")
        with pytest.raises(NodeNotRunning):
            await client.models()
        await client.close()

    asyncio.run(run())
