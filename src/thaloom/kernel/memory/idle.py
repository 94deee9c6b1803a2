"""Which memory that is kept in case somebody comes back for it goes: longest idle first. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

IDLE_S = 300.0
"""As long as a model stays that nobody asks for, by custom of others (Ollama's keep_alive): restarts take seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Idle:
    """Memory nobody uses. `since`: monotonic."""

    name: str
    num_bytes: int
    since: float


def to_drop(
    idle: Iterable[Idle], *, now: float, max_bytes: int, needed_bytes: int = 0, idle_s: float = IDLE_S
) -> list[str]:
    """Those that were idle for too long, those that go beyond `max_bytes` together, and as many more as make
    `needed_bytes`. Never one more than that asks for."""
    dropped, given = [], 0
    oldest_first = sorted(idle, key=lambda each: (each.since, each.name))
    left = sum(each.num_bytes for each in oldest_first)
    for each in oldest_first:
        if now - each.since >= idle_s or left > max_bytes or given < needed_bytes:
            dropped.append(each.name)
            given += each.num_bytes
            left -= each.num_bytes
    return dropped
