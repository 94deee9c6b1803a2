"""A worker that speaks messages.py and does what it is told: answers, refuses, falls silent, dies."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from thaloom.base.errors import ThaloomError
from thaloom.work.runtime.messages import (
    Accepted,
    Embed,
    Failed,
    Finished,
    Generate,
    GetStatus,
    LogprobRow,
    PromptLogprobs,
    Reply,
    Started,
    State,
    Tokens,
    WorkerStats,
    encode,
    read_request,
)


@dataclass
class FakeWorker:
    """Plays `tokens` one by one to every request, then says `reason`."""

    tokens: Sequence[int] = ()
    reason: str = "stop"
    stop_token: int | None = None
    """Said to have ended the answer."""
    refuse_with: ThaloomError | None = None
    silent: bool = False
    """Takes the connection and never answers."""
    endless: bool = False
    """Begins again after the last token, until cancelled."""
    die_after: int | None = None
    """Close the connection after so many tokens, without a last word."""
    pause: asyncio.Event | None = None
    """Wait for it before the last word."""
    pause_after: int | None = None
    """Wait for it after so many tokens, too."""
    degraded: str | None = None
    silent_status: bool = False
    requests: list[Generate] = field(default_factory=list)
    embeds: list[Embed] = field(default_factory=list)
    num_open: int = 0
    num_cancelled: int = 0
    connections: set[asyncio.Task[None]] = field(default_factory=set)
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.idle.set()

    @contextlib.asynccontextmanager
    async def listening(self, socket: Path) -> AsyncIterator[FakeWorker]:
        server = await asyncio.start_unix_server(self._serve, socket)
        try:
            yield self
        finally:
            server.close()
            await server.wait_closed()
            if self.connections:
                await asyncio.wait(self.connections, timeout=30)

    async def until_idle(self) -> None:
        """Until no request is open any more: answered, or cancelled by its caller."""
        async with asyncio.timeout(30):
            await self.idle.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.connections.add(task)
        task.add_done_callback(self.connections.discard)
        request = await read_request(reader)
        with contextlib.suppress(ConnectionError):
            if isinstance(request, GetStatus) and self.silent_status:
                await reader.read()
            elif isinstance(request, GetStatus):
                await self._send(writer, stats(self))
            elif isinstance(request, Generate):
                await self._generate(request, reader, writer)
            elif isinstance(request, Embed):
                await self._embed(request, writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async def _generate(self, request: Generate, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.requests.append(request)
        self.num_open += 1
        self.idle.clear()
        playing = asyncio.create_task(self._play(request, writer))
        gone = asyncio.create_task(reader.read(1))
        try:
            await asyncio.wait((playing, gone), return_when=asyncio.FIRST_COMPLETED)
            self.num_cancelled += not playing.done() or playing.exception() is not None
        finally:
            for task in (playing, gone):
                task.cancel()
            await asyncio.gather(playing, gone, return_exceptions=True)
            self.num_open -= 1
            if self.num_open == 0:
                self.idle.set()

    async def _play(self, request: Generate, writer: asyncio.StreamWriter) -> None:
        if self.silent:
            await asyncio.Event().wait()
        if self.refuse_with is not None:
            await self._send(writer, Failed(error=self.refuse_with.to_dict()))
            return
        await self._send(writer, Accepted(waiting=0))
        if request.prompt_logprobs is not None:
            rows = [prompt_row(token, request.prompt_logprobs) for token in request.prompt[1:]]
            await self._send(writer, PromptLogprobs(rows=rows))
        played = 0
        while True:
            for token in self.tokens:
                if played == self.die_after:
                    return
                if played == self.pause_after and self.pause is not None:
                    await self.pause.wait()
                if played == request.max_tokens:
                    break
                started = (
                    Started(cached_tokens=16, queue_s=0.001, prefill_s=0.002, pinned_tokens=32) if played == 0 else None
                )
                await self._send(writer, Tokens(tokens=[token], logprobs=row(request, token), started=started))
                played += 1
                await asyncio.sleep(0.001 if self.endless else 0)
            if played == self.die_after:
                return
            if not self.endless or played == request.max_tokens:
                break
        if self.pause is not None:
            await self.pause.wait()
        await self._send(
            writer,
            Finished(
                reason="length" if played == request.max_tokens else self.reason,
                prompt_tokens=len(request.prompt),
                completion_tokens=played,
                cached_tokens=16,
                queue_s=0.001,
                prefill_s=0.002,
                decode_s=0.003,
                stop_token=self.stop_token,
            ),
        )

    async def _embed(self, request: Embed, writer: asyncio.StreamWriter) -> None:
        """The state of a text is 3, 4 and its length."""
        self.embeds.append(request)
        if self.refuse_with is not None:
            await self._send(writer, Failed(error=self.refuse_with.to_dict()))
            return
        await self._send(writer, Accepted(waiting=0))
        await self._send(writer, State(values=struct.pack("<3f", 3.0, 4.0, len(request.prompt))))

    @staticmethod
    async def _send(writer: asyncio.StreamWriter, reply: Reply) -> None:
        writer.write(encode(reply))
        await writer.drain()


def prompt_row(token: int, num_top: int) -> LogprobRow:
    others = [(token + step) % 256 for step in range(num_top)]
    return LogprobRow(chosen=-0.5, top_tokens=others, top_logprobs=[-0.5 - step for step in range(num_top)])


def row(request: Generate, token: int) -> list[LogprobRow] | None:
    if request.logprobs is None:
        return None
    reported = [-(len(request.prompt) % 7 + index) * 1.0 for index in range(len(request.report))]
    return [msgspec.structs.replace(prompt_row(token, request.logprobs), reported=reported)]


def stats(worker: FakeWorker) -> WorkerStats:
    return WorkerStats(
        worker="w-1", service="tiny", model="tiny", model_digest="0" * 64, pid=1, ready=True, device="cpu",
        driver="cpu", num_threads=2, context_length=256, vocab_size=267, exact=True, operator_levels={},
        degraded=worker.degraded, weight_bytes=1000, kv_bytes=2000, scratch_bytes=10, num_blocks=64, free_blocks=60,
        cached_blocks=3, running=worker.num_open, waiting=0, requests_total=len(worker.requests), cancelled_total=0,
        prompt_tokens_total=5, cached_tokens_total=2, completion_tokens_total=7, steps_total=9,
        step_seconds_total=0.5, preemptions_total=0,
    )  # fmt: skip
