"""Connections that never become a request, or that speak something else."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path

import pytest

from tests.contract.edge.live_door import LiveDoor
from tests.contract.edge.test_openai_client import in_door
from thaloom.edge.api.entrance.connection import BoundedConnection


async def exchange(door: LiveDoor, *pieces: bytes) -> bytes:
    """All that comes back until the door closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(door.url.rsplit(":", 1)[1]))
    try:
        async with asyncio.timeout(30):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


def code_of(answer: bytes) -> str:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400")
    code: str = json.loads(body)["error"]["code"]
    return code


@pytest.mark.parametrize(
    "piece",
    [
        b"\x16\x03\x01\x02\x00 a TLS hello\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n",
    ],
)
def test_what_is_no_http_is_refused_in_our_form(tmp_path: Path, piece: bytes) -> None:
    async def test(door: LiveDoor) -> None:
        assert code_of(await exchange(door, piece)) == "bad_request"

    in_door(tmp_path, test)


def test_a_head_without_end_is_cut_off(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        endless = [b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ", *[b"y" * 8192] * 100]
        answer = await exchange(door, *endless)
        assert answer == b"" or code_of(answer) == "bad_request"
        assert (await door.http.get("/healthz")).status_code == 200

    in_door(tmp_path, test)


@pytest.mark.parametrize("pieces", [(), (b"GET / HT",), (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /",)])
def test_a_head_that_never_arrives_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pieces: tuple[bytes, ...]
) -> None:
    monkeypatch.setattr("thaloom.edge.api.entrance.connection.HEAD_DEADLINE_S", 0.1)

    async def test(door: LiveDoor) -> None:
        answer = await exchange(door, *pieces)
        assert b"did not arrive" in answer

    in_door(tmp_path, test)


def test_a_slow_but_honest_head_and_a_second_request_are_served(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        first = [bytes([byte]) for byte in b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"]
        last = b"GET /version HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        answer = await exchange(door, *first, last)
        assert answer.count(b"HTTP/1.1 200") == 2

    in_door(tmp_path, test)


def test_a_large_body_does_not_count_as_head(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        response = await door.chat(metadata={"x": "y" * 500_000})
        assert response.status_code == 200

    in_door(tmp_path, test)


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("http://localhost/version", b"200"),
        ("http://127.0.0.1:7411/version?a=b", b"200"),
        ("http://evil.example/version", b"403"),
        ("http://localhost@evil.example/version", b"403"),
    ],
)
def test_the_host_of_a_whole_url_counts_and_not_the_header_beside_it(
    tmp_path: Path, target: str, status: bytes
) -> None:
    async def test(door: LiveDoor) -> None:
        request = f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        assert (await exchange(door, request.encode())).split()[1] == status

    in_door(tmp_path, test)


def test_what_is_said_is_sent_at_once(tmp_path: Path) -> None:
    """Else the end of an answer waits for the acknowledgement of its beginning, which clients hold back for 40 ms."""
    told: list[int] = []

    class Recording(BoundedConnection):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            made = transport.get_extra_info("socket")
            told.append(made.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            super().connection_made(transport)

    async def test(door: LiveDoor) -> None:
        assert (await door.http.get("/healthz")).status_code == 200
        assert told == [1]

    in_door(tmp_path, test, connection=Recording)
