"""A worker from its callers' side: one request on one connection, every wait with a deadline."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TypeVar

from thaloom.base.errors import BadRequest, DeadlineExceeded, InternalError, ServiceLoading, ThaloomError, WorkerLost
from thaloom.work.runtime.frontend.routing import Work
from thaloom.work.runtime.messages import (
    Accepted,
    Ended,
    Failed,
    Finished,
    GetStatus,
    Piece,
    PromptLogprobs,
    Reply,
    ReplyFrames,
    Request,
    State,
    Task,
    Tokens,
    Whole,
    WorkerStats,
    encode,
)
from thaloom.work.runtime.outbox import merge

W = TypeVar("W", bound=Whole)
MAX_PENDING = 256
"""Replies read ahead of a slow client; then the worker's socket waits."""


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

    def __init__(self, replies: _Replies, deadlines: Deadlines, work: Work | None = None) -> None:
        self._replies = replies
        self._deadlines = deadlines
        self._work = work
        self._begun = False

    @classmethod
    async def begin(cls, socket: str, message: Task, deadlines: Deadlines, work: Work | None = None) -> Call:
        """Send the request and wait until it is in the worker's queue. `work` is told how it goes on.

        Raises ServiceLoading if nobody listens, WorkerLost if the worker goes away, DeadlineExceeded, and whatever
        the worker refuses it with.
        """
        try:
            call = await cls._open(socket, message, deadlines)
        except BaseException:
            if work is not None:
                work.over()
            raise
        call._work = work
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
        """A worker's account of itself. Raises as `begin` does."""
        async with asyncio.timeout(deadlines.status_s):
            call = await cls._open(socket, GetStatus(), deadlines)
            try:
                reply = await call._next(deadlines.status_s, "the worker did not tell its status")
            finally:
                call.close()
        if not isinstance(reply, WorkerStats):
            raise InternalError(f"the worker told its status with {type(reply).__name__}")
        return reply

    async def next(self) -> Tokens | PromptLogprobs | Finished:
        """What comes next; all tokens that are there already come at once."""
        reply = await self._next(self._deadlines.silence_s, "the worker fell silent")
        if not isinstance(reply, (Tokens, Finished, PromptLogprobs)):  # not `|`, which makes a union for each token
            raise InternalError(f"the worker went on with {type(reply).__name__}")
        if not self._begun:
            self._tell_begun()
        return reply

    async def piece(self) -> Piece | Ended:
        """What comes next of the answer to Ask."""
        reply = await self._next(self._deadlines.silence_s, "the engine fell silent")
        if not isinstance(reply, (Piece, Ended)):
            raise InternalError(f"the worker went on with {type(reply).__name__}")
        if not self._begun:
            self._tell_begun()
        return reply

    async def whole(self, kind: type[W]) -> W:
        """An answer in one piece: `kind` says of what request."""
        reply = await self._next(self._deadlines.silence_s, "the engine fell silent")
        if not isinstance(reply, kind):
            raise InternalError(f"the worker answered with {type(reply).__name__}")
        return reply

    async def state(self) -> State:
        """The answer to Embed."""
        reply = await self._next(self._deadlines.silence_s, "the worker fell silent")
        if not isinstance(reply, State):
            raise InternalError(f"the worker answered with {type(reply).__name__}")
        return reply

    def close(self) -> None:
        if self._work is not None:
            self._work.over()
        self._replies.close()

    def _tell_begun(self) -> None:
        self._begun = True
        if self._work is not None:
            self._work.begun()

    @classmethod
    async def _open(cls, socket: str, message: Request, deadlines: Deadlines) -> Call:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(deadlines.connect_s):
                transport, replies = await loop.create_unix_connection(lambda: _Replies(loop), socket)
        except (OSError, TimeoutError) as error:  # TimeoutError: a full backlog
            raise ServiceLoading("the worker does not answer; the node starts it again", retry_after_s=1.0) from error
        transport.write(encode(message))
        return cls(replies, deadlines)

    async def _next(self, deadline_s: float, complaint: str) -> Reply:
        try:
            reply = await self._replies.next(deadline_s)
        except TimeoutError as error:
            raise DeadlineExceeded(f"{complaint} within {deadline_s:g} s") from error
        except BadRequest as error:
            raise InternalError(f"the worker and the door do not speak the same language: {error.message}") from error
        if reply is None:
            raise WorkerLost("the worker ended in the middle of the request; it may be sent again", retry_after_s=1.0)
        if isinstance(reply, Failed):
            raise ThaloomError.from_dict(reply.error)
        return reply


class _Replies(asyncio.Protocol):
    """The receiving end of a connection. It handles every token of every answer, so it is plain callbacks: one wake-up
    for whatever came together, and one timer that is looked at when it rings instead of being set for every wait."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._frames = ReplyFrames()
        self._there: list[Reply] = []
        self._fault: BadRequest | None = None
        self._gone = False
        self._paused = False
        self._transport: asyncio.Transport | None = None
        self._arrival: asyncio.Future[None] | None = None
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None

    async def next(self, deadline_s: float) -> Reply | None:
        """The next reply, or None if the other side went away. Raises TimeoutError, BadRequest for what is no reply."""
        while not self._there:
            if self._fault is not None:
                raise self._fault
            if self._gone:
                return None
            self._expect_within(deadline_s)
            self._arrival = self._loop.create_future()
            try:
                await self._arrival
            finally:
                self._arrival = None
        if len(self._there) > 1:
            self._there = merge(self._there)
        reply = self._there.pop(0)
        if self._paused and not self._there and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return reply

    def close(self) -> None:
        """Harmless when repeated."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._fault is not None:
            return
        try:
            self._there += self._frames.feed(data)
        except BadRequest as error:
            self._fault = error
        if len(self._there) >= MAX_PENDING and not self._paused and self._transport is not None:
            self._paused = True  # the worker's outbox fills up instead, which has a bound
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's own signature
        self._gone = True
        self._wake()

    def _wake(self, error: Exception | None = None) -> None:
        if self._arrival is None or self._arrival.done():
            return
        if error is None:
            self._arrival.set_result(None)
        else:
            self._arrival.set_exception(error)

    def _expect_within(self, deadline_s: float) -> None:
        self._deadline = self._loop.time() + deadline_s
        if self._timer is None or self._timer.when() > self._deadline:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(self._deadline, self._ring)

    def _ring(self) -> None:
        self._timer = None
        if self._arrival is None:
            return
        if self._loop.time() >= self._deadline:
            self._wake(TimeoutError())
        else:
            self._timer = self._loop.call_at(self._deadline, self._ring)
