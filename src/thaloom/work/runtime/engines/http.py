"""One HTTP/1.1 request on one connection to an engine: sizes bounded, every wait with a deadline.

The protocols of the door are the edge's business; this is the other side of a worker, towards a server that is its
own. No redirects, no cookies, no proxies, no compression: an engine on loopback needs none of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httptools
import msgspec

from thaloom.base.errors import DeadlineExceeded, ServiceLoading, WorkerLost

MAX_HEAD_BYTES = 64 * 1024
MAX_BODY_BYTES = 64 * 1024 * 1024
_CHUNK = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where an engine answers. `key`: sent as a bearer token; never shown."""

    host: str
    port: int
    prefix: str = ""
    """Before every path, as `/v1`; without a slash at its end."""
    tls: bool = False
    key: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """Deadlines, in seconds."""

    connect_s: float = 5.0
    silence_s: float = 600.0
    """Between two signs of life: a long prompt on a slow device. The door waits as long (call.Deadlines)."""


class Answer:
    """An answer whose head has come. Close it: `request` is a context manager that does."""

    def __init__(self, reader: asyncio.StreamReader, waits: Waits) -> None:
        self.headers: dict[str, str] = {}
        self.status = 0
        self._reader = reader
        self._waits = waits
        self._parser = httptools.HttpResponseParser(self)
        self._bodies: list[bytes] = []
        self._num_head = 0
        self._head_done = False
        self._done = False

    # -- httptools calls these

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._head_done = True
        self.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self._bodies.append(body)

    def on_message_complete(self) -> None:
        self._done = True

    # -- ours

    async def head(self) -> None:
        """Raises WorkerLost, DeadlineExceeded."""
        while not self._head_done:
            data = await self._receive()
            self._num_head += len(data)
            if not data:
                raise WorkerLost("the engine closed the connection without an answer", retry_after_s=1.0)
            if self._num_head > MAX_HEAD_BYTES and not self._head_done:
                raise WorkerLost(f"the engine's answer has a head of more than {MAX_HEAD_BYTES} bytes")

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes. Raises WorkerLost if it is cut off, DeadlineExceeded if it falls silent."""
        while True:
            while self._bodies:
                yield self._bodies.pop(0)
            if self._done:
                return
            if not await self._receive():
                if "content-length" in self.headers or "transfer-encoding" in self.headers:
                    raise WorkerLost("the engine's answer was cut off; the request may be sent again")
                return  # it ends with the connection

    async def body(self, limit: int = MAX_BODY_BYTES) -> bytes:
        """All of it. Raises WorkerLost beyond `limit` too."""
        whole = bytearray()
        async for piece in self.pieces():
            whole += piece
            if len(whole) > limit:
                raise WorkerLost(f"the engine's answer has more than {limit} bytes")
        return bytes(whole)

    async def json(self) -> Any:
        """Raises WorkerLost for what is no JSON too."""
        return decoded(await self.body())

    async def _receive(self) -> bytes:
        try:
            async with asyncio.timeout(self._waits.silence_s):
                data = await self._reader.read(_CHUNK)
        except TimeoutError as error:
            raise DeadlineExceeded(f"the engine said nothing for {self._waits.silence_s:g} s") from error
        except OSError as error:
            raise WorkerLost(f"the connection to the engine broke: {error.strerror or error}") from error
        if not data:
            return data
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            raise WorkerLost(f"the engine does not answer in HTTP: {error}") from error
        return data


def decoded(data: bytes) -> Any:
    """Raises WorkerLost for what is no JSON."""
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WorkerLost(f"the engine's answer is no JSON: {error}") from error


@contextlib.asynccontextmanager
async def request(place: Place, method: str, path: str, body: Any, waits: Waits) -> AsyncIterator[Answer]:
    """The answer once its head is there. `body`: made into JSON, None: none. Leaving closes the connection, which is
    how an engine is told that nobody waits any more.

    Raises ServiceLoading if nobody listens, WorkerLost, DeadlineExceeded.
    """
    try:
        async with asyncio.timeout(waits.connect_s):
            reader, writer = await asyncio.open_connection(
                place.host, place.port, ssl=ssl.create_default_context() if place.tls else None
            )
    except (OSError, TimeoutError) as error:
        raise ServiceLoading(f"no engine answers on {place.host}:{place.port}", retry_after_s=2.0) from error
    try:
        writer.write(_encoded(place, method, path, body))
        answer = Answer(reader, waits)
        await answer.head()
        yield answer
    finally:
        writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(1.0):
                await writer.wait_closed()


def _encoded(place: Place, method: str, path: str, body: Any) -> bytes:
    content = b"" if body is None else msgspec.json.encode(body)
    host = f"[{place.host}]" if ":" in place.host else place.host
    lines = [
        f"{method} {place.prefix}{path} HTTP/1.1",
        f"Host: {host}:{place.port}",
        "Connection: close",
        "Accept: application/json, text/event-stream",
        f"Content-Length: {len(content)}",
    ]
    if content:
        lines.append("Content-Type: application/json")
    if place.key is not None:
        lines.append(f"Authorization: Bearer {place.key}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + content
