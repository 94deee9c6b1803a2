"""What was refused is told: as an event each time something new is, and in the journal, both bounded, so that nobody
can fill a disk by asking.

Who is not known has a room of his own, so that a stranger's guesses drive nobody else's refusals out of it; and one who
is known has no more than a part of the room of those.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import Protocol

from thaloom.base.clock import Clock
from thaloom.base.errors import ThaloomError
from thaloom.base.events import Emit
from thaloom.init.events import AccessRefused
from thaloom.kernel.state.journal import Journal

REFUSED = "access.refuse"
SAME_S = 60.0
"""One and the same refusal is told once within it."""
MOST_AN_HOUR = 30
"""Refusals in the journal of those who are not known, and as many of those who are: of 100,000 entries it keeps, so
many an hour drive out what is worth keeping only after two months."""
MOST_OF_ONE = 10
"""Of them, of one who is known."""
STRANGERS = "address:"
"""How one who is not known is called: by where he is."""
_HOUR_S = 3600.0
_MOST_REMEMBERED = 256


class Telling(Protocol):
    """What tells of refusals; `Refusals` is the one there is."""

    def __call__(
        self, who: str, what: str, code: str, message: str, *, subject: str | None = None, num: int = 1
    ) -> None: ...


def untold(who: str, what: str, code: str, message: str, *, subject: str | None = None, num: int = 1) -> None:
    """Where nobody keeps account."""


class Refusals:
    """For one thread."""

    def __init__(self, journal: Journal, clock: Clock, emit: Emit) -> None:
        self._journal = journal
        self._clock = clock
        self._emit = emit
        self._told: dict[tuple[str, str, str | None], float] = {}
        self._strangers, self._known = _Room(of_one=MOST_AN_HOUR), _Room(of_one=MOST_OF_ONE)

    def __call__(
        self, who: str, what: str, code: str, message: str, *, subject: str | None = None, num: int = 1
    ) -> None:
        """`who` was refused `what` (an action's kind, or a request), `num` times since this was last told; `subject`:
        of which thing, as `service/chat`."""
        now, one = self._clock.monotonic(), (who, what, subject)
        room = self._strangers if who.startswith(STRANGERS) else self._known
        if now - self._told.get(one, -SAME_S) < SAME_S or not room.takes(who, now):
            room.num_untold += num
            return
        self._told.pop(one, None)
        self._told[one] = now
        if len(self._told) > _MOST_REMEMBERED:
            del self._told[next(iter(self._told))]
        others, room.num_untold = room.num_untold + num - 1, 0
        self._emit(AccessRefused(who=who, what=what, code=code, message=message, untold=others))
        record = {"who": who, "what": what, "code": code, "message": message, "untold": others}
        if subject is not None:
            record["subject"] = subject
        with contextlib.suppress(ThaloomError):  # no room on the disk: it is refused all the same, and was told above
            self._journal.append(REFUSED, record, by=who)


class _Room:
    """For so many an hour."""

    def __init__(self, *, of_one: int) -> None:
        self.num_untold = 0
        self._of_one = of_one
        self._from = -_HOUR_S
        self._told: Counter[str] = Counter()

    def takes(self, who: str, now: float) -> bool:
        if now - self._from >= _HOUR_S:
            self._from, self._told = now, Counter()
        if self._told.total() >= MOST_AN_HOUR or self._told[who] >= self._of_one:
            return False
        self._told[who] += 1
        return True
