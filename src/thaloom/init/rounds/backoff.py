"""When to try again what failed: at once if it had worked, then soon, then less and less often."""

from __future__ import annotations

import math
from dataclasses import dataclass

FIRST_S = 0.2
LONGEST_S = 10.0
FORGIVEN_AFTER_S = 60.0
"""Ready for this long, and earlier losses no longer count."""
CRASH_LOOP = 3
"""Losses in a row, none of them forgiven, from which a service that never gets ready counts as failed."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Of one service, or of the door. Monotonic seconds. A new value for every change."""

    failures: int = 0
    next_try_at: float = 0.0
    unready: int = 0
    """Of the failures, those in a row that ended before the process was ready."""

    def lost(self, now: float, *, ready_since: float | None, hopeless: bool = False, short: bool = False) -> Backoff:
        """After the process has ended unasked. `hopeless`: it said that trying again cannot help. `short`: it lacked
        what others had, which says nothing of itself."""
        forgiven = ready_since is not None and now - ready_since >= FORGIVEN_AFTER_S
        failures = 1 if forgiven else self.failures + 1
        at_once = failures == 1 and ready_since is not None  # it has worked: most likely it was killed
        wait_s = 0.0 if at_once else min(LONGEST_S, FIRST_S * 2.0 ** min(failures - 1, 16))
        unready = self.unready + (not short) if ready_since is None else 0
        return Backoff(
            failures=failures,
            next_try_at=math.inf if hopeless else now + wait_s,
            unready=unready,
        )

    @property
    def failed(self) -> bool:
        """Whether to call it failed: it never gets ready, or has said why it never will."""
        return self.unready >= CRASH_LOOP or self.next_try_at == math.inf
