"""Generation as the door needs it: finds the route, speaks the model's language, follows the worker's answer."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import random
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import msgspec

from thaloom.base.clock import Clock
from thaloom.base.errors import (
    BadParameter,
    InternalError,
    ThaloomError,
)
from thaloom.base.events import Emit
from thaloom.kernel.models.types import ModelTensor
from thaloom.kernel.state.types import GUESTS, Alias, Route
from thaloom.work.runtime.frontend.answering import Answer
from thaloom.work.runtime.frontend.asking import embed_message, message_of
from thaloom.work.runtime.frontend.call import Deadlines
from thaloom.work.runtime.frontend.conversing import answer_text
from thaloom.work.runtime.frontend.foreign import ForeignAnswer, require_own
from thaloom.work.runtime.frontend.inferring import Computed, compute, seconds, tensors
from thaloom.work.runtime.frontend.prompting import Speech, SpeechCache
from thaloom.work.runtime.frontend.routing import Aliases
from thaloom.work.runtime.frontend.scoring import judges, question, score_of
from thaloom.work.runtime.frontend.waking import WAKE_LIMIT_S, RouteSource, Wake, Waking, nobody_wakes
from thaloom.work.runtime.frontend.workers import Placed, Workers
from thaloom.work.runtime.messages import (
    Ask,
    AskEmbedding,
    Embedded,
    Infer,
    InferDone,
    Paint,
    PaintDone,
    Speak,
    Spoken,
    Tokens,
    Transcribe,
    Transcribed,
)
from thaloom.work.runtime.types import (
    Delta,
    Done,
    Embedding,
    EmbedRequest,
    GenerateRequest,
    Inferred,
    InferRequest,
    PaintRequest,
    Pictures,
    ScoreRequest,
    Scores,
    ServedModel,
    SpeechRequest,
    Tokenized,
    TokenizeRequest,
    TokenizerInfo,
    TranscribeRequest,
    Transcript,
    Utterance,
)

MOST_SCORED_AT_ONCE = 16
"""Documents of one request in the worker at the same time: others want their turn too."""


class Frontend:
    """Implements types.Generation and types.Inference over routes and workers' sockets. Belongs to one event loop;
    `close` it."""

    def __init__(
        self,
        routes: RouteSource,
        clock: Clock,
        emit: Emit,
        *,
        deadlines: Deadlines | None = None,
        wake: Wake = nobody_wakes,
        wake_limit_s: float = WAKE_LIMIT_S,
        draw: Callable[[], float] = random.random,
        on_return: Callable[[Alias, str], None] = lambda _alias, _reason: None,
    ) -> None:
        """`wake`: has the node start a service that is idle. `draw`: numbers in [0, 1), for shares. `on_return` is told
        of a canary that did worse, and why."""
        self._routes = routes
        self._clock = clock
        self._waking = Waking(routes, wake, wake_limit_s)
        self._workers = Workers(routes, deadlines or Deadlines(), self._waking)
        self._speeches = SpeechCache(clock, emit)
        self._aliases = Aliases(draw, emit, on_return)

    def close(self) -> None:
        self._waking.close()
        self._speeches.close()

    def models(self) -> list[ServedModel]:
        """Services, then aliases, each as far as it can be used now."""
        routes = self._routes.current()
        return [served(route.name, [route], route.created_at) for route in routes.routes] + [
            served(alias.name, self._aliases.behind(routes, alias), alias.created_at) for alias in routes.aliases
        ]

    async def start(self, request: GenerateRequest) -> AsyncIterator[Delta | Done]:
        route, alias = self._aliases.resolve(self._routes.current(), request.model)
        try:
            answer = await self._start(request, route)
        except ThaloomError as error:
            self._aliases.failed(alias, route.name, error)
            raise
        return answer if alias is None else self._aliases.watch(alias, route.name, answer)

    async def _start(self, request: GenerateRequest, route: Route) -> Answer | ForeignAnswer:
        route = await self._workers.ready(route.name)
        answer: Answer | ForeignAnswer
        if route.engine in GUESTS:
            ask = Ask(request=request)
            placed = await self._workers.begin(route.name, ask)
            answer = ForeignAnswer(self._workers, placed, ask)
        else:
            require_own(route, "an answer")
            placed, answer = await self._start_own(request, route)
        try:
            answer.degraded = await self._workers.degraded(placed.socket)
        except BaseException:
            await answer.aclose()
            raise
        return answer

    async def _start_own(self, request: GenerateRequest, route: Route) -> tuple[Placed, Answer]:
        speech = await self._speech(route)
        prompt = await self._speeches.tokenise(speech, request)
        message = message_of(request, prompt, speech, _context(route, speech))
        if request.pins and route.keeps_prompts:  # looked for last: what is refused costs no more than being read
            message = msgspec.structs.replace(message, pins=await self._speeches.pins(speech, request, prompt))
        placed = await self._workers.begin(route.name, message)
        return placed, Answer(self._workers, placed, message, answer_text(request, prompt, speech), self._clock)

    async def tokenize(self, request: TokenizeRequest) -> Tokenized:
        route = self._route(request.model)
        require_own(route, "tokenizing")
        speech = await self._speech(route)
        tokens = await self._speeches.tokenize(speech, request)
        return Tokenized(
            tokens=tuple(tokens),
            texts=tuple(speech.tokenizer.spelled(token) for token in tokens),
            context_length=_context(route, speech),
        )

    async def detokenize(self, model: str, tokens: tuple[int, ...]) -> str:
        route = self._route(model)
        require_own(route, "detokenizing")
        speech = await self._speech(route)
        speech.tokenizer.check_tokens(tokens, "tokens")
        return speech.tokenizer.decode(tokens, special=True)

    async def tokenizer_info(self, model: str) -> TokenizerInfo:
        route = self._route(model)
        require_own(route, "telling of its tokenizer")
        speech = await self._speech(route)
        return TokenizerInfo(
            vocab_size=speech.tokenizer.vocab_size,
            context_length=_context(route, speech),
            bos_token=speech.tokenizer.bos_token,
            eos_token=speech.tokenizer.eos_token,
            stop_tokens=speech.tokenizer.stop_tokens,
            chat_template=None if speech.template is None else speech.template.source,
        )

    async def worker_metrics(self) -> list[dict[str, Any]]:
        return await self._workers.metrics()

    async def embed(self, request: EmbedRequest) -> Embedding:
        route = self._route(request.model)
        route = await self._workers.ready(route.name)
        if route.engine in GUESTS:
            return await self._ask_embedding(request, route)
        require_own(route, "an embedding")
        speech = await self._speech(route)
        prompt = await self._speeches.text_tokens(speech, request)
        message = embed_message(request, prompt, request.pooling or speech.pooling, _context(route, speech))
        placed = await self._workers.begin(route.name, message)
        try:
            state = await placed.call.state()
            degraded = await self._workers.degraded(placed.socket)
        finally:
            placed.call.close()
        values = struct.unpack(f"<{len(state.values) // 4}f", state.values)
        return Embedding(values=_shaped(values, request), prompt_tokens=len(prompt), degraded=degraded)

    async def _ask_embedding(self, request: EmbedRequest, route: Route) -> Embedding:
        placed = await self._workers.begin(route.name, AskEmbedding(request=request))
        try:
            told = (await placed.call.whole(Embedded)).embedding
            degraded = await self._workers.degraded(placed.socket)
        finally:
            placed.call.close()
        return dataclasses.replace(told, values=_shaped(told.values, request), degraded=degraded)

    def serves(self, model: str) -> bool:
        route = self._route(model)
        return route.takes_requests and (route.phase != "ready" or bool(route.sockets))

    async def awake(self, model: str) -> None:
        await self._workers.ready(self._route(model).name)

    async def tensors(self, model: str) -> tuple[tuple[ModelTensor, ...], tuple[ModelTensor, ...]]:
        return await tensors(self._workers, self._route(model))

    async def infer(self, request: InferRequest) -> Inferred:
        return (await self._compute(request.model, Infer(request=request), InferDone)).result

    async def transcribe(self, request: TranscribeRequest) -> Transcript:
        return (await self._compute(request.model, Transcribe(request=request), Transcribed)).transcript

    async def speak(self, request: SpeechRequest) -> Utterance:
        return (await self._compute(request.model, Speak(request=request), Spoken)).speech

    async def paint(self, request: PaintRequest) -> Pictures:
        return (await self._compute(request.model, Paint(request=request), PaintDone)).pictures

    async def _compute(self, model: str, message: Infer | Transcribe | Speak | Paint, kind: type[Computed]) -> Computed:
        route, alias = self._aliases.resolve(self._routes.current(), model)
        try:
            answer = await compute(self._workers, route, message, kind)
        except ThaloomError as error:
            self._aliases.failed(alias, route.name, error)
            raise
        self._aliases.computed(alias, route.name, *seconds(answer))
        return answer

    async def score(self, request: ScoreRequest) -> Scores:
        route = self._route(request.model)
        route = await self._workers.ready(route.name)
        require_own(route, "scoring")
        speech = await self._speech(route)
        tokens = judges(speech, request.model)
        turns = asyncio.Semaphore(MOST_SCORED_AT_ONCE)

        async def judged(document: str) -> tuple[float, int, str | None]:
            async with turns:
                return await self._judge(question(request, document, speech), tokens, route, speech)

        tasks = [asyncio.create_task(judged(document)) for document in request.documents]
        try:
            told = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        return Scores(
            values=tuple(score for score, _, _ in told),
            prompt_tokens=sum(count for _, count, _ in told),
            degraded=next((worker for _, _, worker in told if worker is not None), None),
        )

    async def _judge(
        self, asked: GenerateRequest, tokens: tuple[int, int], route: Route, speech: Speech
    ) -> tuple[float, int, str | None]:
        """The score, the tokens of the prompt, and why the worker is degraded, if it is."""
        prompt = await self._speeches.tokenise(speech, asked)
        message = message_of(asked, prompt, speech, _context(route, speech))
        message = msgspec.structs.replace(message, temperature=0.0, stop_tokens=[], logprobs=0, report=list(tokens))
        placed = await self._workers.begin(route.name, message)
        try:
            reply = await placed.call.next()
            degraded = await self._workers.degraded(placed.socket)
        finally:
            placed.call.close()
        if not isinstance(reply, Tokens) or not reply.logprobs:
            raise InternalError("the worker told no log-probabilities")
        return score_of(reply.logprobs[0]), len(prompt), degraded

    async def _speech(self, route: Route) -> Speech:
        return await self._speeches.get(route.model, route.tokenizer_files)

    def _route(self, model: str) -> Route:
        return self._aliases.resolve(self._routes.current(), model)[0]


def served(name: str, routes: Sequence[Route], created_at: float) -> ServedModel:
    """What can be said of a name that stands for these."""
    lengths = [route.context_length for route in routes if route.context_length is not None]
    return ServedModel(
        name=name,
        ready=any(route.takes_requests for route in routes),
        idle=bool(routes) and all(route.phase == "idle" for route in routes),
        keep_alive_s=routes[0].keep_alive_s if len(routes) == 1 else None,
        context_length=min(lengths, default=None),
        created_at=created_at,
    )


def _context(route: Route, speech: Speech) -> int | None:
    return route.context_length or speech.context_length


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
