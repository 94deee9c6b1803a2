"""The OpenAPI document's part on responses, files and batches."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from thaloom.edge.api.openai.kept.responses.following import MAX_EVENT
from thaloom.edge.api.openai.kept.responses.reading import REFUSED
from thaloom.edge.wire import files, responses

_OURS = ("Response", "File", "Batch", "Input", "Output")
_ERRORS = {
    code: {
        "description": description,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
    for code, description in (
        ("4XX", "The request cannot be served as it is."),
        ("5XX", "Wait and try again, or see the log: the code says which."),
    )
}
_MODELS: tuple[type[BaseModel], ...] = (
    responses.ResponsesRequest,
    responses.InputTokensRequest,
    responses.Response,
    responses.ResponseDeleted,
    responses.InputItems,
    responses.InputTokens,
    files.FileObject,
    files.FileList,
    files.FileDeleted,
    files.BatchRequest,
    files.Batch,
    files.BatchList,
)


def add_kept_routes(document: dict[str, Any]) -> dict[str, Any]:
    """The document with these routes added. Names of schemas that are not plainly of these get a prefix."""
    _, schemas = models_json_schema(
        [(model, "validation") for model in _MODELS], ref_template="#/components/schemas/{model}"
    )
    found = _renamed(schemas["$defs"])
    document.setdefault("components", {}).setdefault("schemas", {}).update(
        {_name(name): schema for name, schema in found.items()}
    )
    document["paths"] |= _responses() | _files() | _batches()
    return document


def _responses() -> dict[str, Any]:
    refused = ", ".join([*REFUSED, "truncation (auto)", "hosted tools"])
    stream: dict[str, Any] = {"text/event-stream": {}}
    create = _operation(
        "create_response",
        "Make a response",
        _json("Response") | stream,
        body=_json("ResponsesRequest"),
        description="With `stream`, its events as server-sent events; with `background`, too, it is made whether or not"
        f" somebody follows them. Unknown fields are ignored; refused: {refused}.",
    )
    tokens = _operation(
        "count_response_input_tokens",
        "Count the tokens of a request",
        _json("InputTokens"),
        body=_json("InputTokensRequest"),
    )
    item = _parameter("after", "An item; the list goes on behind it.")
    return {
        "/v1/responses": {"post": create},
        "/v1/responses/input_tokens": {"post": tokens},
        "/v1/responses/{id}": _of_one(
            get=_operation(
                "get_response",
                "A response that is kept",
                _json("Response") | stream,
                parameters=[
                    _parameter(
                        "stream",
                        "Its events, live until the last: of one that was asked for with background and stream.",
                        {"type": "boolean"},
                    ),
                    _parameter(
                        "starting_after",
                        "An event's sequence_number: the stream begins behind it.",
                        {"type": "integer", "minimum": 0, "maximum": MAX_EVENT},
                    ),
                ],
            ),
            delete=_operation("delete_response", "Keep it no longer", _json("ResponseDeleted")),
        ),
        "/v1/responses/{id}/input_items": _of_one(
            get=_operation(
                "list_response_input_items",
                "What was said in its request",
                _json("InputItems"),
                parameters=[_limit(100), _ORDER, item],
            )
        ),
        "/v1/responses/{id}/cancel": _of_one(
            post=_operation("cancel_response", "Cancel a response made in the background", _json("Response"))
        ),
    }


def _files() -> dict[str, Any]:
    form = {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file", "purpose"],
                "dependentRequired": {
                    "expires_after[anchor]": ["expires_after[seconds]"],
                    "expires_after[seconds]": ["expires_after[anchor]"],
                },
                "properties": {
                    "file": {"type": "string", "contentMediaType": "application/octet-stream"},
                    "purpose": {"type": "string", "enum": list(files.PURPOSES)},
                    "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                    "expires_after[seconds]": {
                        "type": "integer",
                        "minimum": files.MIN_EXPIRY_S,
                        "maximum": files.MAX_EXPIRY_S,
                    },
                },
            }
        }
    }
    after = _parameter("after", "A file; the list goes on behind it.")
    purpose = _parameter("purpose", "Only files for this.")
    content = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    return {
        "/v1/files": {
            "get": _operation(
                "list_files", "Files kept here", _json("FileList"), parameters=[_limit(10_000), _ORDER, after, purpose]
            ),
            "post": _operation("upload_file", "Keep a file", _json("FileObject"), body=form),
        },
        "/v1/files/{id}": _of_one(
            get=_operation("get_file", "Facts on a file", _json("FileObject")),
            delete=_operation("delete_file", "Keep it no longer", _json("FileDeleted")),
        ),
        "/v1/files/{id}/content": _of_one(get=_operation("get_file_content", "Its bytes", content)),
    }


def _batches() -> dict[str, Any]:
    after = _parameter("after", "A batch; the list goes on behind it.")
    return {
        "/v1/batches": {
            "get": _operation(
                "list_batches", "Batches, newest first", _json("BatchList"), parameters=[_limit(100), after]
            ),
            "post": _operation(
                "create_batch", "Have a file's requests answered", _json("Batch"), body=_json("BatchRequest")
            ),
        },
        "/v1/batches/{id}": _of_one(get=_operation("get_batch", "How far it is", _json("Batch"))),
        "/v1/batches/{id}/cancel": _of_one(post=_operation("cancel_batch", "Give up the rest", _json("Batch"))),
    }


def _operation(
    operation: str,
    summary: str,
    content: dict[str, Any],
    *,
    body: dict[str, Any] | None = None,
    description: str = "",
    parameters: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    described: dict[str, Any] = {"tags": ["openai"], "operationId": operation, "summary": summary}
    if description:
        described["description"] = description
    if parameters:
        described["parameters"] = parameters
    if body is not None:
        described["requestBody"] = {"required": True, "content": body}
    return described | {"responses": {"200": {"description": summary, "content": content}} | _ERRORS}


def _of_one(**operations: dict[str, Any]) -> dict[str, Any]:
    """A path with an id in it."""
    one = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
    return {"parameters": [one], **operations}


def _parameter(name: str, description: str, schema: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": description, "schema": schema or {"type": "string"}}


def _limit(most: int) -> dict[str, Any]:
    return _parameter("limit", "How many on a page.", {"type": "integer", "minimum": 1, "maximum": most})


_ORDER = _parameter("order", "By age; newest first unless asc.", {"type": "string", "enum": ["asc", "desc"]})


def _json(model: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{model}"}}}


def _name(name: str) -> str:
    return name if name.startswith(_OURS) else f"Response{name}"


def _renamed(value: Any) -> Any:
    """The same schemas, with references to the names they will have."""
    if isinstance(value, list):
        return [_renamed(item) for item in value]
    if not isinstance(value, dict):
        return value
    prefix = "#/components/schemas/"
    return {
        key: prefix + _name(item.removeprefix(prefix))
        if isinstance(item, str) and item.startswith(prefix)
        else _renamed(item)
        for key, item in value.items()
    }
