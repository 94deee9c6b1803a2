"""A worker from its callers' side: one request on one connection, every wait with a deadline."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from thaloom.base.errors import BadRequest, DeadlineExceeded, InternalError, ServiceLoading, ThaloomError, WorkerLost
from thaloom.work.runtime.messages import (
    Accepted,
    Failed,
    Finished,
    Generate,
    GetStatus,
    Reply,
    Request,
    Tokens,
    WorkerStats,
    encode,
    read_reply,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    connect_s: float = 2.0
    """A worker's socket is on this machine: it is there, or it is not."""
    accept_s: float = 10.0
    """From the request to its place in the queue; a worker in the middle of a long step answers between two."""
    silence_s: float = 600.0
    """Between two signs of life of an accepted request: a full queue before it, or a long prompt on a slow device."""
    status_s: float = 1.0


class Call:
    """A request on its way. Closing it cancels the request."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, deadlines: Deadlines) -> None:
        self._reader = reader
        self._writer = writer
        self._deadlines = deadlines

    @classmethod
    async def generate(cls, socket: str, message: Generate, deadlines: Deadlines) -> Call:
        """Send the request and wait until it is in the worker's queue.

        Raises ServiceLoading if nobody listens, WorkerLost if the worker goes away, DeadlineExceeded, and whatever
        the worker refuses it with.
        """
        call = await cls._open(socket, message, deadlines)
        try:
            reply = await call._next(deadlines.accept_s, "the worker did not take the request")
            if not isinstance(reply, Accepted):
                raise InternalError(f"the worker began with {type(reply).__name__}")
        except BaseException:
            call.close()
            raise
        return call

    @classmethod
    async def status(cls, socket: str, deadlines: Deadlines) -> WorkerStats:
        """A worker's account of itself. Raises as `generate` does."""
        async with asyncio.timeout(deadlines.status_s):
            call = await cls._open(socket, GetStatus(), deadlines)
            try:
                reply = await call._next(deadlines.status_s, "the worker did not tell its status")
            finally:
                call.close()
        if not isinstance(reply, WorkerStats):
            raise InternalError(f"the worker told its status with {type(reply).__name__}")
        return reply

    async def next(self) -> Tokens | Finished:
        reply = await self._next(self._deadlines.silence_s, "the worker fell silent")
        if not isinstance(reply, Tokens | Finished):
            raise InternalError(f"the worker went on with {type(reply).__name__}")
        return reply

    def close(self) -> None:
        self._writer.close()

    @classmethod
    async def _open(cls, socket: str, message: Request, deadlines: Deadlines) -> Call:
        try:
            async with asyncio.timeout(deadlines.connect_s):
                reader, writer = await asyncio.open_unix_connection(socket)
        except (OSError, TimeoutError) as error:  # TimeoutError: a full backlog
            raise ServiceLoading("the worker does not answer; the node starts it again", retry_after_s=1.0) from error
        writer.write(encode(message))
        return cls(reader, writer, deadlines)

    async def _next(self, deadline_s: float, complaint: str) -> Reply:
        try:
            async with asyncio.timeout(deadline_s):
                reply = await read_reply(self._reader)
        except TimeoutError as error:
            raise DeadlineExceeded(f"{complaint} within {deadline_s:g} s") from error
        except BadRequest as error:
            raise InternalError(f"the worker and the door do not speak the same language: {error.message}") from error
        if reply is None:
            raise WorkerLost("the worker ended in the middle of the request; it may be sent again", retry_after_s=1.0)
        if isinstance(reply, Failed):
            raise ThaloomError.from_dict(reply.error)
        return reply
