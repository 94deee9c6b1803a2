"""One client of a worker, from its first frame to its last: it asks once, is answered, and goes."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Protocol

from thaloom.base.errors import BadParameter, ThaloomError
from thaloom.work.runtime.core.sequence import Ticket
from thaloom.work.runtime.messages import (
    Accepted,
    Failed,
    GetStatus,
    Reply,
    Request,
    Shutdown,
    Task,
    WorkerStats,
    encode,
    read_request,
)
from thaloom.work.runtime.worker.async_engine import Submission


class Host(Protocol):
    """What a connection needs of its worker."""

    def status(self) -> WorkerStats: ...

    async def take(self, request: Task) -> Submission:
        """Raises whatever refuses the request."""
        ...

    def drop(self, ticket: Ticket) -> None: ...
    def stop(self, grace_s: float) -> None: ...

    def stop_if_idle(self, idle_s: float, grace_s: float) -> None:
        """`stop`, if nobody is owed an answer and nobody has asked anything for so long."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a client is waited for."""

    first_frame_s: float = 10.0
    """A connection that has not said by then what it wants is closed."""
    stalled_s: float = 60.0
    """A client that takes nothing for so long is gone. Its request holds no place meanwhile: see Outbox."""


class Connection:
    """Belongs to the task that attends it."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: Host, patience: Patience
    ) -> None:
        self.asking = False
        """Whether it asked for an answer, which it may be refused yet."""
        self.generating = False
        """Whether it was owed an answer: a worker waits for it before it ends."""
        self._reader = reader
        self._writer = writer
        self._host = host
        self._patience = patience

    async def attend(self, refusal: ThaloomError | None = None) -> None:
        """Serve it to its end. `refusal`: why it is turned away whatever it asks. Cancelling closes it at once."""
        is_closed = False
        try:
            with contextlib.suppress(ConnectionError, TimeoutError):
                await self._attend(refusal)
                self._writer.close()
                await asyncio.wait_for(self._writer.wait_closed(), self._patience.stalled_s)
                is_closed = True
        finally:
            # asyncio fails on what was left to be sent when it was closed, and is gone by now
            if not is_closed:
                self._writer.transport.abort()

    async def _attend(self, refusal: ThaloomError | None) -> None:
        try:
            request = await asyncio.wait_for(read_request(self._reader), self._patience.first_frame_s)
            if refusal is not None:
                raise refusal
            if request is not None:
                await self._answer(request)
        except ThaloomError as error:
            await self._say(Failed(error=error.to_dict()))

    async def _answer(self, request: Request) -> None:
        if isinstance(request, GetStatus):
            await self._say(self._host.status())
        elif not isinstance(request, Shutdown):
            await self._generate(request)
        elif not request.grace_s >= 0:  # also refuses NaN
            raise BadParameter(f"grace_s must not be negative, not {request.grace_s}", param="grace_s")
        else:
            if request.if_idle_s is None:
                self._host.stop(request.grace_s)
            else:
                self._host.stop_if_idle(request.if_idle_s, request.grace_s)
            await self._say(self._host.status())

    async def _generate(self, request: Task) -> None:
        self.asking = True
        submission = await self._host.take(request)
        self.generating = True
        gone = asyncio.create_task(self._reader.read(1))  # ends when it goes away, or says more: nobody has to
        pump = asyncio.create_task(self._pump(submission))
        try:
            await asyncio.wait({gone, pump}, return_when=asyncio.FIRST_COMPLETED)
            if pump.done():
                await pump
        finally:
            self._host.drop(submission.ticket)
            gone.cancel()
            pump.cancel()
            await asyncio.gather(gone, pump, return_exceptions=True)

    async def _pump(self, submission: Submission) -> None:
        await self._say(Accepted(waiting=submission.waiting))
        while not submission.outbox.over:
            for reply in await submission.outbox.take(straight=self._say_at_once):
                await self._say(reply)

    def _say_at_once(self, reply: Reply) -> bool:
        """False, and nothing said, while the socket has not taken all that was said before."""
        if self._writer.transport.get_write_buffer_size():
            return False
        self._writer.write(encode(reply))
        return True

    async def _say(self, reply: Reply) -> None:
        """Raises TimeoutError if the client takes nothing for too long, ConnectionError if it is gone."""
        self._writer.write(encode(reply))
        if self._writer.transport.get_write_buffer_size() == 0:
            return  # the socket took it all, as it nearly always does: nothing to wait for
        await asyncio.wait_for(self._writer.drain(), self._patience.stalled_s)
