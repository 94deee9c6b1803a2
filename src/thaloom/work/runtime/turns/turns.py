"""Turns of one engine at its device: taken around what the device computes, where others compute there too."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from thaloom.base.errors import DeadlineExceeded, StateUnusable, ThaloomError
from thaloom.base.events import Emit
from thaloom.kernel.sched.turns import due_ns
from thaloom.work.runtime.events import TurnMissed, TurnsNotTaken
from thaloom.work.runtime.spec import WorkerSpec
from thaloom.work.runtime.turns.place import AT_ONCE, Place, Taken
from thaloom.work.runtime.turns.turnstile import Turnstile

SHORT_NS = 1_000_000
"""Steps that are quicker take no turns: to hand a turn over takes the better part of 100 microseconds, in which nobody
computes, while such a step is over before the system would have interrupted it."""
_FADING = 64
"""The quickest step that is remembered grows by such a part with each that is slower: hundreds of them, and it is
believed that none is as quick any more."""
TELL_S = 60.0
"""Missed turns are counted, and told this often at most."""


class Turns(Protocol):
    """All but `close` on the engine's thread."""

    def take(self, decodes: bool, expected_s: float, /) -> Taken:
        """Before a step. `decodes`: whether somebody waits for a token of it. `expected_s`: what it takes; 0: nobody
        knows."""
        ...

    def give(self, completed: bool, /) -> None:
        """After it, however it ended. `completed`: it computed what it was to compute."""
        ...

    def rest(self) -> None:
        """There is nothing to do."""
        ...

    def close(self) -> None:
        """When no thread uses it any more."""
        ...


class NoTurns:
    """A device of one's own, or one where nobody keeps the order."""

    def take(self, _decodes: bool, _expected_s: float, /) -> Taken:
        return AT_ONCE

    def give(self, _completed: bool, /) -> None:
        pass

    def rest(self) -> None:
        pass

    def close(self) -> None:
        pass


class SharedTurns:
    """By a turnstile; without one from the moment on that nonsense is found there."""

    def __init__(
        self,
        turnstile: Turnstile,
        place: Place,
        *,
        token_s: float,
        missed: Callable[[str], None],
        lost: Callable[[str], None],
    ) -> None:
        """`missed`, `lost`: are told why one turn was none, and why there will be none from now on."""
        self._turnstile = turnstile
        self._place: Place | None = place
        self._token_s = token_s
        self._missed = missed
        self._lost = lost
        self._begun_ns = self._quickest_ns = 0

    def take(self, decodes: bool, expected_s: float, /) -> Taken:
        taken = AT_ONCE if self._quickest_ns < SHORT_NS else self._take(decodes, expected_s)
        self._begun_ns = time.monotonic_ns()
        return taken

    def _take(self, decodes: bool, expected_s: float) -> Taken:
        if self._place is None:
            return AT_ONCE
        try:
            due = due_ns(time.monotonic_ns(), self._token_s, decodes=decodes)
            taken = self._place.take(due, int(expected_s * 1e9))
        except ValueError as error:
            self._lose(error)
            return AT_ONCE
        if taken.missed is not None:
            self._missed(taken.missed)
        return taken

    def give(self, completed: bool, /) -> None:
        if completed:  # one that failed at once says nothing of how long a step takes
            held_ns = time.monotonic_ns() - self._begun_ns
            faded_ns = self._quickest_ns + self._quickest_ns // _FADING
            self._quickest_ns = min(held_ns, faded_ns) if self._quickest_ns else held_ns
        if self._place is not None:
            try:
                self._place.give()
            except ValueError as error:
                self._lose(error)

    def rest(self) -> None:
        if self._place is not None:
            self._place.rest()

    def close(self) -> None:
        if self._place is not None:
            self._place.leave()
        self._turnstile.close()

    def _lose(self, error: Exception) -> None:
        if self._place is not None:
            self._place.leave()
        self._place = None
        self._lost(f"nonsense stands in the turnstile: {error}")


def join_turns(spec: WorkerSpec, num_threads: int, num_cores: int, emit: Emit) -> Turns:
    """A place at the turnstile of the spec; none, and told, where there is no such. `num_cores`: of the device."""
    if spec.turns is None:
        return NoTurns()

    def lost(message: str) -> None:
        emit(TurnsNotTaken(worker=spec.worker, service=spec.service, message=message))

    turnstile: Turnstile | None = None
    try:
        turnstile = Turnstile.open(Path(spec.turns))
        place = turnstile.join(spec.worker, weight=spec.turn_weight, width=min(num_threads, width_of(num_cores)))
    except (OSError, ValueError, StateUnusable, DeadlineExceeded) as error:
        if turnstile is not None:
            turnstile.close()
        lost(error.message if isinstance(error, ThaloomError) else str(error))
        return NoTurns()
    return SharedTurns(turnstile, place, token_s=spec.token_s, missed=_Missed(spec, emit), lost=lost)


def width_of(num_cores: int) -> int:
    """How many threads compute on a device at the same time without taking a core from each other."""
    return max(1, num_cores)


class _Missed:
    """Tells it now and then."""

    def __init__(self, spec: WorkerSpec, emit: Emit) -> None:
        self._spec = spec
        self._emit = emit
        self._silent_until = 0.0

    def __call__(self, reason: str) -> None:
        now = time.monotonic()
        if now >= self._silent_until:
            self._silent_until = now + TELL_S
            self._emit(TurnMissed(worker=self._spec.worker, service=self._spec.service, reason=reason))
