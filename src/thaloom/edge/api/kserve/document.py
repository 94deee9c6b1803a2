"""The OpenAPI document's part on the route that FastAPI does not see."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import models_json_schema

from thaloom.edge.api.kserve.errors import PATHS
from thaloom.edge.wire import kserve as wire

_MODELS = (wire.InferenceRequest, wire.InferenceResponse, wire.InferenceError)


def add_infer_route(document: dict[str, Any]) -> dict[str, Any]:
    _, schemas = models_json_schema(
        [(model, "validation") for model in _MODELS], ref_template="#/components/schemas/{model}"
    )
    document.setdefault("components", {}).setdefault("schemas", {}).update(schemas.get("$defs", {}))
    error = {"description": "Refused, or not possible now.", "content": _json("InferenceError")}
    for path, item in document["paths"].items():
        if path.startswith(PATHS):
            for operation in item.values():
                operation["responses"] |= {"4XX": error, "5XX": error}
    document["paths"]["/v2/models/{model}/infer"] = {
        "post": {
            "tags": ["kserve"],
            "operationId": "kserve_infer",
            "summary": "One pass through a model that is no language model",
            "description": "With the header `inference-header-content-length`, tensors follow the JSON as raw bytes.",
            "parameters": [
                {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}},
                {
                    "name": wire.HEADER_LENGTH,
                    "in": "header",
                    "required": False,
                    "schema": {"type": "integer", "minimum": 0},
                },
            ],
            "requestBody": {"required": True, "content": _json("InferenceRequest")},
            "responses": {
                "200": {"description": "The outputs.", "content": _json("InferenceResponse")},
                "4XX": error,
                "5XX": error,
            },
        }
    }
    return document


def _json(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}
