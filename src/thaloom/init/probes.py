"""How process one talks to the processes it keeps: one question, one answer, one short deadline."""

from __future__ import annotations

import asyncio
import contextlib
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


async def door_answers(address: str) -> bool:
    """Whether the door at `host:port` answers `GET /healthz` with 200."""
    host, _, port = address.rpartition(":")
    question = f"GET /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
            try:
                writer.write(question.encode())
                line = await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError, ValueError):
        return False
    return line.startswith(b"HTTP/1.1 200")


@contextlib.asynccontextmanager
async def _connected(socket: Path, message: Request) -> AsyncIterator[asyncio.StreamReader]:
    reader, writer = await asyncio.open_unix_connection(str(socket))
    try:
        writer.write(encode(message))
        await writer.drain()
        yield reader
    finally:
        writer.close()
