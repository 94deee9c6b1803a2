"""A worker's place at a turnstile. The whole: work.runtime.turns.turnstile."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, NamedTuple

from thaloom.base import futex
from thaloom.base.errors import DeadlineExceeded
from thaloom.kernel.sched.turns import rejoined, served
from thaloom.work.runtime.turns.file import (
    BELL,
    BUSY_AT,
    DEADLINE,
    HELD,
    HOLDING,
    IDLE,
    LENGTH,
    MISSED,
    SERVICE,
    SINCE,
    STATE,
    TAKEN_AT,
    TURNS,
    WAITED,
    WAITING,
    WEIGHT,
    base_of,
)  # fmt: skip

if TYPE_CHECKING:
    from thaloom.work.runtime.turns.turnstile import Turnstile

LOOK_S = 0.01
"""How often who waits looks for itself: as long as a step that is neither short nor long."""
SWEEP_S = 1.0
"""How often who does not wait looks for the dead: beside one, its turns cost some microseconds for nothing."""
LEAST_PATIENCE_S, MOST_PATIENCE_S = 0.5, 5.0
"""Bounds on how long a step may take before others no longer wait for it."""
MOST_WAIT_S = 10.0
_NS = 1_000_000_000


class Taken(NamedTuple):
    """How a turn was got."""

    waited_s: float = 0.0
    missed: str | None = None
    """Why others may be at a step meanwhile."""


AT_ONCE = Taken()


class Place:
    """`take`, a step, `give`, again and again, and `rest` when there is nothing to do. It lives as long as the process,
    or until `leave`. For one thread at a time."""

    def __init__(self, turnstile: Turnstile, name: str, seat: int, descriptor: int) -> None:
        self.name = name
        self._turnstile = turnstile
        self._words = turnstile.words
        self._seat, self._bit, self._begin = seat, 1 << seat, base_of(seat)
        self._descriptor = descriptor
        self._bell = turnstile.file.address(self._begin + BELL)
        self._holds = False
        self._swept = self._away_until = time.monotonic()

    def take(self, due_ns: int, length_ns: int = 0) -> Taken:
        """A turn, which is due then on the monotonic clock, for a step that takes about so long (0: nobody knows). At
        once while no other has anything to do."""
        words = self._words
        if words[TAKEN_AT] == self._bit or words[BUSY_AT] == self._bit or time.monotonic() < self._away_until:
            return AT_ONCE
        begun_ns = time.monotonic_ns()
        try:
            self._ask(due_ns, length_ns)
            missed = self._wait(begun_ns) if words[self._begin + STATE] == WAITING else None
        except DeadlineExceeded as error:  # somebody was stopped while changing words
            self._away_until = time.monotonic() + SWEEP_S
            words[self._begin + STATE] = IDLE
            missed = error.message
        self._holds = words[self._begin + STATE] == HOLDING
        waited_ns = time.monotonic_ns() - begun_ns
        words[self._begin + WAITED] += waited_ns
        if missed is not None:
            words[self._begin + MISSED] += 1
        return Taken(waited_ns / _NS, missed)

    def _ask(self, due_ns: int, length_ns: int) -> None:
        words, turnstile = self._words, self._turnstile
        with turnstile.guarded():
            now = time.monotonic()
            if now - self._swept > SWEEP_S:
                self._swept = now
                turnstile.sweep_guarded()
            if not words[BUSY_AT] & self._bit:
                words[self._begin + SERVICE] = rejoined(words[self._begin + SERVICE], turnstile.services())
                words[TAKEN_AT] |= self._bit
                words[BUSY_AT] |= self._bit
            if words[BUSY_AT] != self._bit:
                words[self._begin + DEADLINE] = due_ns
                words[self._begin + LENGTH] = length_ns
                words[self._begin + STATE] = WAITING
                turnstile.admit()

    def _wait(self, begun_ns: int) -> str | None:
        """Until the turn is there, or is no longer waited for; whom it no longer waited for."""
        words, at = self._words, self._begin + STATE
        missed: str | None = None
        while True:
            heard = words[self._begin + BELL]
            if words[at] == HOLDING:
                return missed
            futex.wait(self._bell, heard & 0xFFFFFFFF, LOOK_S)
            if words[at] == HOLDING:
                return missed
            with self._turnstile.guarded():
                late = self._turnstile.look(self._seat)
                missed = missed if late is None else f"{late} does not end its turn"
                if words[at] == IDLE:  # this one was stopped itself, and given up
                    words[at] = WAITING
                self._turnstile.admit()
                if words[at] != HOLDING and time.monotonic_ns() - begun_ns > MOST_WAIT_S * _NS:
                    words[at] = IDLE
                    return f"no turn within {MOST_WAIT_S:g} s"

    def give(self) -> None:
        """Harmless without a turn."""
        if not self._holds:
            return
        self._holds = False
        words, begin = self._words, self._begin
        most_s = MOST_PATIENCE_S if words[begin + STATE] == HOLDING else LEAST_PATIENCE_S  # else it was given up
        held_ns = max(0, min(time.monotonic_ns() - words[begin + SINCE], int(most_s * _NS)))
        words[begin + SERVICE] = served(words[begin + SERVICE], held_ns, words[begin + WEIGHT])
        words[begin + HELD] += held_ns
        words[begin + TURNS] += 1
        try:
            with self._turnstile.guarded():
                words[begin + STATE] = IDLE
                self._turnstile.admit()
        except DeadlineExceeded:  # who waits looks
            words[begin + STATE] = IDLE

    def rest(self) -> None:
        """There is nothing to do. Costs nothing when repeated."""
        if self._words[BUSY_AT] & self._bit:
            with contextlib.suppress(DeadlineExceeded), self._turnstile.guarded():
                self._words[BUSY_AT] &= ~self._bit

    def leave(self) -> None:
        """Harmless when repeated, and where nonsense stands."""
        if self._descriptor >= 0:
            with contextlib.suppress(DeadlineExceeded, ValueError), self._turnstile.guarded():
                self._turnstile.remove(self._seat)
                self._turnstile.admit()
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)
