"""Clients that leave, stall or come in crowds: nothing is left running behind them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.contract.edge.fake_worker import FakeWorker
from tests.contract.edge.live_door import ASK, LiveDoor, route
from tests.contract.edge.test_openai_client import USER, in_door
from thaloom.edge.api.entrance.access_log import RequestServed
from thaloom.edge.api.entrance.connection import BoundedConnection


async def raw(door: LiveDoor, body: dict[str, Any]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A request on a connection of our own, to be treated badly."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(door.url.rsplit(":", 1)[1]), limit=2**10)
    content = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n\r\n"
    writer.write(head.encode() + content)
    await writer.drain()
    return reader, writer


async def until(condition: Any) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_cancels_its_request(tmp_path: Path, stream: bool) -> None:
    async def test(door: LiveDoor) -> None:
        door.say("x")
        reader, writer = await raw(door, ASK | {"stream": stream})
        await until(lambda: door.worker.num_open)
        if stream:
            await reader.readuntil(b'"content":"x')
        writer.close()
        await door.worker.until_idle()
        assert door.worker.num_cancelled == 1
        await until(lambda: door.events.of(RequestServed))
        (served,) = door.events.of(RequestServed)
        assert isinstance(served, RequestServed)
        assert served.status == (200 if stream else 499)
        assert 'thaloom_cancelled_requests_total{model="tiny"} 1.0' in (await door.http.get("/metrics")).text

    in_door(tmp_path, test, worker=FakeWorker(endless=True))


def test_a_client_that_leaves_before_the_first_token_cancels_all_its_answers(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        _, writer = await raw(door, ASK | {"stream": True, "n": 4})
        await until(lambda: door.worker.num_open == 4)
        writer.close()
        await door.worker.until_idle()
        assert door.worker.num_cancelled == 4

    in_door(tmp_path, test, worker=FakeWorker(pause=asyncio.Event()))


def test_leaving_the_clients_block_cancels_too(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        door.say("x")
        stream = await door.client.chat.completions.create(model="tiny", messages=USER, stream=True)
        async for _ in stream:
            break
        await stream.close()
        await door.worker.until_idle()
        assert door.worker.num_cancelled == 1

    in_door(tmp_path, test, worker=FakeWorker(endless=True))


class Impatient(BoundedConnection):
    send_deadline_s = 0.1


def test_a_client_that_stops_reading_is_cut_off_in_the_end(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        (there,) = door.routes.routes
        door.routes.routes = [route(tmp_path, there.tokenizer_files, context_length=10_000_000)]
        door.worker.tokens = [40] * 100
        door.worker.endless = True
        _, writer = await raw(door, ASK | {"stream": True, "logprobs": True, "top_logprobs": 20})
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport of asyncio's own
        await until(lambda: door.worker.num_open)
        async with asyncio.timeout(60):
            await door.worker.idle.wait()
        assert door.worker.num_cancelled == 1
        writer.transport.abort()

    in_door(tmp_path, test, worker=FakeWorker(), connection=Impatient)


def test_a_slow_reader_gets_all_of_it(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        door.say("Hello " * 30)
        reader, writer = await raw(door, ASK | {"stream": True})
        got = b""
        while b"[DONE]" not in got:
            piece = await reader.read(64)
            assert piece
            got += piece
        writer.close()
        chunks = [json.loads(line[6:]) for line in got.split(b"\n") if line.startswith(b"data: {")]
        assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == "Hello " * 30

    in_door(tmp_path, test)


def test_hundreds_of_abandoned_connections_leave_no_descriptor_behind(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        door.say("x")

        async def abandon(index: int) -> None:
            _, writer = await raw(door, ASK | {"stream": bool(index % 2)})
            writer.transport.abort()

        await door.http.get("/v1/files")  # opens what is kept
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            await asyncio.gather(*(abandon(index) for index in range(40)))
            await asyncio.sleep(0.01)
            await door.worker.until_idle()
        with contextlib.suppress(TimeoutError):
            await until(lambda: len(os.listdir("/proc/self/fd")) <= before)
        assert len(os.listdir("/proc/self/fd")) <= before

    in_door(tmp_path, test, worker=FakeWorker(endless=True))
