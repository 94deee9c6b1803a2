"""Messages of `/v1/rerank` and `/score` as they travel.

Source: Jina's reranker API (`/v1/rerank`), Cohere's (`/v2/rerank`), and vLLM's server, which serves both and `/score`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, JsonValue

from thaloom.edge.wire.common import Answer, Ask
from thaloom.edge.wire.openai import ModelName

MAX_DOCUMENTS = 1000
MAX_PAIRS = 32
Text = Annotated[str, Field(min_length=1)]


class TextDocument(Ask):
    text: Text


class RerankRequest(Ask):
    model: ModelName
    query: Text
    documents: list[Text | TextDocument] = Field(min_length=1, max_length=MAX_DOCUMENTS)
    top_n: int | None = Field(default=None, ge=0, lt=2**31)
    """Only the best so many; 0: all."""
    return_documents: bool | None = None
    """Default: as the protocol of the path has it; Jina's gives them back, Cohere's does not."""
    instruction: str | None = None
    """What the query is meant to find; default: passages that answer a web search."""


UNSERVED_IN_RERANK: dict[str, tuple[Any, ...]] = {
    # name: the values that ask for nothing (null always does)
    "rank_fields": ([], ["text"]),
    "max_chunks_per_doc": (),
    "max_tokens_per_doc": (),
    "truncate_prompt_tokens": (),
    "return_embeddings": (False,),
}


class RankedDocument(Answer):
    text: str


class Ranked(Answer):
    index: int
    relevance_score: float
    """0 to 1."""
    document: RankedDocument | None = None


class RankingUsage(Answer):
    prompt_tokens: int
    total_tokens: int


class BilledUnits(Answer):
    search_units: int


class RankingMeta(Answer):
    """Cohere's place for what it cost."""

    billed_units: BilledUnits


class Ranking(Answer):
    id: str
    object: Literal["list"]
    model: str
    results: list[Ranked]
    """The best first."""
    usage: RankingUsage
    meta: RankingMeta


_ONE: JsonValue = {"properties": {"text_1": {"anyOf": [{"type": "string"}, {"type": "array", "maxItems": 1}]}}}


def _pairs(count: int) -> JsonValue:
    some: JsonValue = {"type": "array", "minItems": count, "maxItems": count}
    return {"properties": {"text_1": some, "text_2": some}}


_AS_MANY: list[JsonValue] = [_ONE, *(_pairs(count) for count in range(2, MAX_PAIRS + 1))]


class ScoreRequest(Ask):
    """One text against many, or each against the one at the same place."""

    model_config = ConfigDict(json_schema_extra={"anyOf": _AS_MANY})
    model: ModelName
    text_1: Text | Annotated[list[Text], Field(min_length=1, max_length=MAX_PAIRS)]
    text_2: Text | Annotated[list[Text], Field(min_length=1, max_length=MAX_DOCUMENTS)]


UNSERVED_IN_SCORE: dict[str, tuple[Any, ...]] = {"truncate_prompt_tokens": ()}


class Score(Answer):
    index: int
    object: Literal["score"]
    score: float


class ScoreList(Answer):
    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[Score]
    usage: RankingUsage
