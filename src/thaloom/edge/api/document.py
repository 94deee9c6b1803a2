"""The OpenAPI document's part on routes that FastAPI does not see: the plain ones, with the same messages."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from thaloom.edge.wire import openai as wire

_STREAMS = "text/event-stream"
_MODELS: tuple[type[BaseModel], ...] = (
    wire.ChatRequest,
    wire.CompletionRequest,
    wire.ChatCompletion,
    wire.ChatChunk,
    wire.Completion,
    wire.Error,
)


def add_plain_routes(document: dict[str, Any]) -> dict[str, Any]:
    """The document with the two generation routes, `/metrics`, `/` and itself added."""
    _, schemas = models_json_schema(
        [(model, "validation") for model in _MODELS], ref_template="#/components/schemas/{model}"
    )
    components = document.setdefault("components", {}).setdefault("schemas", {})
    components.update(schemas.get("$defs", {}))
    paths = document["paths"]
    paths["/v1/chat/completions"] = {
        "post": _generation("create_chat_completion", "ChatRequest", "ChatCompletion", "ChatChunk")
    }
    paths["/v1/completions"] = {
        "post": _generation("create_completion", "CompletionRequest", "Completion", "Completion")
    }
    paths["/metrics"] = {"get": _text("metrics", "Measurements, in Prometheus's text form.", "text/plain")}
    paths["/"] = {"get": _text("index", "A page with the paths served here.", "text/html")}
    paths["/openapi.json"] = {"get": _text("openapi", "This document.", "application/json", {"type": "object"})}
    return document


def _generation(operation: str, request: str, answer: str, chunk: str) -> dict[str, Any]:
    unserved = ", ".join(wire.UNSERVED)
    return {
        "tags": ["openai"],
        "operationId": operation,
        "summary": operation.replace("_", " ").capitalize(),
        "description": f"Unknown fields are ignored; these are refused unless they ask for nothing: {unserved}.",
        "requestBody": {"required": True, "content": {"application/json": {"schema": _reference(request)}}},
        "responses": {
            "200": {
                "description": "The answer; with `stream`, its chunks as server-sent events, then `data: [DONE]`.",
                "content": {
                    "application/json": {"schema": _reference(answer)},
                    _STREAMS: {"schema": {"type": "string", "x-event": _reference(chunk)}},
                },
            }
        }
        | _errors(),
    }


def _text(operation: str, description: str, kind: str, schema: dict[str, Any] | None = None) -> dict[str, Any]:
    content = {kind: {"schema": schema or {"type": "string"}}}
    return {
        "tags": ["node"],
        "operationId": operation,
        "summary": description,
        "responses": {"200": {"description": description, "content": content}} | _errors(),
    }


def _errors() -> dict[str, Any]:
    content = {"application/json": {"schema": _reference("Error")}}
    return {
        "4XX": {"description": "The request cannot be served as it is.", "content": content},
        "5XX": {"description": "Wait and try again, or see the log: the code says which.", "content": content},
    }


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}
