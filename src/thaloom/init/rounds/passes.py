"""How long the reconciler's passes take: the last, and the slowest of the last hundred."""

from __future__ import annotations

from collections import deque

_KEPT = 100


class Passes:
    def __init__(self) -> None:
        self.num = 0
        self.last_cpu_s = 0.0
        self._latest: deque[float] = deque(maxlen=_KEPT)

    def took(self, duration_s: float, cpu_s: float) -> None:
        """`cpu_s`: of the thread's own time; the rest it waited, for the disk or for its turn."""
        self.num += 1
        self.last_cpu_s = cpu_s
        self._latest.append(duration_s)

    @property
    def last_s(self) -> float:
        return self._latest[-1] if self._latest else 0.0

    @property
    def slowest_s(self) -> float:
        return max(self._latest, default=0.0)
