"""Turns at a device that several workers share, through a file that they map: no process stands between them.

A worker that has something to do is *busy*. While no other is, its steps begin at once and nothing is written. Beside
others it takes a *turn* for each step: who is next follows from all seats together (kernel.sched.turns), and whoever
waits, or ends a turn, computes that for everybody and rings the bell of the one.

Nothing but speed hangs on it. So nobody waits without an end: a killed holder's turn is taken over with the next look
(each waiter looks every LOOK_S), one that does not come to its end in time is held to be stopped, and the others go on
beside it, as does who waited MOST_WAIT_S. Each word counts by itself: whoever is killed between two stores leaves
nothing that somebody else would have to finish, but a bell that was not rung, and that a look replaces.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from thaloom.base import futex
from thaloom.base.errors import StateUnusable
from thaloom.base.shared_words import PATIENCE_S
from thaloom.kernel.sched.turns import Turn, next_turn
from thaloom.work.runtime.turns.file import (
    BELL,
    BUSY_AT,
    HELD,
    HOLDER_AT,
    HOLDING,
    IDLE,
    LENGTH,
    MISSED,
    NAME,
    SEATS,
    SERVICE,
    SINCE,
    STATE,
    TAKEN_AT,
    TURNS,
    WAITED,
    WAITING,
    WEIGHT,
    WIDTH,
    WIDTH_AT,
    TurnstileFile,
    base_of,
    name_words,
)  # fmt: skip
from thaloom.work.runtime.turns.place import LEAST_PATIENCE_S, MOST_PATIENCE_S, Place

GUARD_S = 0.05
"""How long who has a place waits for whoever changes words, which takes microseconds: longer, and it was stopped."""
STEPS_LONG = 8
"""A holder is given up after so many times what its step is expected to take, LEAST_PATIENCE_S and MOST_PATIENCE_S."""

_READ = struct.Struct("<6q")
"""WEIGHT to LENGTH."""
_NS = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Seated:
    """One worker at a turnstile; all since it sat down."""

    name: str
    weight: int
    width: int
    holds: bool
    turns: int
    held_s: float
    waited_s: float
    missed: int


class Turnstile:
    """One opening of it, for one thread at a time."""

    def __init__(self, file: TurnstileFile) -> None:
        self.file = file
        self.words = file.words
        self._rung: list[int] = []

    @classmethod
    def create(cls, path: Path, width: int) -> Turnstile:
        """The one at `path`, or a new one, with this width from now on. Raises StateUnusable, DiskFull."""
        if width < 1:
            raise ValueError(f"no device is {width} wide")
        file = TurnstileFile.create(path, width=width)
        file.words[WIDTH_AT] = width
        return cls(file)

    @classmethod
    def open(cls, path: Path) -> Turnstile:
        """Raises FileNotFoundError, StateUnusable."""
        return cls(TurnstileFile(path))

    def close(self) -> None:
        """Leave its places first."""
        self.file.close()

    def join(self, name: str, *, weight: int, width: int) -> Place:
        """A place that has nothing to do yet. Raises StateUnusable if none is free, DeadlineExceeded."""
        if weight < 1 or width < 1:
            raise ValueError(f"no worker weighs {weight} and is {width} wide")
        own = name_words(name)
        self.file.patience_s = PATIENCE_S  # who gets no place here goes without turns for good
        with self.guarded():
            self.sweep_guarded()
            for seat in range(SEATS):
                if not self.words[TAKEN_AT] >> seat & 1 and (descriptor := self.file.sit_down(seat)) is not None:
                    break
            else:
                raise StateUnusable(f"all {SEATS} seats of this device's turnstile are taken")
            begin = base_of(seat)
            for word in range(NAME):
                self.words[begin + word] = 0
            self.words[begin + WEIGHT], self.words[begin + WIDTH] = weight, width
            for word, number in enumerate(own, NAME):
                self.words[begin + word] = number
            self.words[TAKEN_AT] |= 1 << seat
        self.file.patience_s = GUARD_S
        return Place(self, name, seat, descriptor)

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Nobody else changes a word meanwhile, but for their own seat's. Raises DeadlineExceeded."""
        self.file.lock()
        try:
            self.words[HOLDER_AT] = os.getpid()
            yield
        finally:
            rung, self._rung = self._rung, []
            self.file.unlock()
            for address in rung:
                futex.wake(address)

    def busy(self) -> list[int]:
        """Seats of those that have something to do, the dead among them."""
        mask = self.words[BUSY_AT] & self.words[TAKEN_AT]
        return [seat for seat in range(SEATS) if mask >> seat & 1]

    def services(self) -> list[int]:
        """What each of the busy has had."""
        return [self.words[base_of(seat) + SERVICE] for seat in self.busy()]

    def admit(self) -> None:
        """Give turns to whom they are due. Guarded."""
        words = self.words
        while True:
            seats, turns = [], []
            for seat in self.busy():
                weight, width, state, deadline, service, length = _READ.unpack_from(self.file.words, 8 * base_of(seat))
                if state in (WAITING, HOLDING):
                    seats.append(seat)
                    turns.append(Turn(weight, width, deadline, service, length, state == HOLDING))
            at = next_turn(turns, words[WIDTH_AT])
            if at is None:
                return
            begin = base_of(seats[at])
            if not self.file.is_sat_on(seats[at]):
                self.remove(seats[at])
                continue
            words[begin + SINCE] = time.monotonic_ns()
            words[begin + STATE] = HOLDING
            words[begin + BELL] += 1
            self._rung.append(self.file.address(begin + BELL))

    def look(self, but: int) -> str | None:
        """Take their turns from the dead, and from those that do not come to an end; the name of such a one. Guarded.
        `but`: the seat of whoever looks."""
        words, given_up = self.words, None
        for seat in self.busy():
            begin = base_of(seat)
            if seat == but or words[begin + STATE] == IDLE:
                continue
            if not self.file.is_sat_on(seat):
                self.remove(seat)
            elif words[begin + STATE] == HOLDING and self._is_late(begin):
                words[begin + STATE] = IDLE
                given_up = self.file.name(seat)
        return given_up

    def _is_late(self, begin: int) -> bool:
        patience_ns = max(LEAST_PATIENCE_S * _NS, min(STEPS_LONG * self.words[begin + LENGTH], MOST_PATIENCE_S * _NS))
        return not 0 <= time.monotonic_ns() - self.words[begin + SINCE] <= patience_ns

    def sweep(self) -> None:
        """Take away the seats of the dead. Raises DeadlineExceeded."""
        with self.guarded():
            self.sweep_guarded()

    def sweep_guarded(self) -> None:
        taken = self.words[TAKEN_AT]
        for seat in range(SEATS):
            if taken >> seat & 1 and not self.file.is_sat_on(seat):
                self.remove(seat)

    def remove(self, seat: int) -> None:
        """Guarded."""
        self.words[BUSY_AT] &= ~(1 << seat)
        self.words[TAKEN_AT] &= ~(1 << seat)

    def seated(self) -> list[Seated]:
        """As it is just now, the dead among them; nobody waits for it. Raises ValueError where nonsense stands."""
        return [self._seated(seat) for seat in range(SEATS) if self.words[TAKEN_AT] >> seat & 1]

    def _seated(self, seat: int) -> Seated:
        words, begin = self.words, base_of(seat)
        return Seated(
            name=self.file.name(seat),
            weight=words[begin + WEIGHT],
            width=words[begin + WIDTH],
            holds=words[begin + STATE] == HOLDING,
            turns=words[begin + TURNS],
            held_s=words[begin + HELD] / _NS,
            waited_s=words[begin + WAITED] / _NS,
            missed=words[begin + MISSED],
        )
