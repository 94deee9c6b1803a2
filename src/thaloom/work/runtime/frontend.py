"""Generation as the door needs it: finds the route, speaks the model's language, follows the worker's answer."""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
from collections.abc import AsyncIterator
from typing import Any, Protocol

import msgspec

from thaloom.base.clock import Clock
from thaloom.base.errors import ModelNotFound, PromptTooLong, ServiceFailed, ServiceLoading, ThaloomError, WorkerLost
from thaloom.base.events import Emit
from thaloom.kernel.state.types import Route, Routes
from thaloom.work.runtime.answers import AnswerText
from thaloom.work.runtime.call import Call, Deadlines
from thaloom.work.runtime.messages import Finished, Generate, Started, Tokens
from thaloom.work.runtime.prompting import Speech, SpeechCache, prompt_field
from thaloom.work.runtime.types import Delta, Done, FinishReason, GenerateRequest, Sampling, ServedModel


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
        speech = await self._speeches.get(route.model, route.tokenizer_files)
        prompt = await self._speeches.tokenise(speech, request)
        message = _message(request, prompt, speech, route.context_length or speech.context_length)
        call, route = await self._admit(request.model, message)
        text = AnswerText(speech.tokenizer, stop=request.stop, at_start=request.messages is not None)
        answer = _Answer(self, route, call, message, text, self._clock)
        try:
            answer.degraded = await self._ask_degraded(route)
        except BaseException:
            await answer.aclose()
            raise
        return answer

    async def worker_metrics(self) -> list[dict[str, Any]]:
        routes = [route for route in self._routes.current().routes if route.socket is not None]
        return list(await asyncio.gather(*(self._metrics_of(route) for route in routes)))

    async def _admit(self, model: str, message: Generate, *, lost: str | None = None) -> tuple[Call, Route]:
        """A worker that took the request. Tries a second one, silently, if the route leads elsewhere by now.

        `lost` is the socket of a worker that was already tried in vain.
        """
        route, socket = self._ready_route(model)
        if socket == lost:
            raise ServiceLoading(f"no other worker serves {model!r} yet", retry_after_s=1.0)
        try:
            return await Call.generate(socket, message, self._deadlines), route
        except (WorkerLost, ServiceLoading):
            newer, newer_socket = self._ready_route(model)
            if lost is not None or newer_socket == socket:
                raise
            return await Call.generate(newer_socket, message, self._deadlines), newer

    def _ready_route(self, model: str) -> tuple[Route, str]:
        routes = self._routes.current().routes
        route = next((route for route in routes if model in (route.name, f"{route.name}:latest")), None)
        if route is None:
            names = ", ".join(sorted(route.name for route in routes)) or "none"
            raise ModelNotFound(f"no model {model!r} is served here (served: {names})", param="model")
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


class _Answer(AsyncIterator[Delta | Done]):
    """One answer, and its connection. A class and not a generator: closing it works before the first item too."""

    def __init__(
        self,
        frontend: Frontend,
        route: Route,
        call: Call,
        message: Generate,
        text: AnswerText,
        clock: Clock,
    ) -> None:
        self.degraded: str | None = None
        self._frontend = frontend
        self._route = route
        self._call = call
        self._message = message
        self._text = text
        self._clock = clock
        self._accepted_at = clock.monotonic()
        self._first_at: float | None = None
        self._started: Started | None = None
        self._last: Done | None = None
        self._ended = False

    async def __anext__(self) -> Delta | Done:
        if self._ended:
            raise StopAsyncIteration
        if self._last is not None:
            self._end()
            return self._last
        try:
            reply = await self._next_reply()
            return self._take(reply)
        except BaseException:
            self._end()
            raise

    async def aclose(self) -> None:
        self._end()

    async def _next_reply(self) -> Tokens | Finished:
        try:
            return await self._call.next()
        except WorkerLost as lost:
            if self._first_at is not None:
                raise
            self._call.close()  # nothing was shown: whoever serves the model by now may answer instead
            try:
                self._call, self._route = await self._frontend._admit(
                    self._route.name, self._message, lost=self._route.socket
                )
            except ThaloomError as refusal:
                raise lost from refusal
            return await self._call.next()

    def _take(self, reply: Tokens | Finished) -> Delta | Done:
        if isinstance(reply, Tokens):
            if self._first_at is None:
                self._first_at, self._started = self._clock.monotonic(), reply.started
            delta = self._text.feed(reply)
            if self._text.stopped:
                self._call.close()
                self._last = self._cut_short()
            return delta
        rest = self._text.finish()
        self._call.close()
        self._last = self._done(reply)
        if rest.text or rest.logprobs:
            return rest
        self._end()
        return self._last

    def _done(self, finished: Finished) -> Done:
        reason: FinishReason = "length" if finished.reason == "length" and not self._text.stopped else "stop"
        return Done(
            reason=reason,
            prompt_tokens=finished.prompt_tokens,
            completion_tokens=finished.completion_tokens,
            cached_tokens=finished.cached_tokens,
            queue_s=finished.queue_s,
            prefill_s=finished.prefill_s,
            decode_s=finished.decode_s,
            degraded=self.degraded,
        )

    def _cut_short(self) -> Done:
        """The account of an answer the worker was not let finish."""
        first_at = self._first_at if self._first_at is not None else self._accepted_at
        started = self._started or Started(cached_tokens=0, queue_s=0.0, prefill_s=first_at - self._accepted_at)
        return Done(
            reason="stop",
            prompt_tokens=len(self._message.prompt),
            completion_tokens=self._text.num_tokens,
            cached_tokens=started.cached_tokens,
            queue_s=started.queue_s,
            prefill_s=started.prefill_s,
            decode_s=self._clock.monotonic() - first_at,
            degraded=self.degraded,
        )

    def _end(self) -> None:
        self._ended = True
        self._call.close()


def _message(request: GenerateRequest, prompt: list[int], speech: Speech, context_length: int | None) -> Generate:
    """What the worker is asked. Raises PromptTooLong naming both lengths, BadParameter for a sampling field."""
    wanted = 1 if request.max_tokens is None else request.max_tokens
    if context_length is None:
        context_length = len(prompt) + wanted  # nobody knows: the worker decides
    if len(prompt) + wanted > context_length:
        more = "" if request.max_tokens is None else f" and {wanted} more are asked for"
        raise PromptTooLong(
            f"the prompt has {len(prompt)} tokens{more}; the context of {request.model!r} holds {context_length}",
            param=prompt_field(request),
            prompt_tokens=len(prompt),
            max_tokens=request.max_tokens,
            context_length=context_length,
        )
    sampling: Sampling = dataclasses.replace(request.sampling or speech.sampling, **request.sampling_changes)  # type: ignore[arg-type]  # checked by Sampling itself
    return Generate(
        id=request.id,
        prompt=prompt,
        max_tokens=context_length - len(prompt) if request.max_tokens is None else wanted,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        seed=secrets.randbits(63) if sampling.seed is None else sampling.seed,
        stop_tokens=[] if request.ignore_eos else list(speech.tokenizer.stop_tokens),
        logprobs=request.logprobs,
    )
