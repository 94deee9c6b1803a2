"""What the room of state tells."""

from __future__ import annotations

from dataclasses import dataclass

from thaloom.base.events import Event, at_level


@at_level("error")
@dataclass(frozen=True, slots=True, kw_only=True)
class RoutesUnreadable(Event):
    """The published snapshot cannot be read; the last good one, if any, stays in use."""

    path: str
    problem: str


@at_level("error")
@dataclass(frozen=True, slots=True, kw_only=True)
class KeysUnreadable(Event):
    """The published keys cannot be read; the last good ones stay in use, and without any nobody is let in."""

    path: str
    problem: str
