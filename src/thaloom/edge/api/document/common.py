"""The OpenAPI document's part on what holds for every route: keys, limits, request ids, and what an answer cost."""

from __future__ import annotations

from typing import Any

from thaloom.edge.api.measures.cost import ASKED_BY

_KEYS = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "A key of this node (thaloom token create)."},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "The same, as Anthropic's."},
    "api-key": {"type": "apiKey", "in": "header", "name": "api-key", "description": "The same, as Azure's."},
}
_EVERY = {
    "x-request-id": "The request's id in the log: the one that was sent, if it is a plain word, else a new one.",
}
_LIMITS = {
    "x-ratelimit-limit-requests": "Requests a minute the key may have. These, where it has such a limit.",
    "x-ratelimit-remaining-requests": "Of these, how many are left.",
    "x-ratelimit-reset-requests": "In how long all of them are: `1s`, `6m0s`.",
    "x-ratelimit-limit-tokens": "Tokens a minute the key may have, of prompts and answers.",
    "x-ratelimit-remaining-tokens": "Of these, how many are left; with `stream`, after reserving what it may need.",
    "x-ratelimit-reset-tokens": "In how long all of them are.",
}
_COST = {
    "server-timing": "What the answer cost in ms: queue, prefill, decode. Not with `stream`: see x-thaloom-cost.",
    "openai-processing-ms": "Their sum. Not with `stream`.",
    "x-thaloom-prompt-tokens": "Tokens of the prompt. Not with `stream`.",
    "x-thaloom-cached-tokens": "Of these, those found in the prefix cache. Not with `stream`.",
    "x-thaloom-completion-tokens": "Tokens of the answer. Not with `stream`.",
    "x-thaloom-degraded": "Why the answer was made worse than wished; absent if it was not.",
}
_ASK_COST = {
    "name": ASKED_BY,
    "in": "header",
    "required": False,
    "schema": {"type": "string"},
    "description": "With any value, a stream ends with a comment line `: server-timing: ...` that tells what it cost.",
}
_OPEN = frozenset(
    {"/", "/healthz", "/readyz", "/version", "/metrics", "/openapi.json", "/v2/health/live", "/v2/health/ready"}
)
_ASKS_A_MODEL = ("/v1/", "/api/", "/tokenize", "/detokenize", "/rerank", "/v2/")


def add_common(document: dict[str, Any]) -> dict[str, Any]:
    """The document with keys, headers and the request for a stream's cost at every route they are for."""
    document.setdefault("components", {})["securitySchemes"] = _KEYS
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if method in ("get", "post", "put", "delete", "patch", "head"):
                _add(path, method, operation)
    return document


def _add(path: str, method: str, operation: dict[str, Any]) -> None:
    if path not in _OPEN:
        operation["security"] = [{}, *({name: []} for name in _KEYS)]  # {}: on a node without keys, none is asked for
    asks_model = method == "post" and path.startswith(_ASKS_A_MODEL)
    wanted = _EVERY | (_LIMITS if path not in _OPEN else {}) | (_COST if asks_model else {})
    for status, response in operation["responses"].items():
        if status.startswith("2"):
            headers = response.setdefault("headers", {})
            headers |= {name: _header(text) for name, text in wanted.items()}
            if "text/event-stream" in response.get("content", {}):
                operation.setdefault("parameters", []).append(_ASK_COST)


def _header(description: str) -> dict[str, Any]:
    return {"description": description, "schema": {"type": "string"}}
