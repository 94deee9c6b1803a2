"""Pages of this machine may ask from a browser: what it must be told before it lets them.

Who the page is from was checked before (guard): an Origin that is not loopback never gets here. The control API is
left out: what changes the node is not for scripts of a page, whichever port it came from.
Source: Fetch standard, section 3.3 (HTTP-CORS protocol).
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.responses import Response

CONTROL = "/thaloom/"
_METHODS = "GET, POST, PUT, DELETE, HEAD"
_MAX_AGE_S = 600
_EXPOSED = (
    "x-request-id, request-id, retry-after, server-timing, openai-processing-ms, x-thaloom-prompt-tokens, "
    "x-thaloom-cached-tokens, x-thaloom-completion-tokens, x-thaloom-degraded"
)


def is_preflight(method: str, path: str, headers: Headers) -> bool:
    """Whether a browser asks for its page whether it may ask."""
    asked = "origin" in headers and "access-control-request-method" in headers
    return method == "OPTIONS" and asked and not path.startswith(CONTROL)


def preflight_answer(headers: Headers) -> Response:
    """Yes: with whatever headers the page means to send; what they say is judged when they come."""
    told = {
        "access-control-allow-methods": _METHODS,
        "access-control-allow-headers": headers.get("access-control-request-headers", ""),
        "access-control-max-age": str(_MAX_AGE_S),
    }
    if headers.get("access-control-request-private-network") == "true":
        told["access-control-allow-private-network"] = "true"
    return Response(status_code=204, headers={name: value for name, value in told.items() if value})


def marks(path: str, headers: Headers) -> list[tuple[bytes, bytes]]:
    """What the answer to a page's request is marked with, as raw headers; nothing where no page asks."""
    origin = headers.get("origin")
    if origin is None or path.startswith(CONTROL):
        return []
    return [
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"access-control-expose-headers", _EXPOSED.encode()),
        (b"vary", b"Origin"),
    ]
