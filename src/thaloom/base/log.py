"""Events as log lines: one JSON object a line for machines, one short line for people."""

from __future__ import annotations

import json
import sys
import threading
import time
from dataclasses import dataclass
from typing import TextIO

from thaloom.base.clock import Clock
from thaloom.base.events import Event, Level, at_least, at_level


@at_level("warning")
@dataclass(frozen=True, slots=True, kw_only=True)
class LogLinesLost(Event):
    """Lines that could not be written before this one: the disk was full, or nobody read."""

    num_lines: int


class LogWriter:
    """An `Emit` that writes each event of at least `level` as one line, whole, from any thread.

    A log that cannot be written (full disk, closed pipe) stops nobody's work; how many lines were lost is told as
    soon as one gets through.
    """

    def __init__(
        self, clock: Clock, stream: TextIO | None = None, *, level: Level = "info", human: bool = False
    ) -> None:
        self._clock = clock
        self._stream = stream if stream is not None else sys.stderr
        self.level: Level = level
        """The least that is written; may be changed while it writes."""
        self._human = human
        self._lock = threading.Lock()
        self._num_lost = 0

    def __call__(self, event: Event) -> None:
        if not at_least(event.level, self.level):
            return
        with self._lock:
            lines = self._line(event)
            if self._num_lost:
                lines = self._line(LogLinesLost(num_lines=self._num_lost)) + lines
            try:
                self._stream.write(lines)
                self._stream.flush()
            except (OSError, ValueError):  # ValueError: the stream is closed, or cannot encode the line
                self._num_lost += 1
            else:
                self._num_lost = 0

    def _line(self, event: Event) -> str:
        return (self._for_people(event) if self._human else self._for_machines(event)) + "\n"

    def _for_machines(self, event: Event) -> str:
        head = {"time": round(self._clock.now(), 3), "level": event.level, "event": event.name}
        return json.dumps(head | event.fields(), ensure_ascii=False, default=str)

    def _for_people(self, event: Event) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(self._clock.now()))
        facts = " ".join(f"{key}={value!r}" for key, value in event.fields().items())
        return f"{clock} {event.level:<7} {event.name} {facts}".rstrip()
