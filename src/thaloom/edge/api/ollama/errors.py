"""Errors in Ollama's form: one text. The status says the rest."""

from __future__ import annotations

from typing import Any

from thaloom.base.errors import ThaloomError


def body(error: ThaloomError, request_id: str | None = None) -> dict[str, Any]:  # noqa: ARG001 - as all forms
    """With our code beside it, which their clients let pass."""
    return {"error": error.message, "code": error.code}
