"""What the control API's OpenAPI document says of the terms that every request takes which changes something."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from thaloom.edge.wire import control as wire

_CHANGING = ("post", "put", "patch", "delete")
_PLAN = {"$ref": "#/components/schemas/Plan"}
TERMS: tuple[dict[str, Any], ...] = (
    {
        "name": "dry_run",
        "in": "query",
        "schema": {"type": "boolean", "default": False},
        "description": f"The answer is the Plan, with the header `{wire.DRY_RUN}: true`, and nothing is done.",
    },
    {
        "name": "plan",
        "in": "query",
        "schema": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
        "description": "Digest of a Plan: done only if what would be done now is exactly that; else plan_changed.",
    },
    {
        "name": "until",
        "in": "query",
        "schema": {"type": "number"},
        "description": "Of `plan`: not after this moment, seconds since the epoch.",
    },
    {
        "name": "Idempotency-Key",
        "in": "header",
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"},
        "description": "The action's id. Asked again by it, nothing is done again, and the answer is the same.",
    },
)


def document_terms(app: FastAPI) -> None:
    """Have them told of in what `app` answers at its openapi_url."""
    plain = app.openapi

    def with_terms() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _with_terms(plain())
        return app.openapi_schema

    app.openapi = with_terms  # type: ignore[method-assign]


def _with_terms(document: dict[str, Any]) -> dict[str, Any]:
    schemas = document["components"]["schemas"]
    if "Plan" not in schemas:
        plan = wire.Plan.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= plan.pop("$defs", {})
        schemas["Plan"] = plan
    for operations in document["paths"].values():
        for method, operation in operations.items():
            if method in _CHANGING:
                operation["parameters"] = [*operation.get("parameters", []), *TERMS]
                _may_answer_a_plan(operation["responses"])
    return document


def _may_answer_a_plan(responses: dict[str, Any]) -> None:
    """A plan comes with 200, whatever else the route answers with."""
    content = responses.setdefault("200", {"description": "What would be done"}).setdefault("content", {})
    usual = content.get("application/json", {}).get("schema")
    content["application/json"] = {"schema": {"anyOf": [usual, _PLAN]} if usual else _PLAN}
