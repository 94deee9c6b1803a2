"""Trying again what a network or a busy hub refused: how often, how long between, and when to stop."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from thaloom.base.clock import Clock
from thaloom.base.errors import SourceUnavailable

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a pull puts up with a bad connection. Attempts that bring bytes are not counted."""

    most_attempts: int = 6
    first_wait_s: float = 0.5
    """Doubles with each attempt, up to `longest_wait_s`; a random part of it is left out, so that many clients of a
    hub that was down do not come back in one moment."""
    longest_wait_s: float = 30.0
    longest_retry_after_s: float = 120.0
    """A hub that says Retry-After is waited for as long; one that wants more is left, and the caller told when."""
    stalled_s: float = 60.0
    """An answer that brings less than `least_bytes` in so long is taken for broken."""
    least_bytes: int = 64 * 1024


PATIENCE = Patience()


async def retrying(
    attempt: Callable[[], Awaitable[T]], patience: Patience, clock: Clock, *, progress: Callable[[], int] = lambda: 0
) -> T:
    """What `attempt` gives, tried again after each SourceUnavailable. `progress` counts the bytes that came: whenever
    it has grown, the attempts are counted anew. Raises the last SourceUnavailable."""
    failures, seen = 0, progress()
    while True:
        try:
            return await attempt()
        except SourceUnavailable as error:
            now = progress()
            failures = 1 if now > seen else failures + 1
            seen = now
            if failures >= patience.most_attempts:
                raise
            wait_s = error.retry_after_s
            if wait_s is None:
                wait_s = min(patience.longest_wait_s, patience.first_wait_s * 2 ** (failures - 1))
                wait_s *= random.uniform(0.5, 1.0)
            elif wait_s > patience.longest_retry_after_s:
                raise
            await clock.sleep(wait_s)
