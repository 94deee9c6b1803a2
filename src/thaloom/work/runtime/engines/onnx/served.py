"""An ONNX model as a worker serves it: requests that fit together are computed together, the others in their order."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec
import numpy as np

from thaloom.base.errors import (
    BadParameter,
    BadRequest,
    DeadlineExceeded,
    DeviceLost,
    InternalError,
    NotServable,
    QueueFull,
    ThaloomError,
    TooLarge,
)
from thaloom.base.events import Event
from thaloom.base.units import MIB, format_bytes
from thaloom.kernel.models.types import Manifest
from thaloom.work.runtime.core.sequence import Ticket
from thaloom.work.runtime.engines.onnx import PASS_BYTES
from thaloom.work.runtime.engines.onnx.arrays import Array, array_of, value_of
from thaloom.work.runtime.engines.onnx.hearing import Ear, Heard
from thaloom.work.runtime.engines.onnx.picture import Brush, Painted
from thaloom.work.runtime.engines.onnx.session import Session
from thaloom.work.runtime.engines.onnx.voice import Said, Voice
from thaloom.work.runtime.events import EngineReady
from thaloom.work.runtime.messages import (
    Failed,
    Infer,
    InferDone,
    Paint,
    PaintDone,
    Reply,
    Speak,
    Spoken,
    Task,
    Transcribe,
    Transcribed,
    WorkerStats,
)
from thaloom.work.runtime.outbox import Outbox
from thaloom.work.runtime.types import (
    Inferred,
    InferRequest,
    PaintRequest,
    Pictures,
    SpeechRequest,
    TensorValue,
    TranscribeRequest,
    Transcript,
    Utterance,
)
from thaloom.work.runtime.worker.async_engine import Submission
from thaloom.work.runtime.worker.serving import Served, Site
from thaloom.work.runtime.worker.status import loading_stats

Request = InferRequest | TranscribeRequest | SpeechRequest | PaintRequest
F = TypeVar("F", Said, Painted)
GATHER_S = 0.002
"""How long the first of a batch waits for others to come: a small part of any pass worth joining."""
QUEUE_S = 60.0
"""A request that was not begun by then is given up."""
MOST_OUTPUT_BYTES = 15 * MIB
"""A reply is one frame (messages.MAX_FRAME_BYTES)."""


@dataclass(slots=True, kw_only=True)
class Waiting:
    ticket: Ticket
    request: Request
    since: float
    outbox: Outbox
    arrays: dict[str, Array] = field(default_factory=dict)
    rows: int = 0
    fits: tuple[object, ...] | None = None
    """Requests with the same may be joined; None: this one runs alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxModel:
    """Implements serving.Servable."""

    manifest: Manifest
    session: Session
    talent: Ear | Voice | Brush | None = None
    """What it is for, beside being computed."""

    def serve(self, site: Site) -> Served:
        return OnnxServed(self, site)

    def close(self) -> None:
        pass  # the runtime's memory goes with the process


class OnnxServed:
    """Implements serving.Served. All but the passes themselves on the event loop's thread, one pass at a time."""

    def __init__(self, model: OnnxModel, site: Site) -> None:
        self._model = model
        self._site = site
        self._numbers = itertools.count(1)
        self._queue: deque[Waiting] = deque()
        self._running: list[Waiting] = []
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._requests = self._cancelled = self._failed = self._passes = 0
        self._compute_s = 0.0

    def start(self) -> None:
        self._task = asyncio.create_task(self._work(), name="onnx passes")
        self._task.add_done_callback(self._over)

    def told(self) -> Event:
        spec = self._site.spec
        return EngineReady(
            worker=spec.worker, service=spec.service, engine="onnx", model=spec.model,
            max_sequences=spec.max_sequences if self._model.session.joins else 1, context_length=None, degraded=None,
        )  # fmt: skip

    def status(self, phase: str) -> WorkerStats:
        running, waiting = self.under_way()
        session, card = self._model.session, self._model.manifest.card
        return msgspec.structs.replace(
            loading_stats(self._site.spec, phase),
            ready=phase == "ready",
            pid=os.getpid(),
            model_digest=self._model.manifest.digest,
            weight_bytes=card.weight_bytes,
            scratch_bytes=PASS_BYTES,
            inputs=list(session.inputs),
            outputs=list(session.outputs),
            running=running,
            waiting=waiting,
            requests_total=self._requests,
            cancelled_total=self._cancelled,
            failed_total=self._failed,
            steps_total=self._passes,
            step_seconds_total=self._compute_s,
        )

    async def take(self, request: Task) -> Submission:
        """Raises BadRequest, BadParameter, NotServable, QueueFull."""
        if not isinstance(request, Infer | Transcribe | Speak | Paint):
            raise BadRequest("this worker's model is no language model")
        asked = request.request
        self._require_talent(asked)
        spec = self._site.spec
        if len(self._queue) >= spec.max_queue:
            raise QueueFull(f"{spec.max_queue} requests wait for {spec.service!r} already", retry_after_s=1.0)
        waiting = Waiting(
            ticket=Ticket(next(self._numbers)),
            request=asked,
            since=self._site.clock.monotonic(),
            outbox=Outbox(self._site.max_tokens_behind),
        )
        if isinstance(asked, InferRequest):
            arrays = waiting.arrays = self._arrays(asked)
            waiting.rows = next((len(array) for array in arrays.values() if array.ndim), 0)
            waiting.fits = self._fits(asked, arrays)
        ahead = len(self._queue)
        self._queue.append(waiting)
        self._requests += 1
        self._news.set()
        return Submission(ticket=waiting.ticket, waiting=ahead, outbox=waiting.outbox)

    def drop(self, ticket: Ticket) -> None:
        """One that is being computed is computed to its end: others may be in the same pass."""
        for waiting in self._queue:
            if waiting.ticket == ticket:
                self._queue.remove(waiting)
                self._cancelled += 1
                return
        for running in self._running:
            if running.ticket == ticket and not running.outbox.ended:
                self._cancelled += 1

    def under_way(self) -> tuple[int, int]:
        return len(self._running), len(self._queue)

    def fail_all(self, error: ThaloomError) -> None:
        for waiting in (*self._running, *self._queue):
            self._refuse(waiting, error)
        self._queue.clear()

    async def end(self, timeout_s: float) -> ThaloomError | None:
        assert self._task is not None
        self._task.cancel()
        _, pending = await asyncio.wait({self._task}, timeout=timeout_s)
        return DeviceLost("a pass of the model does not end", device=self._site.spec.device) if pending else None

    def _require_talent(self, asked: Request) -> None:
        kind = {TranscribeRequest: Ear, SpeechRequest: Voice, PaintRequest: Brush}.get(type(asked))
        if kind is not None and not isinstance(self._model.talent, kind):
            raise NotServable(
                f"{self._site.spec.service!r} is not made for this, as far as its files say (docs/engines.md)",
                param="model",
            )

    def _arrays(self, request: InferRequest) -> dict[str, Array]:
        wanted = {tensor.name: tensor for tensor in self._model.session.inputs}
        given: dict[str, TensorValue] = {}
        for value in request.inputs:
            if value.name not in wanted or value.name in given:
                why = "twice" if value.name in given else f"unknown (the model has: {', '.join(wanted)})"
                raise BadParameter(f"input {value.name[:200]!r} is {why}", param="inputs")
            given[value.name] = value
        if missing := [name for name in wanted if name not in given]:
            raise BadParameter(f"input {missing[0]!r} is missing", param="inputs")
        names = {tensor.name for tensor in self._model.session.outputs}
        if unknown := [name for name in request.outputs if name not in names]:
            raise BadParameter(f"the model has no output {unknown[0][:200]!r}", param="outputs")
        return {name: array_of(value, wanted[name]) for name, value in given.items()}

    def _fits(self, request: InferRequest, arrays: dict[str, Array]) -> tuple[object, ...] | None:
        rows = {array.shape[0] if array.ndim else None for array in arrays.values()}
        if not self._model.session.joins or len(rows) != 1 or None in rows or 0 in rows:
            return None
        return (request.outputs, *((name, arrays[name].shape[1:]) for name in sorted(arrays)))

    async def _work(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            while self._queue:
                if len(self._queue) < self._site.spec.max_sequences and self._queue[0].fits is not None:
                    await asyncio.sleep(GATHER_S)
                self._running = self._next_batch()
                try:
                    await self._pass(self._running)
                finally:
                    self._running = []

    def _next_batch(self) -> list[Waiting]:
        """The first that waits and those that fit to it, at most `max_sequences` rows together. Nobody is overtaken by
        one that does not fit: the others keep their places."""
        batch: list[Waiting] = []
        rows = 0
        now = self._site.clock.monotonic()
        for waiting in list(self._queue):
            if now - waiting.since > QUEUE_S:
                self._queue.remove(waiting)
                self._refuse(waiting, DeadlineExceeded(f"the request was not begun within {QUEUE_S:g} s"))
            elif not batch or (
                waiting.fits is not None
                and waiting.fits == batch[0].fits
                and rows + waiting.rows <= self._site.spec.max_sequences
            ):
                self._queue.remove(waiting)
                batch.append(waiting)
                rows += waiting.rows
        return batch

    async def _pass(self, batch: Sequence[Waiting]) -> None:
        if not batch:
            return
        began = self._site.clock.monotonic()
        computing = asyncio.ensure_future(asyncio.to_thread(_compute, self._model, batch))
        try:
            results = await asyncio.shield(computing)
        except asyncio.CancelledError:
            await asyncio.wait([computing])  # a thread cannot be cancelled; the pass has its own deadline
            raise
        took = self._site.clock.monotonic() - began
        self._passes += 1
        self._compute_s += took
        rows = sum(waiting.rows for waiting in batch) if batch[0].fits is not None else 0
        for waiting, result in zip(batch, results, strict=True):
            if isinstance(result, ThaloomError):
                self._refuse(waiting, result)
            else:
                waiting.outbox.put(self._told(result, began - waiting.since, took, rows))

    def _told(self, result: Result, queue_s: float, compute_s: float, rows: int) -> Reply:
        if isinstance(result, Heard):
            heard = Transcript(
                text=result.text, words=result.words, duration_s=result.duration_s, queue_s=queue_s, compute_s=compute_s
            )
            return Transcribed(transcript=heard)
        if isinstance(result, Said):
            assert isinstance(self._model.talent, Voice)
            said = Utterance(
                samples=result.samples, rate=self._model.talent.rate, queue_s=queue_s, compute_s=compute_s,
                degraded=result.degraded,
            )  # fmt: skip
            return Spoken(speech=said)
        if isinstance(result, Painted):
            pictures = Pictures(
                images=result.images, width=result.width, height=result.height, queue_s=queue_s, compute_s=compute_s
            )
            return PaintDone(pictures=pictures)
        return InferDone(result=Inferred(outputs=result, queue_s=queue_s, compute_s=compute_s, batch_rows=rows))

    def _over(self, task: asyncio.Task[None]) -> None:
        """A defect of ours: nothing more is computed, so the worker ends, and nobody is left to wait."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._site.broken(InternalError(f"the worker broke: {type(error).__name__}: {error}"))

    def _refuse(self, waiting: Waiting, error: ThaloomError) -> None:
        self._failed += not waiting.outbox.ended
        waiting.outbox.put(Failed(error=error.to_dict()))


Result = tuple[TensorValue, ...] | Heard | Said | Painted


def _compute(model: OnnxModel, batch: Sequence[Waiting]) -> Sequence[Result | ThaloomError]:
    """On a thread. A batch that fails together is tried one by one: a bad request spoils nobody else's."""
    session = model.session
    if len(batch) == 1:
        return [_alone(model, batch[0])]
    names = _outputs(session, batch[0])
    try:
        joined = {name: np.concatenate([waiting.arrays[name] for waiting in batch]) for name in batch[0].arrays}
        outputs = session.run(joined, names)
        rows = sum(waiting.rows for waiting in batch)
        if any(output.ndim == 0 or len(output) != rows for output in outputs):
            raise BadParameter("the model gave other rows than it got")
    except DeadlineExceeded as error:
        return [error for _ in batch]
    except (ThaloomError, ValueError, MemoryError):
        return [_alone(model, waiting) for waiting in batch]
    ends = np.cumsum([waiting.rows for waiting in batch])[:-1]
    split = [np.split(output, ends) for output in outputs]
    return [_told(names, [parts[index] for parts in split]) for index in range(len(batch))]


def _outputs(session: Session, waiting: Waiting) -> tuple[str, ...]:
    wanted = waiting.request.outputs if isinstance(waiting.request, InferRequest) else ()
    return wanted or tuple(tensor.name for tensor in session.outputs)


def _alone(model: OnnxModel, waiting: Waiting) -> Result | ThaloomError:
    try:
        if isinstance(waiting.request, TranscribeRequest):
            assert isinstance(model.talent, Ear)
            return model.talent.hear(waiting.request)
        if isinstance(waiting.request, SpeechRequest):
            assert isinstance(model.talent, Voice)
            said = model.talent.say(waiting.request)
            return _fits_a_frame(said, len(said.samples))
        if isinstance(waiting.request, PaintRequest):
            assert isinstance(model.talent, Brush)
            painted = model.talent.paint(waiting.request)
            return _fits_a_frame(painted, sum(map(len, painted.images)))
        names = _outputs(model.session, waiting)
        return _told(names, model.session.run(waiting.arrays, names))
    except ThaloomError as error:
        return error
    except Exception as error:  # noqa: BLE001 - supervisor of requests: one may not end the others
        return InternalError(f"the worker broke: {type(error).__name__}: {error}")


def _fits_a_frame(result: F, num_bytes: int) -> F:
    if num_bytes > MOST_OUTPUT_BYTES:
        raise TooLarge(f"the answer has {format_bytes(num_bytes)}, at most {format_bytes(MOST_OUTPUT_BYTES)} are given")
    return result


def _told(names: Sequence[str], arrays: Sequence[Array]) -> tuple[TensorValue, ...] | TooLarge:
    values = tuple(value_of(name, array) for name, array in zip(names, arrays, strict=True))
    if (num_bytes := sum(len(value.data) for value in values)) > MOST_OUTPUT_BYTES:
        return TooLarge(
            f"the outputs have {format_bytes(num_bytes)}, at most {format_bytes(MOST_OUTPUT_BYTES)} are given; "
            "ask for fewer outputs or smaller inputs"
        )
    return values
