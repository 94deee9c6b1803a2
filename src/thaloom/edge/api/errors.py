"""Errors as the public protocols want them: a body, a status, and when to try again."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from pydantic import ValidationError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from thaloom.base.errors import (
    BadParameter,
    BadRequest,
    EncodingNotRead,
    MethodNotAllowed,
    ThaloomError,
    Unauthorized,
    UnknownPath,
)
from thaloom.edge.api.anthropic import errors as anthropic_errors
from thaloom.edge.api.kserve import errors as kserve_errors
from thaloom.edge.api.ollama import errors as ollama_errors

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def to_json(data: Any) -> bytes:
    """Compact JSON; what is not text (a lone surrogate out of a URL) is replaced."""
    return _encode(data).encode(errors="replace")


def error_body(error: ThaloomError) -> dict[str, Any]:
    """OpenAI's form, with `retry_after_s` and `details` where there are any."""
    body: dict[str, Any] = {
        "message": error.message,
        "type": _type(error),
        "param": error.param,
        "code": error.code,
    }
    if error.retry_after_s is not None:
        body["retry_after_s"] = error.retry_after_s
    if error.details:
        body["details"] = error.details
    return {"error": body}


Write = Callable[[ThaloomError, str | None], dict[str, Any]]
"""The body that tells an error; the second argument is the request's id, where there is one."""
_FORMS: tuple[tuple[str, Write], ...] = (
    (anthropic_errors.PATH, anthropic_errors.body),
    ("/api/", ollama_errors.body),
    *((path, kserve_errors.body) for path in kserve_errors.PATHS),
)
"""Protocols with a form of their own, by the beginning of their paths; all others get OpenAI's."""


def error_response(
    error: ThaloomError, path: str, headers: Headers | None = None, request_id: str | None = None
) -> Response:
    """In the form of the protocol that is spoken at `path`, or of a client that names it in its headers."""
    extra: dict[str, str] = {}
    if isinstance(error, MethodNotAllowed):
        extra["allow"] = error.details.get("allowed", "")
    if isinstance(error, EncodingNotRead):
        extra["accept-encoding"] = "gzip, identity"  # what would be read (RFC 7694, 3)
    if isinstance(error, Unauthorized):
        extra["www-authenticate"] = "Bearer"  # a 401 must say how (RFC 9110, 15.5.2)
    if error.retry_after_s is not None:
        extra["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
    if anthropic_errors.is_spoken(path, headers or {}):
        path = anthropic_errors.PATH
    write = next((write for prefix, write in _FORMS if path.startswith(prefix)), None)
    body = error_body(error) if write is None else write(error, request_id)
    return Response(to_json(body), error.http_status, extra, media_type="application/json")


def from_http_exception(request: Request, error: HTTPException) -> ThaloomError:
    """Starlette's own refusals (no such path, wrong method) as leaves of our tree."""
    path = request.scope["path"]
    if error.status_code == 405:
        allowed = Headers(error.headers or {}).get("allow", "")
        return MethodNotAllowed(f"{request.method} is not served at {path} (served: {allowed})", allowed=allowed)
    if error.status_code == 404:
        return UnknownPath(f"nothing is served at {path}; / lists what is")
    return BadRequest(str(error.detail))


def from_validation(error: ValidationError, data: Any) -> BadParameter:
    """One complaint, about the field by its path in `data`: `messages[0].role`.

    Where a field may be one of several kinds, each kind complains: the one that has the right type and only a wrong
    value was probably meant, or of those the one that got furthest.
    """
    kinds: dict[tuple[int | str, ...], list[_Complaint]] = {}
    for details in error.errors(include_url=False):
        location, message = details["loc"], details["msg"]
        missing = details["type"] == "missing"
        if details["type"] in ("union_tag_invalid", "union_tag_not_found"):  # of the field that says which kind it is
            location, missing, message = _of_tag(location, details["ctx"])
        path, kind = _split(data, location, missing=missing)
        right_type = not details["type"].endswith(("_type", "literal_error"))
        kinds.setdefault((*path[:1], *kind), []).append(_Complaint(path, message, right_type))
    path, message, _ = max(kinds.values(), key=_how_far)[0]
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
    return BadParameter(f"{name or 'the body'}: {message}", param=name or None)


def _of_tag(location: tuple[int | str, ...], context: dict[str, Any]) -> tuple[tuple[int | str, ...], bool, str]:
    expected = context.get("expected_tags")
    told = "Field required" if expected is None else f"Input should be {expected}"
    return (*location, str(context["discriminator"]).strip("'")), True, told


class _Complaint(NamedTuple):
    path: list[int | str]
    message: str
    right_type: bool


def _how_far(complaints: list[_Complaint]) -> tuple[bool, int, int, list[int]]:
    path, _, right_type = complaints[0]
    return right_type, len(path), -len(complaints), [part for part in path if isinstance(part, int)]


def _split(data: Any, location: tuple[int | str, ...], *, missing: bool) -> tuple[list[int | str], list[int | str]]:
    """The part of pydantic's location that is in the data (or `missing` there), and the rest: the kinds it tried."""
    path: list[int | str] = []
    kind: list[int | str] = []
    for index, part in enumerate(location):
        absent = missing and index == len(location) - 1
        if isinstance(part, int) and isinstance(data, list) and part < len(data):
            data = data[part]
        elif isinstance(part, str) and isinstance(data, dict) and (part in data or absent):
            if _names_a_kind(part, location[index + 1 :], data):
                kind.append(part)
                continue
            data = data.get(part)
        else:
            kind.append(part)
            continue
        path.append(part)
    return path, kind


def _names_a_kind(part: str, rest: tuple[int | str, ...], data: dict[str, Any]) -> bool:
    """Whether it is a kind that is called as a field of it is: `text` of a block of text with a wrong field."""
    return bool(rest) and rest[0] in data and not isinstance(data.get(part), dict | list)


def _type(error: ThaloomError) -> str:
    if error.http_status == 401:
        return "authentication_error"
    if error.http_status == 403:
        return "permission_error"
    if error.http_status == 429:
        return "rate_limit_error"
    return "invalid_request_error" if error.http_status < 500 else "server_error"
