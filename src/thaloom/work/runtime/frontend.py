"""Generation as the door needs it: finds the route, speaks the model's language, follows the worker's answer."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import struct
from collections.abc import AsyncIterator
from typing import Any, Protocol

import msgspec

from thaloom.base.clock import Clock
from thaloom.base.errors import (
    BadParameter,
    InternalError,
    ModelNotFound,
    ServiceFailed,
    ServiceLoading,
    ThaloomError,
    TooLarge,
    WorkerLost,
)
from thaloom.base.events import Emit
from thaloom.base.units import format_bytes
from thaloom.kernel.models.types import ModelTensor
from thaloom.kernel.state.types import GUESTS, Route, Routes
from thaloom.work.runtime.answering import Answer
from thaloom.work.runtime.answers import AnswerText
from thaloom.work.runtime.asking import embed_message, message_of
from thaloom.work.runtime.call import Call, Deadlines
from thaloom.work.runtime.foreign import ForeignAnswer, require_own, require_tensors
from thaloom.work.runtime.messages import MAX_FRAME_BYTES, Ask, AskEmbedding, Generate, Infer, Task, Tokens, encode
from thaloom.work.runtime.prompting import Speech, SpeechCache
from thaloom.work.runtime.scoring import judges, question, score_of
from thaloom.work.runtime.types import (
    Delta,
    Done,
    Embedding,
    EmbedRequest,
    GenerateRequest,
    Inferred,
    InferRequest,
    ScoreRequest,
    Scores,
    ServedModel,
    Tokenized,
    TokenizeRequest,
    TokenizerInfo,
)

MOST_SCORED_AT_ONCE = 16
"""Documents of one request in the worker at the same time: others want their turn too."""


class RouteSource(Protocol):
    """The last published snapshot, cheap to ask for; kernel.state.routes has the real one."""

    def current(self) -> Routes: ...


class Frontend:
    """Implements types.Generation over routes and workers' sockets. Belongs to one event loop; `close` it."""

    def __init__(self, routes: RouteSource, clock: Clock, emit: Emit, *, deadlines: Deadlines | None = None) -> None:
        self._routes = routes
        self._clock = clock
        self._deadlines = deadlines or Deadlines()
        self._speeches = SpeechCache(clock, emit)
        self._degraded: dict[str, tuple[str, str | None]] = {}
        """By service: the socket that was asked, and what its worker said."""

    def close(self) -> None:
        self._speeches.close()

    def models(self) -> list[ServedModel]:
        return [
            ServedModel(
                name=route.name,
                ready=route.phase == "ready",
                context_length=route.context_length,
                created_at=route.created_at,
            )
            for route in self._routes.current().routes
        ]

    async def start(self, request: GenerateRequest) -> AsyncIterator[Delta | Done]:
        route, _ = self._ready_route(request.model)
        if route.engine in GUESTS:
            call, _ = await self._admit(request.model, Ask(request=request))
            return ForeignAnswer(call)
        require_own(route, "an answer")
        speech = await self._speeches.get(route.model, route.tokenizer_files)
        prompt = await self._speeches.tokenise(speech, request)
        message = message_of(request, prompt, speech, route.context_length or speech.context_length)
        call, route = await self._admit(request.model, message)
        text = AnswerText(speech.tokenizer, stop=request.stop, at_start=request.messages is not None)
        answer = Answer(self._readmit, route, call, message, text, self._clock)
        try:
            answer.degraded = await self._ask_degraded(route)
        except BaseException:
            await answer.aclose()
            raise
        return answer

    async def tokenize(self, request: TokenizeRequest) -> Tokenized:
        route = self._known_route(request.model)
        require_own(route, "tokenizing")
        speech = await self._speeches.get(route.model, route.tokenizer_files)
        tokens = await self._speeches.tokenize(speech, request)
        return Tokenized(
            tokens=tuple(tokens),
            texts=tuple(speech.tokenizer.spelled(token) for token in tokens),
            context_length=route.context_length or speech.context_length,
        )

    async def detokenize(self, model: str, tokens: tuple[int, ...]) -> str:
        route = self._known_route(model)
        require_own(route, "detokenizing")
        speech = await self._speeches.get(route.model, route.tokenizer_files)
        speech.tokenizer.check_tokens(tokens, "tokens")
        return speech.tokenizer.decode(tokens, special=True)

    async def tokenizer_info(self, model: str) -> TokenizerInfo:
        route = self._known_route(model)
        require_own(route, "telling of its tokenizer")
        speech = await self._speeches.get(route.model, route.tokenizer_files)
        return TokenizerInfo(
            vocab_size=speech.tokenizer.vocab_size,
            context_length=route.context_length or speech.context_length,
            bos_token=speech.tokenizer.bos_token,
            eos_token=speech.tokenizer.eos_token,
            stop_tokens=speech.tokenizer.stop_tokens,
            chat_template=None if speech.template is None else speech.template.source,
        )

    async def worker_metrics(self) -> list[dict[str, Any]]:
        routes = [route for route in self._routes.current().routes if route.socket is not None]
        return list(await asyncio.gather(*(self._metrics_of(route) for route in routes)))

    async def embed(self, request: EmbedRequest) -> Embedding:
        route, _ = self._ready_route(request.model)
        if route.engine in GUESTS:
            return await self._ask_embedding(request)
        require_own(route, "an embedding")
        speech = await self._speeches.get(route.model, route.tokenizer_files)
        prompt = await self._speeches.text_tokens(speech, request)
        message = embed_message(
            request, prompt, request.pooling or speech.pooling, route.context_length or speech.context_length
        )
        call, route = await self._admit(request.model, message)
        try:
            state = await call.state()
            degraded = await self._ask_degraded(route)
        finally:
            call.close()
        values = struct.unpack(f"<{len(state.values) // 4}f", state.values)
        return Embedding(values=_shaped(values, request), prompt_tokens=len(prompt), degraded=degraded)

    async def _ask_embedding(self, request: EmbedRequest) -> Embedding:
        call, route = await self._admit(request.model, AskEmbedding(request=request))
        try:
            told = (await call.embedding()).embedding
            degraded = await self._ask_degraded(route)
        finally:
            call.close()
        return dataclasses.replace(told, values=_shaped(told.values, request), degraded=degraded)

    def serves(self, model: str) -> bool:
        route = self._known_route(model)
        return route.phase == "ready" and route.socket is not None

    async def tensors(self, model: str) -> tuple[tuple[ModelTensor, ...], tuple[ModelTensor, ...]]:
        route, socket = self._ready_route(model)
        require_tensors(route)
        stats = await Call.status(socket, self._deadlines)
        return tuple(stats.inputs), tuple(stats.outputs)

    async def infer(self, request: InferRequest) -> Inferred:
        require_tensors(self._ready_route(request.model)[0])
        message = Infer(request=request)
        if len(encode(message)) > MAX_FRAME_BYTES:
            raise TooLarge(f"the inputs have more than the {format_bytes(MAX_FRAME_BYTES)} that are taken")
        call, _ = await self._admit(request.model, message)
        try:
            return (await call.inferred()).result
        finally:
            call.close()

    async def score(self, request: ScoreRequest) -> Scores:
        route, _ = self._ready_route(request.model)
        require_own(route, "scoring")
        speech = await self._speeches.get(route.model, route.tokenizer_files)
        tokens = judges(speech, request.model)
        turns = asyncio.Semaphore(MOST_SCORED_AT_ONCE)

        async def judged(document: str) -> tuple[float, int]:
            async with turns:
                return await self._judge(question(request, document, speech), tokens, route, speech)

        tasks = [asyncio.create_task(judged(document)) for document in request.documents]
        try:
            told = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        return Scores(
            values=tuple(score for score, _ in told),
            prompt_tokens=sum(count for _, count in told),
            degraded=await self._ask_degraded(route),
        )

    async def _judge(
        self, asked: GenerateRequest, tokens: tuple[int, int], route: Route, speech: Speech
    ) -> tuple[float, int]:
        """The score, and the tokens of the prompt."""
        prompt = await self._speeches.tokenise(speech, asked)
        message = message_of(asked, prompt, speech, route.context_length or speech.context_length)
        message = msgspec.structs.replace(message, temperature=0.0, stop_tokens=[], logprobs=0, report=list(tokens))
        call, _ = await self._admit(asked.model, message)
        try:
            reply = await call.next()
        finally:
            call.close()
        if not isinstance(reply, Tokens) or not reply.logprobs:
            raise InternalError("the worker told no log-probabilities")
        return score_of(reply.logprobs[0]), len(prompt)

    async def _readmit(self, message: Generate, lost: Route) -> tuple[Call, Route]:
        return await self._admit(lost.name, message, lost=lost.socket)

    async def _admit(self, model: str, message: Task, *, lost: str | None = None) -> tuple[Call, Route]:
        """A worker that took the request. Tries a second one, silently, if the route leads elsewhere by now.

        `lost` is the socket of a worker that was already tried in vain.
        """
        route, socket = self._ready_route(model)
        if socket == lost:
            raise ServiceLoading(f"no other worker serves {model!r} yet", retry_after_s=1.0)
        try:
            return await Call.begin(socket, message, self._deadlines), route
        except (WorkerLost, ServiceLoading):
            newer, newer_socket = self._ready_route(model)
            if lost is not None or newer_socket == socket:
                raise
            return await Call.begin(newer_socket, message, self._deadlines), newer

    def _known_route(self, model: str) -> Route:
        routes = self._routes.current().routes
        route = next((route for route in routes if model in (route.name, f"{route.name}:latest")), None)
        if route is None:
            names = ", ".join(sorted(route.name for route in routes)) or "none"
            raise ModelNotFound(f"no model {model!r} is served here (served: {names})", param="model")
        return route

    def _ready_route(self, model: str) -> tuple[Route, str]:
        route = self._known_route(model)
        if route.phase == "failed":
            raise ServiceFailed(f"{route.name!r} cannot be served: {route.reason or 'no reason was given'}")
        if route.phase != "ready" or route.socket is None:
            why = f": {route.reason}" if route.reason else ""
            raise ServiceLoading(f"{route.name!r} is {route.phase}{why}", retry_after_s=route.retry_after_s or 2.0)
        return route, route.socket

    async def _ask_degraded(self, route: Route) -> str | None:
        """Whether the worker runs worse than wished, and why: asked once of each worker."""
        socket = route.socket or ""
        known = self._degraded.get(route.name)
        if known is None or known[0] != socket:
            try:
                stats = await Call.status(socket, self._deadlines)
            except (ThaloomError, TimeoutError):
                return None  # the answer itself will tell if the worker is gone; ask again with the next request
            self._degraded[route.name] = (socket, stats.degraded)
        return self._degraded[route.name][1]

    async def _metrics_of(self, route: Route) -> dict[str, Any]:
        head: dict[str, Any] = {"service": route.name, "model": route.model}
        try:
            stats = await Call.status(route.socket or "", self._deadlines)
        except (ThaloomError, TimeoutError):
            return head | {"up": False}
        return msgspec.structs.asdict(stats) | head | {"up": True}


def _shaped(values: tuple[float, ...], request: EmbedRequest) -> tuple[float, ...]:
    """Cut and normalised as asked. Raises BadParameter."""
    if request.dimensions is not None:
        if request.dimensions > len(values):
            raise BadParameter(
                f"{request.model!r} has embeddings of {len(values)} numbers, not {request.dimensions}",
                param="dimensions",
            )
        values = values[: request.dimensions]
    if not request.normalize:
        return values
    length = math.sqrt(math.fsum(value * value for value in values))
    return tuple(value / length for value in values) if length > 0 else values
