"""The OpenAPI document's part on routes that FastAPI does not see: the plain ones, with the same messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from thaloom.edge.api.anthropic import document as anthropic
from thaloom.edge.api.document.described import event_of
from thaloom.edge.api.hub.document import add_hub
from thaloom.edge.api.ollama import document as ollama
from thaloom.edge.api.openai.kept.document import add_kept_routes
from thaloom.edge.wire import embeddings, openai, ranking, tokens
from thaloom.edge.wire.openai_requests import (
    OLDER,
    OLDER_IN_CHAT,
    UNSERVED_IN_CHAT,
    UNSERVED_IN_COMPLETION,
    UNSERVED_IN_MESSAGE,
    ChatRequest,
    CompletionRequest,
)

_STREAMS = "text/event-stream"
_ERROR = {"$ref": "#/components/schemas/Error"}
Schema = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Posted:
    """A route that answers one JSON object with another, or with a stream of `chunk`s."""

    operation: str
    asks: tuple[type[BaseModel], ...]
    """One of these."""
    answers: type[BaseModel]
    chunk: type[BaseModel] | None = None
    about: str = ""
    tag: str = "openai"


def _but(unserved: Iterable[str]) -> str:
    return f"Unknown fields are ignored; these are refused unless they ask for nothing: {', '.join(unserved)}."


def _older(names: Iterable[str]) -> str:
    return f"Served as well, though not listed below, as older words for the same: {', '.join(names)}. "


def _reranks(operation: str) -> Posted:
    return Posted(
        operation=operation,
        asks=(ranking.RerankRequest,),
        answers=ranking.Ranking,
        about="The best first, each with the probability that it answers the query, by the model's yes and no. "
        + _but(ranking.UNSERVED_IN_RERANK),
        tag="ranking",
    )


def _scores(operation: str) -> Posted:
    return Posted(
        operation=operation,
        asks=(ranking.ScoreRequest,),
        answers=ranking.ScoreList,
        about=_but(ranking.UNSERVED_IN_SCORE),
        tag="ranking",
    )


POSTED: dict[str, Posted] = {
    "/v1/chat/completions": Posted(
        operation="create_chat_completion",
        asks=(ChatRequest,),
        answers=openai.ChatCompletion,
        chunk=openai.ChatChunk,
        about=_older(OLDER_IN_CHAT)
        + _but((*UNSERVED_IN_CHAT, *(f"messages[].{name}" for name in UNSERVED_IN_MESSAGE))),
    ),
    "/v1/completions": Posted(
        operation="create_completion",
        asks=(CompletionRequest,),
        answers=openai.Completion,
        chunk=openai.Completion,
        about=_older(OLDER) + _but(UNSERVED_IN_COMPLETION),
    ),
    "/v1/embeddings": Posted(
        operation="create_embedding",
        asks=(embeddings.EmbeddingRequest,),
        answers=embeddings.EmbeddingList,
        about=_but(embeddings.UNSERVED_IN_EMBEDDING),
    ),
    "/v1/rerank": _reranks("rerank"),
    "/rerank": _reranks("rerank_plain"),
    "/v2/rerank": _reranks("rerank_as_cohere"),
    "/v1/score": _scores("score"),
    "/score": _scores("score_plain"),
    "/tokenize": Posted(
        operation="tokenize",
        asks=(tokens.TokenizePrompt, tokens.TokenizeChat),
        answers=tokens.TokenizeAnswer,
        about="`model` may be left out where one is served. " + _but(tokens.UNSERVED_IN_TOKENIZE),
    ),
    "/detokenize": Posted(
        operation="detokenize",
        asks=(tokens.DetokenizeRequest,),
        answers=tokens.DetokenizeAnswer,
        about="`model` may be left out where one is served.",
    ),
}


def add_plain_routes(document: dict[str, Any]) -> dict[str, Any]:
    """The document with the routes of `POSTED`, `/metrics`, `/` and itself added."""
    paths = document["paths"]
    add_posted(document, POSTED)
    anthropic.describe(document)
    ollama.describe(document)
    add_hub(document)
    paths["/metrics"] = {"get": _text("metrics", "Measurements, in Prometheus's text form.", "text/plain")}
    paths["/"] = {"get": _text("index", "A page with the paths served here.", "text/html")}
    paths["/openapi.json"] = {"get": _text("openapi", "This document.", "application/json", {"type": "object"})}
    return add_kept_routes(document)


def add_posted(document: dict[str, Any], routes: Mapping[str, Posted]) -> None:
    models = {openai.Error} | {
        model for route in routes.values() for model in (*route.asks, route.answers, route.chunk) if model is not None
    }
    ordered = sorted(models, key=lambda model: model.__name__)
    references, schemas = models_json_schema(
        [(model, "validation") for model in ordered], ref_template="#/components/schemas/{model}"
    )
    document.setdefault("components", {}).setdefault("schemas", {}).update(schemas.get("$defs", {}))
    by_model: dict[type, Schema] = {model: reference for (model, _), reference in references.items()}
    for path, route in routes.items():
        document["paths"][path] = {"post": _posted(route, by_model)}


def _posted(route: Posted, references: Mapping[type, Schema]) -> dict[str, Any]:
    asked = [references[model] for model in route.asks]
    content: dict[str, Any] = {"application/json": {"schema": references[route.answers]}}
    description = "The answer."
    if route.chunk is not None:
        content[_STREAMS] = {"schema": event_of({"anyOf": [references[route.chunk], _ERROR]}, last="[DONE]")}
        description = "The answer; with `stream`, its chunks as server-sent events, then `data: [DONE]`."
    return {
        "tags": [route.tag],
        "operationId": route.operation,
        "summary": route.operation.replace("_", " ").capitalize(),
        "description": route.about,
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": asked[0] if len(asked) == 1 else {"anyOf": asked}}},
        },
        "responses": {"200": {"description": description, "headers": _headers(route), "content": content}} | _errors(),
    }


def _headers(route: Posted) -> dict[str, Any]:
    timing = {} if route.chunk is None else {"server-timing": "What the answer cost in ms: queue, prefill, decode."}
    told = timing | {"x-thaloom-degraded": "Why the answer is worse than wished."}
    unless = "" if route.chunk is None else " Not with `stream`."
    return {name: {"description": text + unless, "schema": {"type": "string"}} for name, text in told.items()}


def _text(operation: str, description: str, kind: str, schema: Schema | None = None) -> dict[str, Any]:
    content = {kind: {"schema": schema or {"type": "string"}}}
    return {
        "tags": ["node"],
        "operationId": operation,
        "summary": description,
        "responses": {"200": {"description": description, "content": content}} | _errors(),
    }


def _errors() -> dict[str, Any]:
    content = {"application/json": {"schema": _ERROR}}
    return {
        "4XX": {"description": "The request cannot be served as it is.", "content": content},
        "5XX": {"description": "Wait and try again, or see the log: the code says which.", "content": content},
    }
