"""`/v1/embeddings`."""

from __future__ import annotations

import base64
import functools
import struct
from collections.abc import Mapping
from typing import Any

from thaloom.base.ids import RequestId
from thaloom.edge.api.openai.unserved import refuse_unserved
from thaloom.edge.api.routes.exchange import Asked, in_turn
from thaloom.edge.api.routes.fields import validate
from thaloom.edge.wire.embeddings import UNSERVED_IN_EMBEDDING, EmbeddingRequest
from thaloom.work.runtime.types import EmbedRequest, Generation

AT_ONCE = 8
"""Inputs of one request in the worker at the same time: others want their turn too."""


async def embed(generation: Generation, asked: Asked) -> Mapping[str, Any]:
    """Raises what Generation.embed raises."""
    refuse_unserved(asked.data, UNSERVED_IN_EMBEDDING)
    fields = validate(EmbeddingRequest, asked.data)
    requests = [
        EmbedRequest(
            id=RequestId(f"{asked.id}-{index}"),
            model=fields.model,
            normalize=fields.normalize is not False,
            dimensions=fields.dimensions,
            **one,
        )
        for index, one in enumerate(_inputs(fields.input))
    ]
    works = [functools.partial(generation.embed, request) for request in requests]
    embeddings = await in_turn(works, at_once=AT_ONCE)
    num_tokens = sum(embedding.prompt_tokens for embedding in embeddings)
    write = _in_base64 if fields.encoding_format == "base64" else list
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": write(embedding.values)}
            for index, embedding in enumerate(embeddings)
        ],
        "model": fields.model,
        "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens},
    }


def _inputs(given: str | list[str] | list[int] | list[list[int]]) -> list[dict[str, Any]]:
    """One mapping of EmbedRequest's field for each input."""
    if isinstance(given, str):
        return [{"text": given}]
    if isinstance(given[0], int):
        return [{"tokens": tuple(given)}]
    return [{"text": one} if isinstance(one, str) else {"tokens": tuple(one)} for one in given]


def _in_base64(values: tuple[float, ...]) -> str:
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()
