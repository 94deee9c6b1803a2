"""What every request passes first: who may ask, how much it may say, and that it ends in an answer of ours.

A page of a foreign site can make a browser send requests to loopback, and by DNS rebinding even read the answers.
Both betray themselves: by a Host that is none of the door's (hosts.py), or by a foreign Origin. They are refused
before any route sees them. Source: NCC Group, 'singularity'; the MCP specification's rule for local servers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from thaloom.base.clock import Clock
from thaloom.base.errors import BadRequest, Forbidden, InternalError, ThaloomError, TooLarge
from thaloom.base.events import Emit, Event, at_level
from thaloom.base.ids import RequestId, new_request_id
from thaloom.edge.api.anthropic import errors as anthropic_errors
from thaloom.edge.api.entrance import cors
from thaloom.edge.api.entrance.access_log import line_of
from thaloom.edge.api.entrance.hosts import LOOPBACK, Hosts
from thaloom.edge.api.entrance.refusals import Refusals
from thaloom.edge.api.entrance.room import Room
from thaloom.edge.api.entrance.tracing import Span, Tracing, traceparent_of
from thaloom.edge.api.entrance.visits import (
    CURRENT,
    OF_A_BATCH,
    Doorkeeper,
    Tab,
    address_of,
    allowance_headers,
    shown_keys,
)
from thaloom.edge.api.errors import error_response
from thaloom.edge.api.measures.cost import ASKED_BY, cost_comment, cost_headers
from thaloom.edge.api.measures.metrics import DoorMetrics

MAX_HEADERS = 100
MAX_HEADER_BYTES = 32 * 1024
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


@at_level("error")
@dataclass(frozen=True, slots=True, kw_only=True)
class RequestCrashed(Event):
    """A defect of ours: the request met an error that is no leaf of the tree."""

    request: RequestId
    path: str
    error: str


class Guard:
    """ASGI middleware around the whole door."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        clock: Clock,
        emit: Emit,
        metrics: DoorMetrics,
        doorkeeper: Doorkeeper | None = None,
        tracing: Tracing | None = None,
        room: Room | None = None,
        hosts: Hosts = LOOPBACK,
        refusals: Refusals | None = None,
    ) -> None:
        """`doorkeeper` None: nobody is asked for a key. `tracing` None: no spans are written. `room`: for bodies; None:
        one of its own. `hosts`: by which names the door may be asked for. `refusals`: told of who is turned away."""
        self._app = app
        self._doorkeeper = doorkeeper
        self._refusals = refusals
        self._tracing = tracing
        self._clock = clock
        self._emit = emit
        self._metrics = metrics
        self._room = Room() if room is None else room
        self._hosts = hosts

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
        tab = Tab(traceparent=traceparent_of(headers), holding=self._room.holding())
        span = self._begin_span(scope, headers)
        if span is not None:
            tab.traceparent = span.traceparent
        CURRENT.set(tab)  # of this request's own task, and of those it starts
        as_comment = False
        for_page: list[tuple[bytes, bytes]] = []

        async def send_marked(message: Message) -> None:
            nonlocal status, whole, as_comment
            whole = message["type"] == "http.response.body" and not message.get("more_body", False)
            if message["type"] == "http.response.start":
                status = message["status"]
                as_comment = ASKED_BY in headers and _is_event_stream(message)
                _mark(message, request_id, tab)
                MutableHeaders(scope=message).raw.extend(for_page)
                if anthropic_errors.is_spoken(scope["path"], headers):
                    MutableHeaders(scope=message)["request-id"] = request_id
            elif whole and as_comment and tab.finish:
                message["body"] = cost_comment(tab) + message.get("body", b"")
            await send(message)

        route = _route_name(scope["path"])
        self._metrics.open_requests.labels(route).inc()
        try:
            check(headers, self._hosts, (scope.get("server") or (None,))[0])
            for_page += cors.marks(scope["path"], headers)
            if cors.is_preflight(scope["method"], scope["path"], headers):  # a browser shows no key with it
                await cors.preflight_answer(headers)(scope, receive, send_marked)
                return
            try:
                self._let_in(tab, scope, headers)
            except ThaloomError as error:
                if self._refusals is not None:
                    self._refusals.note(address_of(scope), f"{_method_name(scope['method'])} {route}", error)
                raise
            await self._app(scope, receive, send_marked)
        except ThaloomError as error:
            self._metrics.errors.labels(error.code).inc()
            await error_response(error, scope["path"], headers, request_id)(scope, receive, send_marked)
        except Exception as error:  # the supervisor of all routes: logs, counts, answers
            self._emit(RequestCrashed(request=request_id, path=scope["path"], error=f"{type(error).__name__}: {error}"))
            if status == 499:
                self._metrics.errors.labels(InternalError.code).inc()
                answer = error_response(defect(request_id), scope["path"], headers, request_id)
                await answer(scope, receive, send_marked)
            elif not whole:
                raise  # the answer has begun: breaking the connection is all that is left to say it is not whole
        finally:
            tab.end()
            duration_s = self._clock.monotonic() - begun
            self._metrics.open_requests.labels(route).dec()
            self._metrics.requests.labels(route, _method_name(scope["method"]), str(status)).inc()
            self._metrics.request_seconds.labels(route).observe(duration_s)
            served = line_of(scope, request_id, status, duration_s, tab, is_probe=route in _PROBES)
            self._emit(served)
            if span is not None:
                span.end(served)

    def _begin_span(self, scope: Scope, headers: Headers) -> Span | None:
        if self._tracing is None or scope["path"] in _OPEN_TO_ALL:
            return None
        return self._tracing.begin(scope["method"], headers)

    def _let_in(self, tab: Tab, scope: Scope, headers: Headers) -> None:
        """Raises Unauthorized, RateLimited, and Forbidden for what the key is not for."""
        path = scope["path"]
        tab.patient = OF_A_BATCH in scope
        keeper = self._doorkeeper
        if keeper is None or (path in _OPEN_TO_ALL and not (path == "/metrics" and keeper.has_tenants)):
            return
        held = scope.get(OF_A_BATCH)
        tab.visit = keeper.enter_as(held) if held is not None else keeper.enter(shown_keys(headers), address_of(scope))
        if path.startswith("/thaloom/v1/"):
            return  # the daemon says what a holder of this key may
        if path == "/metrics":
            if tab.visit is None or tab.visit.tenant is not None or not tab.visit.may("read"):
                raise Forbidden("where there are tenants, measurements are for who may look at the node (scope 'read')")
            return
        looks = scope["method"] in ("GET", "HEAD") and (path in _LISTS or path.startswith("/v1/models/"))
        if tab.visit is not None and not tab.visit.may("infer") and not (looks and tab.visit.may("read")):
            raise Forbidden(f"the key {tab.visit.key!r} is not for asking models (role user, scope 'infer')")


def defect(request_id: str) -> InternalError:
    """What a client is told of an error that is no leaf of the tree."""
    return InternalError(f"a defect of Thaloom; what happened to request {request_id} is in the door's log")


def check(headers: Headers, hosts_known: Hosts = LOOPBACK, server: str | None = None) -> None:
    """Raises Forbidden for a foreign Host or Origin, TooLarge for too many headers, BadRequest without a Host."""
    num_bytes = sum(len(name) + len(value) for name, value in headers.raw)
    if len(headers.raw) > MAX_HEADERS or num_bytes > MAX_HEADER_BYTES:
        raise TooLarge(
            f"{len(headers.raw)} headers of {num_bytes} bytes are more than {MAX_HEADERS} or {MAX_HEADER_BYTES} bytes"
        )
    hosts = headers.getlist("host")
    if len(hosts) != 1:
        raise BadRequest("a request must have one Host header")
    if not hosts_known.knows(hosts[0], server):
        raise Forbidden(
            f"Host {hosts[0]!r} is none of this door's names (loopback's, those of its certificate and of [door] names)"
        )
    for origin in headers.getlist("origin"):
        if not hosts_known.knows_origin(origin, server):
            raise Forbidden(f"requests of pages from {origin!r} are not served")


def _request_id(headers: Headers) -> RequestId:
    """The client's own id if it is a plain word, else a new one."""
    given = headers.get("x-request-id", "")
    return RequestId(given) if _REQUEST_ID.fullmatch(given) else new_request_id()


_OLLAMA = ("chat", "copy", "create", "delete", "embed", "embeddings", "generate", "ps", "pull", "push", "show", "tags",
           "version")  # fmt: skip
_ROUTES = frozenset(
    {"/", "/v1/models", "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/rerank", "/v2/rerank",
     "/rerank", "/v1/score", "/score", "/tokenize", "/detokenize", "/tokenizer_info", "/v1/responses", "/v1/files",
     "/v1/batches", "/v1/messages", "/v1/messages/count_tokens", *(f"/api/{name}" for name in _OLLAMA),
     "/healthz", "/readyz", "/version", "/metrics", "/openapi.json", "/api/models", "/v2",
     "/v2/health/live", "/v2/health/ready", "/v1/audio/speech", "/v1/audio/transcriptions",
     "/v1/images/generations"}
)  # fmt: skip
_PREFIXES = (
    "/v1/models/", "/v1/responses/", "/v1/files/", "/v1/batches/", "/v2/models/", "/thaloom/v1/", "/api/models/",
)  # fmt: skip
_LISTS = frozenset({"/v1/models", "/api/tags", "/api/ps", "/api/version", "/api/models", "/v2"})
"""What tells which models there are, and asks none; and each below the first."""
_PROBES = frozenset({"/healthz", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"})
_OPEN_TO_ALL = _PROBES | {"/", "/version", "/openapi.json"}
"""What says nothing of anybody's prompts, and is asked by machines that have no key."""


def _mark(message: Message, request_id: RequestId, tab: Tab) -> None:
    """The headers that every answer gets, beside its own."""
    headers = MutableHeaders(scope=message)
    headers["x-request-id"] = request_id
    extra = cost_headers(tab)
    if tab.visit is not None:
        extra += allowance_headers(tab.visit.allowances())
    headers.raw.extend(extra)


def _is_event_stream(message: Message) -> bool:
    return Headers(raw=message["headers"]).get("content-type", "").startswith("text/event-stream")


def _route_name(path: str) -> str:
    """A label out of a small set, whatever paths strangers try."""
    if path in _ROUTES:
        return path
    for prefix in _PREFIXES:
        if path.startswith(prefix):
            return prefix + "*"
    if "/resolve/" in path:
        return "/*/resolve/*"
    return "other"


def _method_name(method: str) -> str:
    return method if method in ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH") else "other"
