"""The access log: one event for each request, when it is over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from starlette.types import Scope

from thaloom.base.events import Event, at_level
from thaloom.base.ids import RequestId
from thaloom.edge.api.entrance.tracing import trace_id
from thaloom.edge.api.entrance.visits import Tab


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestServed(Event):
    """The access log. `status` 499: the client left before there was an answer. `key`: its name, if it showed one that
    is known."""

    request: RequestId
    method: str
    path: str
    status: int
    duration_ms: float
    key: str | None = None
    trace: str | None = None
    """The id of the trace it belongs to, if its sender or we follow one (W3C Trace Context)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerServed(RequestServed):
    """The same of a request that asked for a model. `finish`: why its answers ended, empty where none did; of several
    answers, times are of the slowest."""

    model: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    finish: tuple[str, ...]
    queue_ms: float
    prefill_ms: float
    decode_ms: float
    degraded: tuple[str, ...]


@at_level("debug")
@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeServed(RequestServed):
    """One of the questions that machines ask every few seconds, answered well: no news."""


def line_of(
    scope: Scope, request_id: RequestId, status: int, duration_s: float, tab: Tab, *, is_probe: bool
) -> RequestServed:
    """What the log says of a request that is over."""
    facts: dict[str, Any] = {
        "request": request_id,
        "method": scope["method"],
        "path": scope["path"],
        "status": status,
        "duration_ms": round(duration_s * 1000, 3),
        "key": None if tab.visit is None else tab.visit.key,
        "trace": trace_id(tab.traceparent),
    }
    if not tab.model:
        return (ProbeServed if status == 200 and is_probe else RequestServed)(**facts)
    return AnswerServed(
        **facts,
        model=tab.model,
        prompt_tokens=tab.prompt_tokens,
        cached_tokens=tab.cached_tokens,
        completion_tokens=tab.completion_tokens,
        finish=tuple(tab.finish),
        queue_ms=round(tab.queue_s * 1000, 3),
        prefill_ms=round(tab.prefill_s * 1000, 3),
        decode_ms=round(tab.decode_s * 1000, 3),
        degraded=tuple(sorted(tab.degraded)),
    )
