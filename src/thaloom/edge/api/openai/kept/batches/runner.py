"""A batch from its file to its output: one of the doors on each, at low priority, from where the last one left off."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Collection, Generator
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp

from thaloom.base.clock import Clock
from thaloom.base.errors import ERRORS, Unavailable
from thaloom.base.events import Emit, Event
from thaloom.edge.api.errors import to_json
from thaloom.edge.api.openai.kept.batches import lines
from thaloom.edge.api.openai.kept.batches.asking import Answer, ask
from thaloom.edge.api.openai.kept.batches.lines import Asked
from thaloom.edge.api.openai.kept.errands import REST_S, News, is_cancelled, unless
from thaloom.edge.api.openai.kept.keeping import Keeping
from thaloom.edge.api.openai.kept.turns import ALONE, Turns
from thaloom.kernel.state.types import BATCH_OVER, BatchStatus, KeptBatch

RETRY_S = 2.0
"""Before a line that met a full queue or a loading model is tried again, unless the refusal says how long."""
MAX_LOST = 3
"""Workers that may die on one line before the line is taken for what kills them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOver(Event):
    batch: str
    status: BatchStatus
    total: int
    failed: int


class Batches:
    """errands.Kind. `app` is the whole door, which answers the lines."""

    name = "batch"
    most = 4

    def __init__(self, app: ASGIApp, *, keeping: Keeping, turns: Turns, news: News, clock: Clock, emit: Emit) -> None:
        self._app = app
        self._keeping = keeping
        self._turns = turns
        self._news = news
        self._clock = clock
        self._emit = emit

    def claim(self, beside: Collection[str]) -> KeptBatch | None:
        return self._keeping.batches.claim(beside=beside)

    def release(self, errand_id: str) -> None:
        self._keeping.batches.release(errand_id)

    async def work(self, errand: KeptBatch) -> None:
        """From whatever state it is found in to its end."""
        batch = errand
        while batch.status not in BATCH_OVER:
            if batch.status == "validating":
                await self._validate(batch)
            elif batch.status == "in_progress" and self._clock.now() < batch.expires_at:
                await self._answer(batch)
            elif batch.status == "in_progress":
                await self._give_up(batch, "batch_expired", "the batch's time was over before this was answered")
                await self._finish(batch, "expired", expired_at=self._clock.now())
            elif batch.status == "cancelling":
                await self._give_up(batch, "batch_cancelled", "the batch was cancelled before this was answered")
                await self._finish(batch, "cancelled", cancelled_at=self._clock.now())
            else:
                await self._finish(batch, "completed", completed_at=self._clock.now())
            batch = await asyncio.to_thread(self._keeping.batches.get, batch.id, holder=batch.key)
        self._emit(BatchOver(batch=batch.id, status=batch.status, total=batch.total, failed=batch.failed))

    async def _validate(self, batch: KeptBatch) -> None:
        def check() -> lines.Checked:
            with self._keeping.files.reopen(batch.input_file) as file:
                return lines.check(file, batch.endpoint)

        found = await asyncio.to_thread(check)
        changes: dict[str, Any] = {"total": found.total, "model": found.model}
        if found.problems:
            changes |= {"status": "failed", "problems": found.problems, "failed_at": self._clock.now()}
        else:
            changes |= {"status": "in_progress", "in_progress_at": self._clock.now()}
        await self._change(batch, "validating", **changes)

    # -- answering

    async def _answer(self, batch: KeptBatch) -> None:
        """Until every line has its answer, or the batch is to be worked on no more."""
        if await unless(self._answer_lines(batch), self._until_stopped(batch)):
            await self._change(batch, "in_progress", status="finalizing", finalizing_at=self._clock.now())

    async def _answer_lines(self, batch: KeptBatch) -> None:
        room = asyncio.Semaphore(ALONE)  # lines read ahead of their turn stand in memory
        open_lines = self._open_lines(batch)
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    await room.acquire()
                    asked = await asyncio.to_thread(next, open_lines, None)
                    if asked is None:
                        break
                    group.create_task(self._answer_line(batch, asked)).add_done_callback(lambda _: room.release())
        except BaseExceptionGroup as failures:  # all of them have one cause: what is kept cannot be kept
            raise failures.exceptions[0] from None
        finally:
            with contextlib.suppress(ValueError):  # a thread may still read the line we no longer wait for
                open_lines.close()

    def _open_lines(self, batch: KeptBatch) -> Generator[Asked]:
        """Those without an answer."""
        done = self._keeping.batches.answered(batch.id)
        with self._keeping.files.reopen(batch.input_file) as file:
            for asked in lines.requests(file, batch.endpoint):
                if asked.line not in done:
                    yield asked

    async def _answer_line(self, batch: KeptBatch, asked: Asked) -> None:
        body = to_json(asked.body)
        num_lost = 0
        while True:
            async with self._turns.patient():
                answer = await ask(self._app, batch.endpoint, body, key=batch.key)
            if is_cancelled():  # a route answers even then
                raise asyncio.CancelledError
            again_in_s, is_lost = _again(answer)
            num_lost += is_lost
            if again_in_s is None or num_lost >= MAX_LOST:
                break
            await self._clock.sleep(again_in_s)
        await asyncio.to_thread(self._keeping.batches.put_line, batch.id, lines.answered(asked, answer))

    async def _until_stopped(self, batch: KeptBatch) -> None:
        """Until somebody cancels it, or its time is over."""
        while self._clock.now() < batch.expires_at:
            coming = self._news.coming
            now = await asyncio.to_thread(self._keeping.batches.get, batch.id, holder=batch.key)
            if now.status != "in_progress":
                return
            await self._news.wait(coming)

    # -- the end

    async def _give_up(self, batch: KeptBatch, code: str, message: str) -> None:
        """Every line without an answer gets an end that says so; a batch that never began has none."""
        if batch.in_progress_at is None:
            return

        def write() -> None:
            for asked in self._open_lines(batch):
                self._keeping.batches.put_line(batch.id, lines.given_up(asked, code, message))

        await asyncio.to_thread(write)

    async def _finish(self, batch: KeptBatch, status: BatchStatus, **changes: Any) -> None:
        """Output and error file appear, in the order of the input, in the moment the batch is over."""

        def finish() -> None:
            usage: dict[str, int] = {}
            output = errors = None
            try:
                output = self._written(batch, usage, failed=False)
                errors = self._written(batch, usage, failed=True)
                self._keeping.batches.finish(
                    batch.id,
                    status,
                    when=(batch.status,),
                    output=output,
                    errors=errors,
                    usage=usage or None,
                    **changes,
                )
            finally:
                for incoming in (output, errors):
                    if incoming is not None:
                        incoming.abort()

        await asyncio.to_thread(finish)

    def _written(self, batch: KeptBatch, usage: dict[str, int], *, failed: bool) -> Any:
        incoming = None
        for line in self._keeping.batches.lines(batch.id, failed=failed):
            if incoming is None:
                incoming = self._keeping.files.begin(in_stead_of_lines=batch.id, holder=batch.key)
            lines.add_usage(usage, line)
            try:
                incoming.write(line.text.encode() + b"\n")
            except BaseException:
                incoming.abort()
                raise
        return incoming

    async def _change(self, batch: KeptBatch, when: BatchStatus, **changes: Any) -> None:
        """Unless somebody else (who cancelled it) was faster."""
        await asyncio.to_thread(self._keeping.batches.change, batch.id, when=(when,), holder=batch.key, **changes)


def _again(answer: Answer) -> tuple[float | None, bool]:
    """(seconds until the line may be tried again, None: this is its answer; whether a worker was lost on it)."""
    if answer.status < 429:
        return None, False
    try:
        error = json.loads(answer.body)["error"]
        leaf = ERRORS[error["code"]]
    except (ValueError, KeyError, TypeError):
        return None, False
    if not leaf.retryable:
        return None, False
    wait_s = error.get("retry_after_s") or RETRY_S
    return min(float(wait_s), REST_S), not issubclass(leaf, Unavailable)
