"""The OpenAPI document's part on the hub. What its answers hold is told where the protocol is: huggingface.co/docs."""

from __future__ import annotations

from typing import Any

_REPO = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}$"
_ERROR = "#/components/schemas/HubError"


def add_hub(document: dict[str, Any]) -> None:
    document.setdefault("components", {}).setdefault("schemas", {})["HubError"] = {
        "title": "HubError",
        "type": "object",
        "required": ["error", "code"],
        "properties": {"error": {"type": "string"}, "code": {"type": "string"}},
    }
    facts = {"type": "object", "required": ["id", "sha"]}
    entries = {"type": "array", "items": {"type": "object", "required": ["type", "path", "size", "oid"]}}
    paths = document["paths"]
    paths["/api/models"] = {"get": _json("hub_list_models", "Models of the store.", _array(), _LISTING)}
    for repo, name in (("{name}", "_by_name"), ("{org}/{name}", "")):
        where = [_path(part.strip("{}"), _REPO) for part in repo.split("/")]
        revision = [*where, _path("revision")]
        base = f"/api/models/{repo}"
        paths[base] = {"get": _json(f"hub_model{name}", "A model at `main`.", facts, where)}
        paths[f"{base}/revision/{{revision}}"] = {
            "get": _json(f"hub_revision{name}", "A model at a tag of the store, or a digest.", facts, revision)
        }
        paths[f"{base}/tree/{{revision}}"] = {"get": _json(f"hub_tree{name}", "Its files.", entries, revision)}
        paths[f"{base}/refs"] = {"get": _json(f"hub_refs{name}", "Its revisions.", {"type": "object"}, where)}
        paths[f"{base}/auth-check"] = {
            "get": _json(f"hub_auth_check{name}", "Whether it is there for who asks.", {"type": "object"}, where)
        }
        about = _json(f"hub_paths_info{name}", "What is known of some of its paths.", entries, revision)
        paths[f"{base}/paths-info/{{revision}}"] = {"post": about | {"requestBody": _FORM}}
        paths[f"/{repo}/resolve/{{revision}}/{{file}}"] = {"get": _file(f"hub_file{name}", [*revision, _path("file")])}


_FORM = {
    "required": True,
    "content": {
        "application/x-www-form-urlencoded": {
            "schema": {
                "type": "object",
                "properties": {
                    "paths": {"type": "array", "items": {"type": "string"}, "maxItems": 1000},
                    "expand": {"type": "boolean"},
                },
            }
        }
    },
}


def _query(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": schema}


_LISTING = [
    _query("search", {"type": "string"}),
    _query("author", {"type": "string"}),
    _query("limit", {"type": "integer", "minimum": 1, "maximum": 999_999_999}),
    _query("cursor", {"type": "integer", "minimum": 0, "maximum": 999_999_999}),
]


def _path(name: str, pattern: str | None = None) -> dict[str, Any]:
    schema = {"type": "string", "minLength": 1} | ({} if pattern is None else {"pattern": pattern})
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _array() -> dict[str, Any]:
    return {"type": "array", "items": {"type": "object", "required": ["id", "sha"]}}


def _json(operation: str, summary: str, schema: dict[str, Any], parameters: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "tags": ["hub"],
        "operationId": operation,
        "summary": summary,
        "parameters": parameters,
        "responses": {"200": {"description": summary, "content": {"application/json": {"schema": schema}}}} | _errors(),
    }


def _file(operation: str, parameters: list[dict[str, Any]]) -> dict[str, Any]:
    data = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    return {
        "tags": ["hub"],
        "operationId": operation,
        "summary": "A file, or one range of it.",
        "parameters": parameters,
        "responses": {
            "200": {"description": "The whole file.", "content": data},
            "206": {"description": "The range that was asked for.", "content": data},
            "304": {"description": "The caller has it already (If-None-Match)."},
            "416": {"description": "No byte of the file is in the range.", "content": data},
        }
        | _errors(),
    }


def _errors() -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": _ERROR}}}
    return {
        "4XX": {"description": "X-Error-Code says what is missing, as Hugging Face's hub does.", "content": content},
        "5XX": {"description": "Wait and try again, or see the log: the code says which.", "content": content},
    }
