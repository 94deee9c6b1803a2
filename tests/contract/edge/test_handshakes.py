"""TLS in front of HTTP: bounded handshakes, what is no TLS, and a certificate that changes under open connections."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.certificates import pair, write_ca
from thaloom.edge.api.entrance.handshakes import Handshakes
from thaloom.kernel.trust.certificates import Pair
from thaloom.kernel.trust.tls import server_context

PATIENCE_S = 20.0


class Echo(asyncio.Protocol):
    """Says back what it hears."""

    open: ClassVar[set[Echo]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        Echo.open.add(self)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        Echo.open.discard(self)


class Listening:
    def __init__(self, handshakes: Handshakes, port: int, shown: list[Pair]) -> None:
        self.handshakes = handshakes
        self.port = port
        self.shown = shown


@contextlib.asynccontextmanager
async def listening(**bounds: Any) -> AsyncIterator[Listening]:
    Echo.open.clear()
    shown = [pair()]
    handshakes = Handshakes(lambda: server_context(shown[-1], "1.3"), Echo, **bounds)
    server = await asyncio.get_running_loop().create_server(handshakes, "127.0.0.1", 0)
    try:
        yield Listening(handshakes, server.sockets[0].getsockname()[1], shown)
    finally:
        handshakes.close()
        server.close()
        for echo in list(Echo.open):
            echo.transport.abort()


def client_context(*, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def timed() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await work()

    asyncio.run(timed())


async def until(so: Callable[[], bool]) -> None:
    while not so():
        await asyncio.sleep(0.01)


def test_what_is_said_arrives_and_comes_back() -> None:
    async def work() -> None:
        async with listening() as door:
            reader, writer = await asyncio.open_connection("127.0.0.1", door.port, ssl=client_context())
            for text in (b"a", b"b" * 300_000):
                writer.write(text)
                assert await reader.readexactly(len(text)) == text
            assert door.handshakes.num_under_way == 0
            writer.close()
            await until(lambda: not Echo.open)

    run(work)


def test_what_comes_with_the_last_of_the_handshake_is_heard() -> None:
    """A client may send its request together with the end of its handshake, before anybody here has woken up."""

    async def work() -> None:
        async with listening() as door:
            plain = socket.create_connection(("127.0.0.1", door.port))
            plain.setblocking(False)
            into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
            tls = client_context().wrap_bio(into, out)
            loop = asyncio.get_running_loop()
            while True:
                try:
                    tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    if waiting := out.read():
                        await loop.sock_sendall(plain, waiting)
                    into.write(await loop.sock_recv(plain, 65536))
            tls.write(b"together")
            await loop.sock_sendall(plain, out.read())  # our end of the handshake and the request, at once
            heard = b""
            while heard != b"together":
                into.write(await loop.sock_recv(plain, 65536))
                with contextlib.suppress(ssl.SSLWantReadError):
                    heard += tls.read(100)
            plain.close()

    run(work)


def test_silent_clients_hold_nothing_for_long_and_nobody_up() -> None:
    async def work() -> None:
        async with listening(deadline_s=0.5) as door:
            silent = [socket.create_connection(("127.0.0.1", door.port)) for _ in range(20)]
            halves = [socket.create_connection(("127.0.0.1", door.port)) for _ in range(5)]
            for half in halves:
                half.sendall(b"\x16\x03\x01\x02\x00\x01")  # the beginning of a hello, and no more
            await until(lambda: door.handshakes.num_under_way == 25)
            _, writer = await asyncio.open_connection("127.0.0.1", door.port, ssl=client_context())
            writer.close()
            await until(lambda: door.handshakes.num_under_way == 0)
            assert door.handshakes.failed == 25
            for each in (*silent, *halves):
                each.settimeout(5)
                with contextlib.suppress(ConnectionResetError):  # by a thread: the door closes them in this very loop
                    assert await asyncio.to_thread(each.recv, 100) == b"", "the connection is closed"
                each.close()

    run(work)


def test_handshakes_are_bounded_altogether_and_by_address() -> None:
    async def work() -> None:
        async with listening(max_handshakes=6, max_per_address=4) as door:
            one = [await opened("127.0.0.1", door.port) for _ in range(5)]
            await until(lambda: door.handshakes.turned_away == 1)
            assert door.handshakes.num_under_way == 4, "of one address"
            other = [await opened("127.0.0.2", door.port) for _ in range(3)]
            await until(lambda: door.handshakes.turned_away == 2)
            assert door.handshakes.num_under_way == 6, "altogether"
            for each in (*one, *other):
                each.close()
            await until(lambda: door.handshakes.num_under_way == 0)
            _, writer = await asyncio.open_connection("127.0.0.1", door.port, ssl=client_context())
            writer.close()

    async def opened(address: str, port: int) -> socket.socket:
        return socket.create_connection(("127.0.0.1", port), source_address=(address, 0))

    run(work)


@pytest.mark.parametrize(
    "said", [b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\x00" * 200, b"SSH-2.0-OpenSSH_9.2\r\n"], ids=str
)
def test_what_is_no_tls_ends_at_its_first_bytes(said: bytes) -> None:
    async def work() -> None:
        async with listening() as door:
            reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
            writer.write(said)
            with contextlib.suppress(ConnectionResetError):
                answer = await reader.read()
                assert len(answer) < 20, "an alert at most"
            writer.close()
            assert not Echo.open
            assert (door.handshakes.num_under_way, door.handshakes.failed) == (0, 1)

    run(work)


def test_older_versions_are_refused() -> None:
    async def work() -> None:
        async with listening() as door:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                old = client_context(version=ssl.TLSVersion.TLSv1_2)
                await asyncio.open_connection("127.0.0.1", door.port, ssl=old)
            await until(lambda: door.handshakes.failed == 1)

    run(work)


def test_a_client_that_goes_away_in_the_middle_leaves_nothing() -> None:
    async def work() -> None:
        async with listening() as door:
            for _ in range(30):
                plain = socket.create_connection(("127.0.0.1", door.port))
                plain.sendall(b"\x16\x03\x01\x02\x00\x01")
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
                plain.close()  # by a reset
            await until(lambda: door.handshakes.num_under_way == 0 and door.handshakes.failed > 0)
            assert len(asyncio.all_tasks()) == 1

    run(work)


def test_closing_cuts_handshakes_and_leaves_answers() -> None:
    async def work() -> None:
        async with listening() as door:
            reader, writer = await asyncio.open_connection("127.0.0.1", door.port, ssl=client_context())
            writer.write(b"here")
            assert await reader.readexactly(4) == b"here"
            silent = socket.create_connection(("127.0.0.1", door.port))
            await until(lambda: door.handshakes.num_under_way == 1)
            door.handshakes.close()
            await until(lambda: door.handshakes.num_under_way == 0)
            writer.write(b"still here")
            assert await reader.readexactly(10) == b"still here"
            writer.close()
            silent.close()

    run(work)


def test_each_handshake_shows_the_certificate_of_its_moment(tmp_path: Path) -> None:
    async def work() -> None:
        async with listening() as door:
            before = ssl.create_default_context(cafile=write_ca(tmp_path, door.shown[-1]))
            reader, writer = await asyncio.open_connection("localhost", door.port, ssl=before)
            door.shown.append(pair())
            after = ssl.create_default_context(cafile=write_ca(tmp_path, door.shown[-1]))
            with pytest.raises(ssl.SSLCertVerificationError):
                await asyncio.open_connection("localhost", door.port, ssl=before)
            _, other = await asyncio.open_connection("localhost", door.port, ssl=after)
            other.close()
            writer.write(b"as before")
            assert await reader.readexactly(9) == b"as before"
            writer.close()

    run(work)
