"""Parts of an OpenAPI document for routes that FastAPI does not see, by the messages that travel there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

JSON = "application/json"


def event_of(data: dict[str, Any], *, last: str | None = None) -> dict[str, Any]:
    """One event of a stream, as OpenAPI 3.1 has `schema` of text/event-stream: JSON of the schema `data`.

    `last`: what the last event has in its stead, if anything.
    """
    json = {"type": "string", "contentMediaType": JSON, "contentSchema": data}
    told = json if last is None else {"anyOf": [{"const": last}, json]}
    return {"type": "object", "required": ["data"], "properties": {"data": told}}


@dataclass(frozen=True, slots=True)
class Protocol:
    """One protocol's share: its messages are kept apart from others' of the same name by `prefix`."""

    document: dict[str, Any]
    prefix: str
    tag: str
    error: type[BaseModel]

    def add_messages(self, messages: Sequence[type[BaseModel]]) -> None:
        template = f"#/components/schemas/{self.prefix}{{model}}"
        _, found = models_json_schema([(message, "validation") for message in messages], ref_template=template)
        schemas = self.document.setdefault("components", {}).setdefault("schemas", {})
        schemas.update({f"{self.prefix}{name}": schema for name, schema in found.get("$defs", {}).items()})

    def reference(self, message: type[BaseModel]) -> dict[str, str]:
        return {"$ref": f"#/components/schemas/{self.prefix}{message.__name__}"}

    def add(
        self,
        path: str,
        method: str,
        operation: str,
        text: str,
        *,
        body: type[BaseModel] | None = None,
        answer: type[BaseModel] | None = None,
        stream: tuple[str, dict[str, Any]] | None = None,
    ) -> None:
        """`stream`: the content type and the schema of an answer in pieces. No `answer`: an empty body."""
        content = {} if answer is None else {JSON: {"schema": self.reference(answer)}}
        if stream is not None:
            content[stream[0]] = {"schema": stream[1]}
        done: dict[str, Any] = {"description": text} | ({"content": content} if content else {})
        told: dict[str, Any] = {
            "tags": [self.tag],
            "operationId": operation,
            "summary": operation.replace("_", " ").capitalize(),
            "description": text,
            "responses": {"200": done} | self._errors(),
        }
        if body is not None:
            told["requestBody"] = {"required": True, "content": {JSON: {"schema": self.reference(body)}}}
        self.document["paths"].setdefault(path, {})[method] = told

    def _errors(self) -> dict[str, Any]:
        content = {JSON: {"schema": self.reference(self.error)}}
        return {
            "4XX": {"description": "The request cannot be served as it is.", "content": content},
            "5XX": {"description": "Wait and try again, or see the log: the code says which.", "content": content},
        }
