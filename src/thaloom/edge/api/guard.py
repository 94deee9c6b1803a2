"""What every request passes first: who may ask, how much it may say, and that it ends in an answer of ours.

A page of a foreign site can make a browser send requests to loopback, and by DNS rebinding even read the answers.
Both betray themselves: by a Host that is not loopback, or by a foreign Origin. They are refused before any route sees
them. Source: NCC Group, 'singularity'; the MCP specification's rule for local servers.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from thaloom.base.clock import Clock
from thaloom.base.errors import BadRequest, Forbidden, InternalError, ThaloomError, TooLarge
from thaloom.base.events import Emit, Event, at_level
from thaloom.base.ids import RequestId, new_request_id
from thaloom.edge.api.errors import error_response
from thaloom.edge.api.metrics import DoorMetrics

MAX_HEADERS = 100
MAX_HEADER_BYTES = 32 * 1024
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestServed(Event):
    """The access log. `status` 499: the client left before there was an answer."""

    request: RequestId
    method: str
    path: str
    status: int
    duration_ms: float


@at_level("debug")
@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeServed(RequestServed):
    """One of the questions that machines ask every few seconds, answered well: no news."""


@at_level("error")
@dataclass(frozen=True, slots=True, kw_only=True)
class RequestCrashed(Event):
    """A defect of ours: the request met an error that is no leaf of the tree."""

    request: RequestId
    path: str
    error: str


class Guard:
    """ASGI middleware around the whole door."""

    def __init__(self, app: ASGIApp, *, clock: Clock, emit: Emit, metrics: DoorMetrics) -> None:
        self._app = app
        self._clock = clock
        self._emit = emit
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._serve(scope, receive, send)
        else:  # a websocket: nothing here speaks it
            await send({"type": "websocket.close", "code": 1008})

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        request_id = _request_id(headers)
        scope.setdefault("state", {})["request_id"] = request_id
        begun = self._clock.monotonic()
        status, whole = 499, False

        async def send_marked(message: Message) -> None:
            nonlocal status, whole
            whole = message["type"] == "http.response.body" and not message.get("more_body", False)
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        route = _route_name(scope["path"])
        self._metrics.open_requests.labels(route).inc()
        try:
            check(headers)
            await self._app(scope, receive, send_marked)
        except ThaloomError as error:
            self._metrics.errors.labels(error.code).inc()
            await error_response(error, scope["path"])(scope, receive, send_marked)
        except Exception as error:  # the supervisor of all routes: logs, counts, answers
            self._emit(RequestCrashed(request=request_id, path=scope["path"], error=f"{type(error).__name__}: {error}"))
            if status == 499:
                self._metrics.errors.labels(InternalError.code).inc()
                await error_response(defect(request_id), scope["path"])(scope, receive, send_marked)
            elif not whole:
                raise  # the answer has begun: breaking the connection is all that is left to say it is not whole
        finally:
            duration_s = self._clock.monotonic() - begun
            self._metrics.open_requests.labels(route).dec()
            self._metrics.requests.labels(route, _method_name(scope["method"]), str(status)).inc()
            self._metrics.request_seconds.labels(route).observe(duration_s)
            kind = ProbeServed if status == 200 and route in _PROBES else RequestServed
            self._emit(
                kind(
                    request=request_id,
                    method=scope["method"],
                    path=scope["path"],
                    status=status,
                    duration_ms=round(duration_s * 1000, 3),
                )
            )


def defect(request_id: str) -> InternalError:
    """What a client is told of an error that is no leaf of the tree."""
    return InternalError(f"a defect of Thaloom; what happened to request {request_id} is in the door's log")


def check(headers: Headers) -> None:
    """Raises Forbidden for a foreign Host or Origin, TooLarge for too many headers, BadRequest without a Host."""
    num_bytes = sum(len(name) + len(value) for name, value in headers.raw)
    if len(headers.raw) > MAX_HEADERS or num_bytes > MAX_HEADER_BYTES:
        raise TooLarge(
            f"{len(headers.raw)} headers of {num_bytes} bytes are more than {MAX_HEADERS} or {MAX_HEADER_BYTES} bytes"
        )
    hosts = headers.getlist("host")
    if len(hosts) != 1:
        raise BadRequest("a request must have one Host header")
    if not is_loopback(hosts[0]):
        raise Forbidden(f"Host {hosts[0]!r} is not this machine's loopback name (use localhost or 127.0.0.1)")
    for origin in headers.getlist("origin"):
        if not is_loopback_origin(origin):
            raise Forbidden(f"requests of pages from {origin!r} are not served")


def is_loopback(host: str) -> bool:
    """Whether a Host header (`name`, `address` or `[address]`, with or without a port) names loopback."""
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]@/\s]+)(:\d{1,5})?", host)
    return match is not None and is_loopback_name(match[1].strip("[]"))


def is_loopback_name(name: str) -> bool:
    """`localhost`, an address in 127.0.0.0/8, or ::1; nothing that would have to be looked up."""
    if name.lower().removesuffix(".") == "localhost":
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback


def is_loopback_origin(origin: str) -> bool:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    rest = parts.path + parts.query + parts.fragment
    return parts.scheme in ("http", "https") and rest == "" and is_loopback(parts.netloc)


def _request_id(headers: Headers) -> RequestId:
    """The client's own id if it is a plain word, else a new one."""
    given = headers.get("x-request-id", "")
    return RequestId(given) if _REQUEST_ID.fullmatch(given) else new_request_id()


_ROUTES = frozenset(
    {"/", "/v1/models", "/v1/chat/completions", "/v1/completions", "/healthz", "/readyz", "/version", "/metrics",
     "/v2", "/v2/health/live",
     "/v2/health/ready",
     "/openapi.json"}
)  # fmt: skip


_PROBES = frozenset({"/healthz", "/readyz", "/metrics"})


def _route_name(path: str) -> str:
    """A label out of a small set, whatever paths strangers try."""
    if path in _ROUTES:
        return path
    for prefix in ("/v1/models/", "/v2/models/", "/thaloom/v1/"):
        if path.startswith(prefix):
            return prefix + "*"
    return "other"


def _method_name(method: str) -> str:
    return method if method in ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH") else "other"
