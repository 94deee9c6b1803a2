"""The node's recent events, kept for whoever asks what happened."""

from __future__ import annotations

import threading
from collections import deque

from thaloom.base.clock import Clock
from thaloom.base.events import Emit, Event
from thaloom.kernel.state.types import PastEvent


class History:
    """An `Emit` that keeps the last `limit` events with their time and passes each on. Any thread may call it."""

    def __init__(self, clock: Clock, onward: Emit, *, limit: int = 1000) -> None:
        self._clock = clock
        self._onward = onward
        self._events: deque[PastEvent] = deque(maxlen=limit)
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        with self._lock:
            self._events.append(PastEvent(time=self._clock.now(), event=event))
        self._onward(event)

    def latest(self, limit: int) -> list[PastEvent]:
        """Oldest first."""
        with self._lock:
            return list(self._events)[-limit:]
