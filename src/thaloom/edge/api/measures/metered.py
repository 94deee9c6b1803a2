"""Generation with an account: what every request takes is reserved before, corrected after, and written on its tab.

One place for all protocols: they ask for models through this, and need not know of keys.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import AsyncIterator
from typing import Any

from thaloom.base.access import seen_name, tenant_of
from thaloom.base.clock import Clock
from thaloom.base.errors import ThaloomError
from thaloom.edge.api.entrance.visits import CURRENT, Tab, allow, kept_model, visit_of_request
from thaloom.edge.api.measures.metrics import DoorMetrics
from thaloom.edge.api.routes.generation import find_served
from thaloom.work.runtime.types import (
    Delta,
    Done,
    Embedding,
    EmbedRequest,
    GenerateRequest,
    Generation,
    ScoreRequest,
    Scores,
    ServedModel,
    Tokenized,
    TokenizeRequest,
    TokenizerInfo,
)

ASSUMED_ANSWER_TOKENS = 256
"""Reserved for an answer nobody set an end to; what it takes beyond is charged afterwards."""
BYTES_PER_TOKEN = 4
"""Of text, to reserve by: the field's rule of thumb. Source: OpenAI, 'Rate limits', which counts characters too."""


class MeteredGeneration:
    """Implements types.Generation over another one."""

    def __init__(self, generation: Generation, metrics: DoorMetrics, clock: Clock) -> None:
        self._generation = generation
        self._metrics = metrics
        self._clock = clock

    def models(self) -> list[ServedModel]:
        """What the holder of the request's key may see, by his names for it; of a tenant's, what his key is for."""
        visit = visit_of_request()
        tenant = None if visit is None else visit.tenant
        mine = [served for served in self._generation.models() if tenant_of(served.name) == tenant]
        if visit is not None and tenant is not None:
            mine = [served for served in mine if visit.is_for(served.name)]
        return [dataclasses.replace(served, name=seen_name(served.name, tenant)) for served in mine]

    async def start(self, request: GenerateRequest) -> AsyncIterator[Delta | Done]:
        """Raises RateLimited and Forbidden beside what generation raises."""
        tab = CURRENT.get() or Tab()
        is_new = tab.is_new(request.messages or request.prompt_tokens or request.prompt)
        num_prompt = prompt_estimate(request) if is_new else 0
        num_answer = ASSUMED_ANSWER_TOKENS if request.max_tokens is None else request.max_tokens
        kept = kept_model(request.model)
        charge = Charge(tab, request.model, num_prompt + num_answer)
        owner = "" if tab.visit is None else tab.visit.owner
        request = dataclasses.replace(request, model=kept, owner=owner)
        if tab.patient:
            request = dataclasses.replace(request, priority="low")
        elif tab.visit is not None and tab.visit.priority != request.priority:
            request = dataclasses.replace(request, priority=tab.visit.priority)
        watch = _Watch(self._metrics, self._clock)
        try:
            answer = await self._generation.start(request)
        except BaseException:
            charge.settle(0)
            raise
        served = find_served(self._generation, request.model)
        watch.model = "" if served is None else served.name  # never a name that somebody made up
        return _MeteredAnswer(answer, charge, watch, num_prompt, with_prompt=is_new)

    async def embed(self, request: EmbedRequest) -> Embedding:
        reserved = len(request.tokens) if request.tokens is not None else _estimate(request.text or "")
        charge = Charge(CURRENT.get() or Tab(), request.model, reserved)
        used = 0
        try:
            embedding = await self._generation.embed(dataclasses.replace(request, model=kept_model(request.model)))
            used = embedding.prompt_tokens
        finally:
            charge.settle(used)
        charge.read(used, embedding.degraded)
        return embedding

    async def score(self, request: ScoreRequest) -> Scores:
        reserved = sum(_estimate(request.query) + _estimate(document) for document in request.documents)
        charge = Charge(CURRENT.get() or Tab(), request.model, reserved)
        used = 0
        try:
            scores = await self._generation.score(dataclasses.replace(request, model=kept_model(request.model)))
            used = scores.prompt_tokens
        finally:
            charge.settle(used)
        charge.read(used, scores.degraded)
        return scores

    async def tokenize(self, request: TokenizeRequest) -> Tokenized:
        allow(request.model)
        return await self._generation.tokenize(dataclasses.replace(request, model=kept_model(request.model)))

    async def detokenize(self, model: str, tokens: tuple[int, ...]) -> str:
        allow(model)
        return await self._generation.detokenize(kept_model(model), tokens)

    async def tokenizer_info(self, model: str) -> TokenizerInfo:
        allow(model)
        return await self._generation.tokenizer_info(kept_model(model))

    async def awake(self, model: str) -> None:
        allow(model)
        await self._generation.awake(kept_model(model))

    async def worker_metrics(self) -> list[dict[str, Any]]:
        return await self._generation.worker_metrics()


class Charge:
    """What one answer takes of its key's limits. Raises, when made, RateLimited and Forbidden. Settled once."""

    def __init__(self, tab: Tab, model: str, num_tokens: int) -> None:
        self.tab = tab
        visit = self.tab.visit
        if visit is not None and self.tab.over:  # work in the background: a request of its own
            visit = visit.again()
        if visit is not None:
            visit.allow(model)
            visit.reserve(num_tokens)
        self.tab.model = model
        self.tab.num_answers += 1
        self._visit = visit
        self._reserved = num_tokens
        self._settled = False

    def settle(self, used: int) -> None:
        if self._settled or self._visit is None:
            return
        self._settled = True
        self._visit.settle(reserved=self._reserved, used=used)
        if self._visit is not self.tab.visit:
            self._visit.end()

    def read(self, prompt_tokens: int, degraded: str | None) -> None:
        """An answer that was no text."""
        self.tab.prompt_tokens += prompt_tokens
        if degraded is not None:
            self.tab.degraded.add(degraded)


class _Watch:
    """Measures one answer, from when it was asked for."""

    def __init__(self, metrics: DoorMetrics, clock: Clock) -> None:
        self.model = ""
        self._metrics = metrics
        self._clock = clock
        self._begun_at = clock.monotonic()

    def first(self) -> None:
        self._metrics.first_token_seconds.labels(self.model).observe(self._clock.monotonic() - self._begun_at)

    def done(self, done: Done) -> None:
        self._metrics.observe_answer(self.model, done, self._clock.monotonic() - self._begun_at)

    def broken_off(self, why: str) -> None:
        """`abort`: nobody wanted more of it; `error`: there was no more."""
        self._metrics.answers.labels(self.model, why).inc()


class _MeteredAnswer(AsyncIterator[Delta | Done]):
    """An answer whose end is written down; every token of every answer comes through here."""

    def __init__(
        self,
        answer: AsyncIterator[Delta | Done],
        charge: Charge,
        watch: _Watch,
        num_prompt: int,
        *,
        with_prompt: bool,
    ) -> None:
        self._next = answer.__anext__
        self._close = getattr(answer, "aclose", None)
        self._charge = charge
        self._watch = watch
        self._num_tokens = num_prompt
        self._with_prompt = with_prompt
        self._begun = self._over = False
        self.prompt_tokens: int | None = getattr(answer, "prompt_tokens", None)
        degraded: str | None = getattr(answer, "degraded", None)  # the frontend's answers know it from the beginning
        if degraded is not None:
            charge.tab.degraded.add(degraded)

    async def __anext__(self) -> Delta | Done:
        try:
            item = await self._next()
        except ThaloomError:
            self._end("error")
            raise
        if type(item) is Delta:
            if not self._begun:
                self._begun = True
                self._watch.first()
            self._num_tokens += item.num_tokens
        elif type(item) is Done:
            self._over = True
            self._watch.done(item)
            self._charge.tab.add(item, with_prompt=self._with_prompt)
            self._charge.settle(item.completion_tokens + (item.prompt_tokens if self._with_prompt else 0))
        return item

    async def aclose(self) -> None:
        try:
            if self._close is not None:
                await self._close()
        finally:
            self._end("abort")

    def _end(self, why: str) -> None:
        """Before its own end, it took what was read of it."""
        if not self._over:
            self._over = True
            self._watch.broken_off(why)
            self._charge.settle(self._num_tokens)


def prompt_estimate(request: GenerateRequest) -> int:
    """Tokens of a prompt that nobody has counted yet."""
    if request.prompt_tokens is not None:
        return len(request.prompt_tokens)
    if request.prompt is not None:
        return _estimate(request.prompt)
    return sum(_estimate(message.content) for message in request.messages or ())


def _estimate(text: str) -> int:
    return math.ceil(len(text.encode(errors="replace")) / BYTES_PER_TOKEN)
