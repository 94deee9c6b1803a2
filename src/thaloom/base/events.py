"""Things that happened, as data. Whoever changes a state emits one; the edge decides what becomes of it.

Rooms below `init` hold no logger: they are handed an `Emit` and call it. A log line, a metric and a page of the
dashboard are three readings of the same event.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable
from typing import Any, Literal, TypeVar

Level = Literal["debug", "info", "warning", "error"]
"""error: a person must act; warning: a wish was bent; info: the system changed state."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Base of every event. A subclass adds its facts as fields; `at_level` sets its level."""

    @property
    def name(self) -> str:
        return type(self).__name__

    @property
    def level(self) -> Level:
        return LEVELS.get(type(self), "info")

    def fields(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


E = TypeVar("E", bound="Event")
Emit = Callable[[Event], None]
LEVELS: dict[type[Event], Level] = {}


_ORDER: dict[Level, int] = {"debug": 0, "info": 1, "warning": 2, "error": 3}


def at_least(level: Level, least: Level) -> bool:
    """Whether an event of `level` is worth telling where `least` is asked for."""
    return _ORDER[level] >= _ORDER[least]


def at_level(level: Level) -> Callable[[type[E]], type[E]]:
    """Class decorator that sets an event's level (`info` without it)."""

    def mark(event: type[E]) -> type[E]:
        LEVELS[event] = level
        return event

    return mark


@at_level("warning")
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Degraded(Event):
    """Something works less well than asked for, and this says so (law 2: never silently worse)."""

    subject: str
    reason: str
    message: str


class Recorder:
    """An `Emit` that keeps the last `limit` events: for tests and for the daemon's recent history."""

    def __init__(self, limit: int = 1000) -> None:
        self.events: deque[Event] = deque(maxlen=limit)

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    def of(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]


def ignore(event: Event) -> None:
    """An `Emit` for callers that want none."""
