"""A foreign engine as a worker serves it: requests wait for their turn, are asked over HTTP, and come back as text."""

from __future__ import annotations

import asyncio
import itertools
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from thaloom.base.errors import (
    BadRequest,
    DeadlineExceeded,
    DriverUnavailable,
    InternalError,
    QueueFull,
    ThaloomError,
    WorkerLost,
)
from thaloom.base.events import Event
from thaloom.work.runtime.core.sequence import Ticket
from thaloom.work.runtime.engines.answering import Chunks, embedding_of, error_of
from thaloom.work.runtime.engines.asking import EMBEDDINGS, embedding_question, question
from thaloom.work.runtime.engines.events import EventStream
from thaloom.work.runtime.engines.http import Answer, Waits, decoded, request
from thaloom.work.runtime.events import ConnectionFailed, EngineReady
from thaloom.work.runtime.messages import (
    Ask,
    AskEmbedding,
    Embedded,
    Ended,
    Failed,
    Piece,
    Reply,
    Task,
    WorkerStats,
)
from thaloom.work.runtime.outbox import Outbox
from thaloom.work.runtime.types import Delta, Done, Embedding
from thaloom.work.runtime.worker.async_engine import Submission
from thaloom.work.runtime.worker.serving import Site
from thaloom.work.runtime.worker.status import loading_stats

if TYPE_CHECKING:
    from thaloom.work.runtime.engines.loading import ForeignEngine

END_S = 10.0
"""For the server's end, beyond its own grace; the keeper goes on even if we do not."""
_MOST_ERROR_BYTES = 64 * 1024
_UNCOUNTED = "the engine did not count tokens: pieces are counted instead, and the prompt not at all"


@dataclass(slots=True)
class Totals:
    requests: int = 0
    cancelled: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0


class ForeignServed:
    """Implements serving.Served. All on the event loop's thread."""

    def __init__(self, engine: ForeignEngine, site: Site, waits: Waits | None = None) -> None:
        self._engine = engine
        self._site = site
        self._waits = waits or Waits()
        self._turns = asyncio.Semaphore(engine.max_sequences)
        self._numbers = itertools.count(1)
        self._tasks: dict[Ticket, tuple[asyncio.Task[None], Outbox]] = {}
        self._running = 0
        self._totals = Totals()
        self._ending = False

    def start(self) -> None:
        if self._engine.process is None:
            return
        loop = asyncio.get_running_loop()

        def ended() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._engine_ended)

        self._engine.process.on_end(ended)

    def told(self) -> Event:
        spec, engine = self._site.spec, self._engine
        return EngineReady(
            worker=spec.worker, service=spec.service, engine=engine.kind.name, model=engine.model,
            max_sequences=engine.max_sequences, context_length=engine.context_length, degraded=engine.degraded,
        )  # fmt: skip

    def status(self, phase: str) -> WorkerStats:
        engine, totals, process = self._engine, self._totals, self._engine.process
        running, waiting = self.under_way()
        return msgspec.structs.replace(
            loading_stats(self._site.spec, phase),
            ready=phase == "ready",
            pid=os.getpid(),
            context_length=engine.context_length or 0,
            degraded=engine.degraded,
            weight_bytes=0 if process is None else process.resident_bytes(),
            model_digest=engine.digest,
            engine=engine.kind.name,
            running=running,
            waiting=waiting,
            requests_total=totals.requests,
            cancelled_total=totals.cancelled,
            failed_total=totals.failed,
            prompt_tokens_total=totals.prompt_tokens,
            cached_tokens_total=totals.cached_tokens,
            completion_tokens_total=totals.completion_tokens,
        )

    async def take(self, request: Task) -> Submission:
        """Raises BadRequest, QueueFull, and BadParameter for what the engine does not do."""
        if not isinstance(request, Ask | AskEmbedding):
            raise BadRequest("this worker's engine knows text only")
        spec, engine = self._site.spec, self._engine
        if len(self._tasks) >= engine.max_sequences + spec.max_queue:
            raise QueueFull(f"{spec.max_queue} requests wait for {spec.service!r} already", retry_after_s=1.0)
        if isinstance(request, Ask):
            path, body = question(request.request, engine.kind, engine.model)
        else:
            path, body = EMBEDDINGS, embedding_question(request.request, engine.model)
        ticket, outbox = Ticket(next(self._numbers)), Outbox(self._site.max_tokens_behind)
        waiting = self.under_way()[1]
        task = asyncio.create_task(self._answer(request, path, body, outbox), name=f"ask {ticket}")
        self._tasks[ticket] = (task, outbox)
        task.add_done_callback(lambda _: self._tasks.pop(ticket, None))
        self._totals.requests += 1
        return Submission(ticket=ticket, waiting=waiting, outbox=outbox)

    def drop(self, ticket: Ticket) -> None:
        task, outbox = self._tasks.get(ticket, (None, None))
        if task is not None and outbox is not None and not outbox.ended:
            self._totals.cancelled += 1
            task.cancel()

    def under_way(self) -> tuple[int, int]:
        return self._running, len(self._tasks) - self._running

    def fail_all(self, error: ThaloomError) -> None:
        for task, outbox in list(self._tasks.values()):
            outbox.put(Failed(error=error.to_dict()))
            task.cancel()

    async def end(self, timeout_s: float) -> ThaloomError | None:  # noqa: ARG002 - a server has its own grace
        self._ending = True
        tasks = [task for task, _ in self._tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        process = self._engine.process
        if process is not None and not await asyncio.to_thread(process.stop, END_S):
            return DriverUnavailable(f"engine {self._engine.kind.name!r} does not end")
        return None

    def _engine_ended(self) -> None:
        """Unasked: the worker ends with it, and the node starts both again."""
        if self._ending or self._engine.process is None:
            return
        words = self._engine.process.last_words()
        self._site.broken(WorkerLost(f"engine {self._engine.kind.name!r} ended: {words}", retry_after_s=1.0))

    async def _answer(self, asked: Ask | AskEmbedding, path: str, body: dict[str, Any], outbox: Outbox) -> None:
        began, empty = self._site.clock.monotonic(), False
        try:
            async with self._turns:
                self._running += 1
                try:
                    queue_s = self._site.clock.monotonic() - began
                    async with request(self._engine.place, "POST", path, body, self._waits) as answer:
                        if answer.status != 200:
                            raise await _refusal(answer)
                        if isinstance(asked, Ask):
                            empty = not await self._follow(asked, answer, outbox, queue_s)
                        else:
                            values, prompt_tokens = embedding_of(await answer.json())
                            self._totals.prompt_tokens += prompt_tokens
                            embedding = Embedding(values=values, prompt_tokens=prompt_tokens)
                            self._put(outbox, Embedded(embedding=embedding))
                    if empty:
                        raise await self._why_empty(path, body)
                finally:
                    self._running -= 1
        except ThaloomError as error:
            self._totals.failed += 1
            outbox.put(Failed(error=error.to_dict()))
        except Exception as error:  # noqa: BLE001 - supervisor of requests: one may not end the others
            self._totals.failed += 1
            message = f"{type(error).__name__}: {error}"
            self._site.emit(ConnectionFailed(message=message))
            outbox.put(Failed(error=InternalError(f"the worker broke: {message}").to_dict()))

    async def _why_empty(self, path: str, body: dict[str, Any]) -> ThaloomError:
        whole = {name: value for name, value in body.items() if name != "stream_options"} | {"stream": False}
        async with request(self._engine.place, "POST", path, whole, self._waits) as answer:
            return WorkerLost("the engine's answer was empty") if answer.status == 200 else await _refusal(answer)

    async def _follow(self, asked: Ask, answer: Answer, outbox: Outbox, queue_s: float) -> bool:
        """False if nothing came at all from an engine that refuses so."""
        clock, chunks, events = self._site.clock, Chunks(), EventStream()
        began, first_at = clock.monotonic(), None
        if asked.request.echo and asked.request.prompt:
            self._put(outbox, Piece(delta=Delta(text=asked.request.prompt, num_tokens=0)))
        over = False
        async for data in answer.pieces():
            for event in events.feed(data):
                if over := event == b"[DONE]":
                    break
                delta = chunks.take(decoded(event))
                if delta is not None:
                    first_at = clock.monotonic() if first_at is None else first_at
                    self._put(outbox, Piece(delta=delta))
            if over:
                break
        told, now = chunks.told, clock.monotonic()
        if told.reason is None and self._engine.kind.hides_refusals and first_at is None:
            return False
        if told.reason is None:
            raise WorkerLost("the engine's answer was cut off; the request may be sent again", retry_after_s=1.0)
        completion_tokens = told.num_pieces if told.completion_tokens is None else told.completion_tokens
        self._totals.prompt_tokens += told.prompt_tokens or 0
        self._totals.cached_tokens += told.cached_tokens
        self._totals.completion_tokens += completion_tokens
        degraded = self._engine.degraded
        done = Done(
            reason=told.reason,
            prompt_tokens=told.prompt_tokens or 0,
            completion_tokens=completion_tokens,
            cached_tokens=told.cached_tokens,
            queue_s=queue_s,
            prefill_s=(first_at or now) - began,
            decode_s=now - (first_at or now),
            degraded=degraded if told.prompt_tokens is not None else f"{degraded}; {_UNCOUNTED}",
            stop=told.stop,
            reasoning_tokens=told.reasoning_tokens,
        )
        self._put(outbox, Ended(done=done))
        return True

    def _put(self, outbox: Outbox, reply: Reply) -> None:
        """Raises DeadlineExceeded if the reader is too far behind."""
        if not outbox.put(reply):
            raise DeadlineExceeded(
                f"the reader is {outbox.num_tokens} pieces behind; the answer was cut off so that others go on",
                tokens_behind=outbox.num_tokens,
            )


async def _refusal(answer: Answer) -> ThaloomError:
    body = await answer.body(_MOST_ERROR_BYTES)
    try:
        told = decoded(body)
    except WorkerLost:
        told = {"message": body[:200].decode(errors="replace")}
    return error_of(answer.status, answer.headers, told)
