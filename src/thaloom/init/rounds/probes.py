"""How process one talks to the processes it keeps: one question, one answer, one short deadline."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

from thaloom.base.errors import BadRequest
from thaloom.work.runtime.messages import GetStatus, Request, Shutdown, WorkerStats, encode, read_reply

PROBE_TIMEOUT_S = 2.0
"""For one answer. A busy worker answers from its event loop in milliseconds, whatever its engine does."""


async def worker_stats(socket: Path) -> WorkerStats | None:
    """The worker's account of itself, or None if nobody listens (yet) or the answer is late or no such account."""
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S), _connected(socket, GetStatus()) as reader:
            reply = await read_reply(reader)
    except (OSError, TimeoutError, BadRequest):
        return None
    return reply if isinstance(reply, WorkerStats) else None


async def ask_to_finish(socket: Path, grace_s: float) -> bool:
    """Whether the worker took the request to end itself within `grace_s`."""
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S), _connected(socket, Shutdown(grace_s=grace_s)):
            return True
    except (OSError, TimeoutError):
        return False


async def ask_to_unload(socket: Path, *, if_idle_s: float, grace_s: float) -> bool | None:
    """Whether the worker agreed to end itself, because nobody has asked it anything for so long; None: it did not say
    so in time, and may have agreed."""
    try:
        async with (
            asyncio.timeout(PROBE_TIMEOUT_S),
            _connected(socket, Shutdown(grace_s=grace_s, if_idle_s=if_idle_s)) as reader,
        ):
            reply = await read_reply(reader)
    except (OSError, TimeoutError, BadRequest):
        return None
    return isinstance(reply, WorkerStats) and reply.phase == "stopping"


async def door_answers(address: str) -> bool:
    """Whether the door at `host:port`, or `https://host:port`, answers `GET /healthz` with 200."""
    place = address.removeprefix("https://")
    host, _, port = place.rpartition(":")
    question = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(
                _near(host.strip("[]")), int(port), ssl=None if place == address else _any_certificate()
            )
            try:
                writer.write(question.encode())
                line = await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError, ValueError):
        return False
    return line.startswith(b"HTTP/1.1 200")


async def shown_fingerprint(address: str) -> str | None:
    """SHA-256 of the certificate that the door at `https://host:port` shows now; None where none answers."""
    host, _, port = address.removeprefix("https://").rpartition(":")
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            _, writer = await asyncio.open_connection(_near(host.strip("[]")), int(port), ssl=_any_certificate())
            shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            writer.transport.abort()
    except (OSError, TimeoutError, ValueError):
        return None
    return hashlib.sha256(shown).hexdigest()


def _near(host: str) -> str:
    """Where a door that listens everywhere is reached from here."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


@functools.cache
def _any_certificate() -> ssl.SSLContext:
    """We ask our own process whether it answers, and tell it nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@contextlib.asynccontextmanager
async def _connected(socket: Path, message: Request) -> AsyncIterator[asyncio.StreamReader]:
    reader, writer = await asyncio.open_unix_connection(str(socket))
    try:
        writer.write(encode(message))
        await writer.drain()
        yield reader
    finally:
        writer.close()
