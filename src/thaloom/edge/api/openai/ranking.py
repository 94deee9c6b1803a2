"""`/v1/rerank` in Jina's form and Cohere's, and vLLM's `/score`."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from thaloom.base.errors import BadParameter
from thaloom.edge.api.openai.unserved import refuse_unserved
from thaloom.edge.api.routes.exchange import Asked, in_turn
from thaloom.edge.api.routes.fields import validate
from thaloom.edge.wire import ranking as wire
from thaloom.work.runtime.types import Generation, ScoreRequest


async def rerank(generation: Generation, asked: Asked, *, with_documents: bool = True) -> Mapping[str, Any]:
    """`with_documents`: unless the request says otherwise. Raises what Generation.score raises."""
    refuse_unserved(asked.data, wire.UNSERVED_IN_RERANK)
    fields = validate(wire.RerankRequest, asked.data)
    documents = [one if isinstance(one, str) else one.text for one in fields.documents]
    scores = await generation.score(
        ScoreRequest(
            id=asked.id,
            model=fields.model,
            query=fields.query,
            documents=tuple(documents),
            instruction=fields.instruction,
        )
    )
    shown = with_documents if fields.return_documents is None else fields.return_documents
    ranked = sorted(range(len(documents)), key=lambda index: -scores.values[index])[: fields.top_n or None]
    return {
        "id": asked.id,
        "object": "list",
        "model": fields.model,
        "results": [
            {"index": index, "relevance_score": scores.values[index]}
            | ({"document": {"text": documents[index]}} if shown else {})
            for index in ranked
        ],
        "usage": {"prompt_tokens": scores.prompt_tokens, "total_tokens": scores.prompt_tokens},
        "meta": {"billed_units": {"search_units": 1}},
    }


rerank_as_cohere = functools.partial(rerank, with_documents=False)


async def score(generation: Generation, asked: Asked) -> Mapping[str, Any]:
    """Raises BadParameter for two lists of different lengths, and what Generation.score raises."""
    refuse_unserved(asked.data, wire.UNSERVED_IN_SCORE)
    fields = validate(wire.ScoreRequest, asked.data)
    ones, others = _as_list(fields.text_1), _as_list(fields.text_2)
    if len(ones) not in (1, len(others)):
        raise BadParameter(
            f"text_1 has {len(ones)} texts and text_2 {len(others)}: give one, or as many as there", param="text_1"
        )
    pairs = zip(ones, ([other] for other in others), strict=True)
    asked_for = [(ones[0], others)] if len(ones) == 1 else list(pairs)
    works = [
        functools.partial(
            generation.score,
            ScoreRequest(id=asked.id, model=fields.model, query=query, documents=tuple(documents)),
        )
        for query, documents in asked_for
    ]
    told = await in_turn(works, at_once=8)
    values = [value for scores in told for value in scores.values]
    num_tokens = sum(scores.prompt_tokens for scores in told)
    return {
        "id": asked.id,
        "object": "list",
        "created": int(asked.now),
        "model": fields.model,
        "data": [{"index": index, "object": "score", "score": value} for index, value in enumerate(values)],
        "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens},
    }


def _as_list(texts: str | list[str]) -> list[str]:
    return [texts] if isinstance(texts, str) else texts
