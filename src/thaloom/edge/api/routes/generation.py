"""A route that answers with what a model generates, whatever protocol wraps it: admitted, followed, written, cut off.

The protocol says how a request is read, how an answer is written, and how an error looks; all else is the same for
everybody. Holds no state of its own.
"""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from starlette.types import Receive, Scope, Send

from thaloom.base.clock import Clock
from thaloom.base.errors import BadParameter, DeadlineExceeded, ModelNotFound, ThaloomError
from thaloom.base.ids import RequestId, new_request_id
from thaloom.edge.api.measures.metrics import DoorMetrics
from thaloom.edge.api.routes.body import ClientGone, read_object, while_connected
from thaloom.edge.api.routes.follow import Item, close_all, follow, start_all
from thaloom.work.runtime.types import (
    Delta,
    Done,
    GenerateRequest,
    Generation,
    PositionLogprobs,
    ServedModel,
    ToolCallPiece,
)

_UTF8 = codecs.getincrementaldecoder("utf-8")
EVENT_STREAM = b"text/event-stream; charset=utf-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One request: its answers in the order of their index, and how the client wants them."""

    id: RequestId
    model: str
    requests: tuple[GenerateRequest, ...]
    stream: bool


@dataclass(slots=True, kw_only=True)
class Choice:
    """One answer as it grows: all of it where it is wanted whole, else what has come since the last chunk."""

    index: int
    text: str = ""
    reasoning: str = ""
    tool_calls: list[ToolCallPiece] = field(default_factory=list)
    logprobs: list[PositionLogprobs] = field(default_factory=list)
    done: Done | None = None
    num_tokens: int = 0
    """Of the answer so far."""
    prompt_tokens: int | None = None
    """Once it is known."""
    num_decoded: int = 0
    """Characters of all tokens told so far: where the next token's text begins (completions' `text_offset`)."""
    decoder: codecs.IncrementalDecoder = field(default_factory=lambda: _UTF8("replace"))

    def add(self, delta: Delta) -> None:
        self.text += delta.text
        self.reasoning += delta.reasoning
        self.tool_calls += delta.tool_calls
        self.logprobs += delta.logprobs
        self.num_tokens += delta.num_tokens
        if delta.prompt_tokens is not None:
            self.prompt_tokens = delta.prompt_tokens

    @property
    def has_news(self) -> bool:
        return bool(self.text or self.reasoning or self.tool_calls or self.logprobs) or self.done is not None

    def told(self) -> None:
        """What there was is written."""
        self.text, self.reasoning, self.tool_calls, self.logprobs = "", "", [], []


class Form(Protocol):
    """Writes the answers to one request."""

    def whole(self, choices: Sequence[Choice]) -> bytes:
        """The body of an answer that does not stream."""
        ...

    def opening(self) -> bytes:
        """What a stream begins with, if anything."""
        ...

    def chunk(self, choice: Choice) -> bytes:
        """What has come for this choice since its last chunk; with its end, if `done` is set."""
        ...

    def closing(self, choices: Sequence[Choice]) -> bytes:
        """What a stream that came to its end ends with."""
        ...

    def error_event(self, error: ThaloomError) -> bytes:
        """What a stream that failed ends with."""
        ...


W = TypeVar("W", bound=Wanted)


@dataclass(frozen=True, slots=True, kw_only=True)
class Speaking(Generic[W]):
    """One route of one protocol. `form` is given the served model (None: no such one, which `start` will refuse) and
    the time of the request. Errors before an answer has begun are raised: errors.error_response knows the forms."""

    id_prefix: str
    read: Callable[[dict[str, Any], RequestId], W]
    form: Callable[[W, ServedModel | None, float], Form]
    media_type: bytes = EVENT_STREAM
    """Of a stream."""


class GenerationRoute(Generic[W]):
    """A plain ASGI application: what streams does not go through a framework's layers."""

    def __init__(self, speaking: Speaking[W], *, generation: Generation, clock: Clock, metrics: DoorMetrics) -> None:
        self._speaking = speaking
        self._generation = generation
        self._clock = clock
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            data = await read_object(scope, receive)
            try:
                wanted = self._speaking.read(data, new_request_id(self._speaking.id_prefix))
            except BadParameter as error:
                raise told_first(self._generation, data, error) from error
            await self.answer(wanted, receive, send)
        except ClientGone:
            return  # an answer that has begun is cut by the server: nobody takes it for whole

    async def answer(self, wanted: W, receive: Receive, send: Send) -> None:
        """Serve a request that is read. Raises ClientGone, and ThaloomError where nothing has been sent."""
        served = find_served(self._generation, wanted.model)
        form = self._speaking.form(wanted, served, self._clock.now())
        label = "" if served is None else served.name  # never a name that somebody made up
        answer = _Answering(self, wanted, form, send)
        try:
            await while_connected(receive, answer.stream() if wanted.stream else answer.whole())
        except ClientGone:
            self._metrics.cancelled.labels(label).inc()
            raise
        except asyncio.CancelledError:  # by the server, which has waited long enough at its own end
            await answer.break_off(DeadlineExceeded("the door closes before the answer is whole; ask for it again"))


class _Answering:
    """One request being answered."""

    def __init__(self, route: GenerationRoute[W], wanted: W, form: Form, send: Send) -> None:
        self._generation = route._generation
        self._media_type = route._speaking.media_type
        self._metrics = route._metrics
        self._wanted = wanted
        self._form = form
        self._send = send
        self._choices = [Choice(index=index) for index in range(len(wanted.requests))]
        self._opened = False

    async def whole(self) -> None:
        await follow(await start_all(self._generation, self._wanted.requests), self._collect)
        body = self._form.whole(self._choices)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await self._begin(headers)
        await self._write(body, more=False)

    async def stream(self) -> None:
        answers = await start_all(self._generation, self._wanted.requests)
        try:
            await self._begin(stream_headers(self._media_type))
            if opening := self._form.opening():
                await self._write(opening)
            await follow(answers, self._forward)
        except ThaloomError as error:
            self._metrics.errors.labels(error.code).inc()
            await self._write(self._form.error_event(error), more=False)
            return
        finally:
            await close_all(answers)
        await self._write(self._form.closing(self._choices), more=False)

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
            if choice.has_news:
                chunks.append(self._form.chunk(choice))
                choice.told()
        if chunks:
            await self._write(b"".join(chunks))

    def _take(self, index: int, item: Item) -> None:
        choice = self._choices[index]
        if isinstance(item, Done):
            choice.done = item
        else:
            choice.add(item)

    async def _begin(self, headers: list[tuple[bytes, bytes]]) -> None:
        self._opened = True
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def _write(self, body: bytes, *, more: bool = True) -> None:
        try:
            await self._send({"type": "http.response.body", "body": body, "more_body": more})
        except OSError as error:
            raise ClientGone from error


def stream_headers(media_type: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"content-type", media_type), (b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]


def find_served(generation: Generation, name: str) -> ServedModel | None:
    """`tiny:latest` is `tiny`. Raises NodeNotRunning."""
    return next((model for model in generation.models() if name in (model.name, f"{model.name}:latest")), None)


def told_first(generation: Generation, data: dict[str, Any], error: BadParameter) -> ThaloomError:
    """Of a request for a model that is not here, that; else `error`. Raises NodeNotRunning."""
    name = data.get("model")
    if isinstance(name, str) and name and find_served(generation, name) is None:
        return _missing(generation, name)
    return error


def get_served(generation: Generation, name: str) -> ServedModel:
    """Raises ModelNotFound, NodeNotRunning."""
    served = find_served(generation, name)
    if served is None:
        raise _missing(generation, name)
    return served


def _missing(generation: Generation, name: str) -> ModelNotFound:
    names = ", ".join(sorted(model.name for model in generation.models())) or "none"
    return ModelNotFound(f"no model {name!r} is served here (served: {names})", param="model")
