"""`/api/embed`, and `/api/embeddings` as it was before: texts as vectors."""

from __future__ import annotations

import functools
from typing import Any

from thaloom.base.clock import Clock
from thaloom.base.ids import RequestId, new_request_id
from thaloom.edge.api.ollama.answers import nanoseconds
from thaloom.edge.api.ollama.loading import Loading
from thaloom.edge.api.ollama.requests import keep_alive_s, read
from thaloom.edge.api.routes.in_turn import in_turn
from thaloom.edge.api.routes.object_route import ObjectRoute
from thaloom.edge.wire import ollama as wire
from thaloom.work.runtime.types import EmbedRequest, Generation

MOST_AT_ONCE = 16
"""Texts of one request in the worker at the same time."""


def embed(loading: Loading, generation: Generation, clock: Clock) -> ObjectRoute:
    async def answer(data: dict[str, Any]) -> wire.Embedded:
        fields = read(wire.EmbedRequest, data)
        begun = clock.monotonic()
        name, load_s = await loading.ready(fields.model)
        texts = [fields.input] if isinstance(fields.input, str) and fields.input else fields.input or []
        request_id = new_request_id()
        asked = [
            EmbedRequest(
                id=RequestId(f"{request_id}-{index}"), model=name, text=text, dimensions=fields.dimensions or None
            )
            for index, text in enumerate(texts)
        ]
        async with loading.kept(name, keep_alive_s(fields.keep_alive)):
            found = await in_turn([functools.partial(generation.embed, one) for one in asked], at_once=MOST_AT_ONCE)
        return wire.Embedded(
            model=fields.model,
            embeddings=[list(one.values) for one in found],
            total_duration=nanoseconds(clock.monotonic() - begun),
            load_duration=nanoseconds(load_s),
            prompt_eval_count=sum(one.prompt_tokens for one in found),
        )

    return ObjectRoute(answer)


def embeddings(loading: Loading, generation: Generation) -> ObjectRoute:
    """One text; its vector is not brought to length 1."""

    async def answer(data: dict[str, Any]) -> wire.Embedding:
        fields = read(wire.EmbeddingsRequest, data)
        name, _ = await loading.ready(fields.model)
        if not fields.prompt:
            return wire.Embedding(embedding=[])
        asked = EmbedRequest(id=new_request_id(), model=name, text=fields.prompt, normalize=False)
        async with loading.kept(name, keep_alive_s(fields.keep_alive)):
            return wire.Embedding(embedding=list((await generation.embed(asked)).values))

    return ObjectRoute(answer)
