"""Works on batches while the door is open: one of the doors on each, at low priority, from where the last one left off.

It holds nothing that is not also kept: a door that is killed loses the answers it was waiting for, and no other.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp

from thaloom.base.clock import Clock
from thaloom.base.errors import ERRORS, DiskFull, ThaloomError, Unavailable
from thaloom.base.events import Emit, Event, at_level
from thaloom.edge.api.errors import to_json
from thaloom.edge.api.keeping import Keeping
from thaloom.edge.api.openai.batches import lines
from thaloom.edge.api.openai.batches.asking import Answer, ask
from thaloom.edge.api.openai.batches.lines import Asked
from thaloom.edge.api.openai.batches.turns import ALONE, Turns
from thaloom.kernel.state.types import BATCH_OVER, BatchStatus, KeptBatch

POLL_S = 5.0
"""Between two looks for what other doors did: new batches, cancelled ones, batches of doors that died."""
REST_S = 30.0
"""Before what could not go on (a full disk ...) is tried again."""
RETRY_S = 2.0
"""Before a line that met a full queue or a loading model is tried again, unless the refusal says how long."""
MAX_LOST = 3
"""Workers that may die on one line before the line is taken for what kills them."""
MAX_BATCHES = 4
"""At once in one door: one whose model is loading does not hold up the others."""
SWEEP_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOver(Event):
    batch: str
    status: BatchStatus
    total: int
    failed: int


@at_level("warning")
@dataclass(frozen=True, slots=True, kw_only=True)
class BatchStalled(Event):
    """It cannot go on now, and is tried again."""

    batch: str
    code: str
    message: str


class BatchRunner:
    """`app` is the whole door. Call `run` in a task; cancelling that gives the batches back."""

    def __init__(self, app: ASGIApp, *, keeping: Keeping, turns: Turns, clock: Clock, emit: Emit) -> None:
        self._app = app
        self._keeping = keeping
        self._turns = turns
        self._clock = clock
        self._emit = emit
        self._news = asyncio.Event()
        self._swept_at = -SWEEP_S

    def kick(self) -> None:
        """Something changed: look now."""
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def run(self) -> None:
        working: dict[str, asyncio.Task[None]] = {}
        try:
            while True:
                news = self._news
                working = {batch: task for batch, task in working.items() if not task.done()}
                await self._take_more(working)
                await self._until(news, *working.values())
        finally:
            for task in working.values():
                task.cancel()
            await asyncio.gather(*working.values(), return_exceptions=True)

    async def _take_more(self, working: dict[str, asyncio.Task[None]]) -> None:
        try:
            if self._clock.monotonic() - self._swept_at >= SWEEP_S:
                await asyncio.to_thread(self._sweep)
                self._swept_at = self._clock.monotonic()
            while len(working) < MAX_BATCHES:
                batch = await asyncio.to_thread(self._keeping.batches.claim, beside=tuple(working))
                if batch is None:
                    return
                working[batch.id] = asyncio.create_task(self._work(batch))
        except ThaloomError as error:  # the store cannot be used; the next round tries again
            self._emit(BatchStalled(batch="", code=error.code, message=error.message))
            await self._clock.sleep(REST_S)

    def _sweep(self) -> None:
        self._keeping.files.sweep()
        self._keeping.responses.sweep()

    async def _work(self, batch: KeptBatch) -> None:
        """Its supervisor: whatever goes wrong is told, and tried again later by whoever claims it then."""
        try:
            await self._advance(batch)
        except Exception as error:  # noqa: BLE001 - see above
            known = error if isinstance(error, ThaloomError) else None
            code = "internal_error" if known is None else known.code
            self._emit(BatchStalled(batch=batch.id, code=code, message=str(error) or type(error).__name__))
            await self._clock.sleep(REST_S)
        finally:
            with contextlib.suppress(ThaloomError):
                await asyncio.to_thread(self._keeping.batches.release, batch.id)

    async def _advance(self, batch: KeptBatch) -> None:
        """From whatever state it is found in to its end."""
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
            batch = await asyncio.to_thread(self._keeping.batches.get, batch.id)
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
        answering = asyncio.create_task(self._answer_lines(batch))
        watching = asyncio.create_task(self._until_stopped(batch))
        try:
            await asyncio.wait((answering, watching), return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                return
            answering.result()
            await self._change(batch, "in_progress", status="finalizing", finalizing_at=self._clock.now())
        finally:
            for task in (answering, watching):
                task.cancel()
            await asyncio.gather(answering, watching, return_exceptions=True)

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

    def _open_lines(self, batch: KeptBatch) -> Iterator[Asked]:
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
            async with self._turns.line():
                answer = await ask(self._app, batch.endpoint, body)
            me = asyncio.current_task()
            if me is not None and me.cancelling():  # a route answers even when it is cancelled
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
            news = self._news
            now = await asyncio.to_thread(self._keeping.batches.get, batch.id)
            if now.status != "in_progress":
                return
            await self._until(news)

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
                incoming = self._keeping.files.begin(in_stead_of_lines=batch.id)
            lines.add_usage(usage, line)
            try:
                incoming.write(line.text.encode() + b"\n")
            except DiskFull:
                incoming.abort()
                raise
        return incoming

    async def _change(self, batch: KeptBatch, when: BatchStatus, **changes: Any) -> None:
        """Unless somebody else (who cancelled it) was faster."""
        await asyncio.to_thread(lambda: self._keeping.batches.change(batch.id, when=(when,), **changes))

    async def _until(self, news: asyncio.Event, *others: asyncio.Task[None]) -> None:
        """Until there is news, one of the others is done, or it is time to look again."""
        waiting = [asyncio.create_task(news.wait()), asyncio.create_task(self._clock.sleep(POLL_S))]
        try:
            await asyncio.wait((*waiting, *others), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)


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
