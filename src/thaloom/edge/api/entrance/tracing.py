"""Traces as the door sees them: one span for each request, whoever writes it down; and the traceparent that comes in.

Source: W3C Trace Context, level 1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Protocol

from starlette.datastructures import Headers

from thaloom.base.events import Event

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")


class Span(Protocol):
    """One request, from when it came."""

    @property
    def traceparent(self) -> str:
        """What is passed on: of this span, as the parent of what is done for it elsewhere."""
        ...

    def end(self, served: Event) -> None:
        """`served`: access_log.RequestServed."""
        ...


class Tracing(Protocol):
    def begin(self, name: str, headers: Mapping[str, str]) -> Span: ...


def traceparent_of(headers: Headers) -> str | None:
    """The caller's, if it is one."""
    given = headers.get("traceparent", "")
    return given if _TRACEPARENT.fullmatch(given) else None


def trace_id(traceparent: str | None) -> str | None:
    match = _TRACEPARENT.fullmatch(traceparent or "")
    return None if match is None else match[1]
