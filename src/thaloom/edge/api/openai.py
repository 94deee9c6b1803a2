"""`/v1/chat/completions`, `/v1/completions` and `/v1/models`. Holds no state of its own."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from starlette.types import Receive, Scope, Send

from thaloom import __version__
from thaloom.base.clock import Clock
from thaloom.base.errors import DeadlineExceeded, ModelNotFound, ThaloomError
from thaloom.base.ids import RequestId, new_request_id
from thaloom.edge.api.body import ClientGone, read_object, while_connected
from thaloom.edge.api.follow import Item, close_all, follow, start_all
from thaloom.edge.api.metrics import DoorMetrics
from thaloom.edge.api.openai_answers import STREAM_END, Choice, Form
from thaloom.edge.api.openai_requests import Wanted
from thaloom.edge.wire import openai as wire
from thaloom.work.runtime.types import Done, Generation, ServedModel

Read = Callable[[dict[str, Any], RequestId], Wanted]


class GenerationRoute:
    """One of the two protocols' POST routes, as a plain ASGI application."""

    def __init__(
        self,
        read: Read,
        *,
        id_prefix: str,
        generation: Generation,
        clock: Clock,
        metrics: DoorMetrics,
    ) -> None:
        self._read = read
        self._id_prefix = id_prefix
        self._generation = generation
        self._clock = clock
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._serve(scope, receive, send)
        except ClientGone:
            return  # an answer that has begun is cut by the server: nobody takes it for whole

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = self._clock.monotonic()
        wanted = self._read(await read_object(scope, receive), new_request_id(self._id_prefix))
        served = find_served(self._generation, wanted.model)
        form = Form(wanted, created=int(self._clock.now()), fingerprint=fingerprint(served))
        label = "" if served is None else served.name  # never a name that somebody made up
        answer = _Answering(self, wanted, form, send, begun, label)
        try:
            await while_connected(receive, answer.stream() if wanted.stream else answer.whole())
        except ClientGone:
            self._metrics.cancelled.labels(label).inc()
            raise
        except asyncio.CancelledError:  # by the server, which has waited long enough at its own end
            await answer.break_off(DeadlineExceeded("the door closes before the answer is whole; ask for it again"))


class _Answering:
    """One request being answered."""

    def __init__(
        self, route: GenerationRoute, wanted: Wanted, form: Form, send: Send, begun: float, label: str
    ) -> None:
        self._generation = route._generation
        self._clock = route._clock
        self._metrics = route._metrics
        self._wanted = wanted
        self._form = form
        self._send = send
        self._begun = begun
        self._label = label
        self._choices = [Choice(index=index) for index in range(len(wanted.requests))]
        self._begun_choices: set[int] = set()
        self._opened = False

    async def whole(self) -> None:
        await follow(await start_all(self._generation, self._wanted.requests), self._collect)
        body = self._form.whole(self._choices)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await self._begin(headers + cost_headers(self._dones()))
        await self._write(body, more=False)

    async def stream(self) -> None:
        answers = await start_all(self._generation, self._wanted.requests)
        try:
            await self._begin(
                [
                    (b"content-type", b"text/event-stream; charset=utf-8"),
                    (b"cache-control", b"no-cache"),
                    (b"x-accel-buffering", b"no"),
                ]
            )
            if self._wanted.kind == "chat":
                await self._write(b"".join(self._form.opening(choice.index) for choice in self._choices))
            await follow(answers, self._forward)
        except ThaloomError as error:
            self._metrics.errors.labels(error.code).inc()
            await self._write(self._form.error_event(error), more=False)
            return
        finally:
            await close_all(answers)
        last = self._form.usage_chunk(self._choices) if self._wanted.include_usage else b""
        await self._write(last + STREAM_END, more=False)

    async def break_off(self, error: ThaloomError) -> None:
        """End with `error` an answer whose work was cancelled: in the stream if that has begun, else raised."""
        if not self._opened:
            raise error
        self._metrics.errors.labels(error.code).inc()
        await self._write(self._form.error_event(error), more=False)

    async def _collect(self, batch: list[tuple[int, Item]]) -> None:
        for index, item in batch:
            self._take(index, item)

    async def _forward(self, batch: list[tuple[int, Item]]) -> None:
        for index, item in batch:
            self._take(index, item)
        chunks: list[bytes] = []
        for index in dict.fromkeys(index for index, _ in batch):
            choice = self._choices[index]
            if choice.text or choice.logprobs or choice.done is not None:
                chunks.append(self._form.chunk(choice))
                choice.text, choice.logprobs = "", []
        if chunks:
            await self._write(b"".join(chunks))

    def _take(self, index: int, item: Item) -> None:
        choice = self._choices[index]
        if isinstance(item, Done):
            choice.done = item
            self._metrics.observe_answer(self._label, item)
            return
        if index not in self._begun_choices:
            self._begun_choices.add(index)
            self._metrics.first_token_seconds.labels(self._label).observe(self._clock.monotonic() - self._begun)
        choice.add(item)

    def _dones(self) -> list[Done]:
        return [choice.done for choice in self._choices if choice.done is not None]

    async def _begin(self, headers: list[tuple[bytes, bytes]]) -> None:
        self._opened = True
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def _write(self, body: bytes, *, more: bool = True) -> None:
        try:
            await self._send({"type": "http.response.body", "body": body, "more_body": more})
        except OSError as error:
            raise ClientGone from error


def cost_headers(dones: Sequence[Done]) -> list[tuple[bytes, bytes]]:
    """What the answer cost, as `Server-Timing` (W3C; milliseconds); of several answers, the slowest of each part."""
    parts = {
        "queue": max(done.queue_s for done in dones),
        "prefill": max(done.prefill_s for done in dones),
        "decode": max(done.decode_s for done in dones),
    }
    timing = ", ".join(f"{name};dur={seconds * 1000:.1f}" for name, seconds in parts.items())
    headers = [
        (b"server-timing", timing.encode()),
        (b"openai-processing-ms", str(round(1000 * sum(parts.values()))).encode()),
    ]
    reasons = sorted({done.degraded for done in dones if done.degraded is not None})
    if reasons:
        text = "; ".join(reasons).encode("ascii", "replace").decode()
        headers.append((b"x-thaloom-degraded", " ".join(text.split()).encode()))
    return headers


def fingerprint(served: ServedModel | None) -> str:
    """OpenAI's `system_fingerprint`: changes when what answers changes."""
    told = __version__ if served is None else f"{__version__}/{served.name}/{served.created_at}"
    return "fp_" + hashlib.sha256(told.encode()).hexdigest()[:12]


def list_models(generation: Generation) -> wire.ModelList:
    return wire.ModelList(object="list", data=[_model(served) for served in generation.models()])


def get_model(generation: Generation, name: str) -> wire.Model:
    """Raises ModelNotFound."""
    served = find_served(generation, name)
    if served is None:
        names = ", ".join(sorted(model.name for model in generation.models())) or "none"
        raise ModelNotFound(f"no model {name!r} is served here (served: {names})", param="model")
    return _model(served)


def find_served(generation: Generation, name: str) -> ServedModel | None:
    """`tiny:latest` is `tiny`. Raises NodeNotRunning."""
    return next((model for model in generation.models() if name in (model.name, f"{model.name}:latest")), None)


def _model(served: ServedModel) -> wire.Model:
    return wire.Model(
        id=served.name,
        object="model",
        created=int(served.created_at),
        owned_by="thaloom",
        ready=served.ready,
        context_length=served.context_length,
    )
