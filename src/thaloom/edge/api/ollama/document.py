"""The OpenAPI document's part on Ollama's protocol."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from thaloom.edge.api.document.described import Protocol
from thaloom.edge.wire import ollama as wire

_GENERATE: tuple[tuple[str, str, type[BaseModel], type[BaseModel]], ...] = (
    ("/api/chat", "ollama_chat", wire.ChatRequest, wire.Chat),
    ("/api/generate", "ollama_generate", wire.GenerateRequest, wire.Generated),
)
_READ: tuple[tuple[str, str, str, type[BaseModel]], ...] = (
    ("/api/tags", "ollama_tags", "The models that may be named.", wire.ListedModels),
    ("/api/ps", "ollama_ps", "The models that are served now.", wire.LoadedModels),
    ("/api/version", "ollama_version", "The version of the protocol spoken here, and ours.", wire.Version),
)
_SEND: tuple[tuple[str, str, str, str, type[BaseModel], type[BaseModel] | None], ...] = (
    ("/api/show", "post", "ollama_show", "What is known of a model.", wire.NamedRequest, wire.Shown),
    ("/api/copy", "post", "ollama_copy", "Give a model a second name.", wire.CopyRequest, None),
    ("/api/delete", "delete", "ollama_delete", "Forget a model.", wire.NamedRequest, None),
    ("/api/embed", "post", "ollama_embed", "Texts as vectors of length 1.", wire.EmbedRequest, wire.Embedded),
    ("/api/embeddings", "post", "ollama_embeddings", "One text as a vector, as it comes.", wire.EmbeddingsRequest,
     wire.Embedding),
)  # fmt: skip


def describe(document: dict[str, Any]) -> None:
    part = Protocol(document, "Ollama", "ollama", wire.Error)
    messages: list[type[BaseModel]] = [wire.Error, wire.PullRequest, wire.Progress]
    messages += [message for row in _GENERATE for message in row[2:]] + [row[3] for row in _READ]
    messages += [message for row in _SEND for message in row[4:] if message is not None]
    part.add_messages(messages)
    refused = ", ".join((*wire.UNSERVED, *(f"options.{name}" for name in wire.UNSERVED_OPTIONS)))
    for path, operation, body, answer in _GENERATE:
        text = (
            "The answer in pieces, one a line, the last of which is `done`; without `stream`, in one. Unknown fields "
            f"are ignored; these are refused unless they ask for nothing: {refused}."
        )
        part.add(path, "post", operation, text, body=body, answer=answer, stream=_lines(part, answer))
    for path, operation, text, answer in _READ:
        part.add(path, "get", operation, text, answer=answer)
    for path, method, operation, text, body, told in _SEND:
        part.add(path, method, operation, text, body=body, answer=told)
    part.add(
        "/api/pull",
        "post",
        "ollama_pull",
        "Fetch a model. Its steps, one a line; without `stream`, the last of them.",
        body=wire.PullRequest,
        answer=wire.Progress,
        stream=_lines(part, wire.Progress),
    )


def _lines(part: Protocol, line: type[BaseModel]) -> tuple[str, dict[str, Any]]:
    return wire.NDJSON, {"type": "string", "x-line": part.reference(line)}
