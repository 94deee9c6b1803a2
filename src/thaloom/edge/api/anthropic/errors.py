"""Errors in Anthropic's form. Their statuses stay those of our tree: one leaf, one status, whoever asks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from thaloom.base.errors import ThaloomError, Unavailable

VERSION_HEADER = "anthropic-version"
"""Every client of the protocol sends it: who does shall be answered in its form, wherever the paths are shared."""
PATH = "/v1/messages"
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
}
"""By status. Others of 4xx are `invalid_request_error`; of 5xx, `overloaded_error` where waiting helps, or `api_error`.
Source: Anthropic's API reference, "Errors"; `timeout_error`: ErrorType of its Python client."""


def is_spoken(path: str, headers: Mapping[str, str]) -> bool:
    return path.startswith(PATH) or VERSION_HEADER in headers


def body(error: ThaloomError, request_id: str | None = None) -> dict[str, Any]:
    """With our code as `error_code` in `details`, where their client looks for what is finer than a type; but with
    the protocol's own code if the error brings one."""
    told: dict[str, Any] = {
        "type": _type(error),
        "message": error.message,
        "details": _finer(error) | error.details,
    }
    return {"type": "error", "error": told} | ({} if request_id is None else {"request_id": request_id})


def _type(error: ThaloomError) -> str:
    if named := _TYPES.get(error.http_status):
        return named
    if error.http_status < 500:
        return "invalid_request_error"
    return "overloaded_error" if isinstance(error, Unavailable) else "api_error"


def _finer(error: ThaloomError) -> dict[str, Any]:
    found = {"error_code": error.code, "param": error.param, "retry_after_s": error.retry_after_s}
    return {name: value for name, value in found.items() if value is not None}
