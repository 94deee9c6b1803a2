"""Errors as the Open Inference Protocol has them: one text. The status says the rest."""

from __future__ import annotations

from typing import Any

from thaloom.base.errors import ThaloomError

PATHS = ("/v2/models", "/v2/health")
"""Not all of /v2: /v2/rerank is Cohere's."""


def body(error: ThaloomError, request_id: str | None = None) -> dict[str, Any]:  # noqa: ARG001 - as all forms
    """With our code beside it, which clients let pass."""
    return {"error": error.message, "code": error.code}
