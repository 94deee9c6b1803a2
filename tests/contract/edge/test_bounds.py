"""How much of the door one client may hold: connections, idleness, requests ahead, a body nobody wants any more."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.contract.edge.live_door import ASK, LiveDoor
from tests.contract.edge.test_connection import exchange
from tests.contract.edge.test_openai_client import in_door
from thaloom.base.units import MIB
from thaloom.edge.api.entrance.connection import with_bounds
from thaloom.edge.api.entrance.room import Room

ONE = b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def connect(door: LiveDoor, source: str = "127.0.0.1") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    port = int(door.url.rsplit(":", 1)[1])
    return await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))


async def is_served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Whether one request on this connection is answered with 200 (and leaves it open)."""
    writer.write(ONE)
    async with asyncio.timeout(30):
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
        body = await reader.readexactly(int(length.split(b":")[1]))
    if head.startswith(b"HTTP/1.1 200"):
        return True
    assert head.startswith(b"HTTP/1.1 503")
    assert b"retry-after: 1" in head
    assert json.loads(body)["error"]["code"] == "too_many_connections"
    async with asyncio.timeout(30):
        assert await reader.read() == b"", "and then it is closed"
    writer.close()
    return False


def test_connections_are_bounded_and_those_beyond_are_told(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        held = [await connect(door) for _ in range(3)]
        assert [await is_served(*one) for one in held] == [True] * 3
        assert not await is_served(*await connect(door))
        held.pop()[1].close()
        for _ in range(200):  # until the door has seen it
            one = await connect(door)
            if await is_served(*one):
                break
            await asyncio.sleep(0.01)
        else:
            raise AssertionError("a place that was given back is not free")
        for _, writer in (*held, one):
            writer.close()

    in_door(tmp_path, test, connection=with_bounds(max_connections=3))


def test_one_address_does_not_take_every_place(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        held = [await connect(door, "127.0.0.2") for _ in range(2)]
        assert [await is_served(*one) for one in held] == [True] * 2
        assert not await is_served(*await connect(door, "127.0.0.2"))
        other = await connect(door, "127.0.0.3")
        assert await is_served(*other)
        for _, writer in (*held, other):
            writer.close()

    in_door(tmp_path, test, connection=with_bounds(max_per_address=2))


def test_an_idle_connection_is_closed(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        reader, writer = await connect(door)
        assert await is_served(reader, writer)
        async with asyncio.timeout(30):
            assert await reader.read() == b""
        writer.close()

    class Idle(with_bounds()):  # type: ignore[misc]  # a class made at run time
        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self.timeout_keep_alive = 0.05

    in_door(tmp_path, test, connection=Idle)


def test_empty_lines_between_requests_do_not_hold_a_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parser skips them, and the server would take each for a sign of life."""
    monkeypatch.setattr("thaloom.edge.api.entrance.connection.HEAD_DEADLINE_S", 0.2)

    async def test(door: LiveDoor) -> None:
        reader, writer = await connect(door)
        assert await is_served(reader, writer)

        async def keep_saying_nothing() -> None:
            while True:
                writer.write(b"\r\n")
                await asyncio.sleep(0.02)

        saying = asyncio.create_task(keep_saying_nothing())
        async with asyncio.timeout(30):
            assert b"did not arrive" in await reader.read()
        saying.cancel()
        writer.close()

    in_door(tmp_path, test)


def test_an_empty_line_behind_a_body_does_not_cut_its_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thaloom.edge.api.entrance.connection.HEAD_DEADLINE_S", 0.05)

    async def test(door: LiveDoor) -> None:
        door.say("Hello")
        door.worker.pause = asyncio.Event()
        reader, writer = await connect(door)
        body = json.dumps(ASK | {"stream": True}).encode()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
        writer.write(head + body)
        await reader.readuntil(b"Hello")
        writer.write(b"\r\n")
        await asyncio.sleep(0.2)  # longer than any head is waited for
        door.worker.pause.set()
        async with asyncio.timeout(30):
            assert b"[DONE]" in await reader.readuntil(b"[DONE]")
        writer.close()

    in_door(tmp_path, test)


def test_requests_sent_ahead_are_answered_in_order_up_to_a_bound(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        last = ONE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        assert (await exchange(door, ONE * 10 + last)).count(b"HTTP/1.1 200") == 11
        assert (await exchange(door, ONE * 1000)).count(b"HTTP/1.1 200") <= 17
        assert (await door.http.get("/healthz")).status_code == 200

    in_door(tmp_path, test)


def test_the_rest_of_a_body_that_was_answered_already_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("thaloom.edge.api.entrance.connection.REST_DEADLINE_S", 0.2)

    async def test(door: LiveDoor) -> None:
        reader, writer = await connect(door)
        writer.write(b"POST /nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n")
        async with asyncio.timeout(30):
            assert b"unknown_path" in await reader.readuntil(b"unknown_path")

            async def trickle() -> None:
                while True:
                    writer.write(b"x")
                    await asyncio.sleep(0.02)

            trickling = asyncio.create_task(trickle())
            try:
                await reader.read()
            except ConnectionError:
                pass
            trickling.cancel()
        writer.close()

    in_door(tmp_path, test)


def test_a_connection_answered_early_serves_on_if_the_rest_comes(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        reader, writer = await connect(door)
        writer.write(b"POST /nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n")
        await reader.readuntil(b"}}")
        writer.write(b"12345")
        assert await is_served(reader, writer)
        writer.close()

    in_door(tmp_path, test)


def test_bodies_of_all_requests_have_a_bound_and_small_ones_pass(tmp_path: Path) -> None:
    """A large body that is not said to its end holds its room; when it is gone, the next large one gets in."""
    room = Room(max_bytes=2 * MIB)

    async def test(door: LiveDoor) -> None:
        large = b'{"model":"tiny","prompt":"hi","padding":"%b"}' % (b"x" * (MIB * 3 // 4))
        _, writer = await connect(door)
        writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 8000000\r\n\r\n" + large * 2)
        await until(lambda: room.held_bytes > MIB)
        refused = await door.http.post(f"{door.url}/v1/completions", content=large)
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["error"]["code"] == "queue_full"
        door.say("yes")
        small = await door.http.post(f"{door.url}/v1/completions", json={"model": "tiny", "prompt": "hi"})
        assert small.status_code == 200
        writer.transport.abort()
        await until(lambda: room.held_bytes == 0)
        answered = await door.http.post(f"{door.url}/v1/completions", content=large)
        assert answered.status_code == 200
        await until(lambda: room.held_bytes == 0)
        room.check()

    in_door(tmp_path, test, room=room)


def test_a_body_of_too_many_values_is_a_413(tmp_path: Path) -> None:
    """It is small enough to be read, and would be a gigabyte of objects."""

    async def test(door: LiveDoor) -> None:
        body = b'{"model":"tiny","prompt":"x","metadata":[' + b"{}," * 1_000_000 + b"0]}"
        refused = await door.http.post(f"{door.url}/v1/completions", content=body)
        assert refused.status_code == 413
        assert refused.json()["error"]["code"] == "too_large"

    in_door(tmp_path, test)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.01)
