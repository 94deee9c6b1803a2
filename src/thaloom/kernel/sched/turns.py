"""Whose step goes next on a device that several models share: pure.

A step cannot be interrupted, so turns are given one by one, as in start-time fair queueing. What a worker was given is
counted in *service*: time divided by weight. Who waits and has had no more than SLACK_NS beyond the one that has had
the least is within its share, and of those the earliest deadline goes. So a deadline decides between two tokens, and
never who gets how much; whoever waits becomes the one that has had least, as all others are served.

A device has a *width* (cores of a host, 1 elsewhere), and a step takes as much of it as it has threads: those that fit
beside each other go beside each other.

Two kinds do not wait, for the system gives them the cores they need sooner than the holder's step could end: whoever
would wait much longer than its own step takes (PASSES), so that a token does not wait for a prompt; and, unless
EQUALS_WAIT, whoever weighs as much as the holder, or more. A lighter one waits in any case.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

SLACK_NS = 50_000_000
"""Of service at NORMAL weight. Some tokens' worth: less, and deadlines would decide nothing; more, and who comes back
from a pause would keep others waiting for a time that people notice."""
NORMAL = 100
"""The weight at which a second of service is a second."""
PASSES = 10
"""Times: a step of equal weight that is so much longer, or one of equal length that weighs so much less."""
EQUALS_WAIT = False
"""Whether workers of equal weight take turns with each other. On a host that does other things too, as every node does
at its door, they would lose: who waits leaves its part of the cores to everybody else (decision 0036)."""
PROMPTS_WAIT = 10
"""A step without a token that somebody waits for is due so many times later than one with."""


class Turn(NamedTuple):
    """Of one worker, the step that it waits to begin, or that it is at."""

    weight: int
    width: int
    deadline_ns: int
    service_ns: int
    length_ns: int
    """What the step is expected to take; 0: nobody knows."""
    holds: bool


def next_turn(turns: Sequence[Turn], width: int) -> int | None:
    """Which of those that wait begins now; None where it does not fit beside those who are at it, or nobody waits. The
    choice is made before it is seen whether it fits: else narrow steps would keep a wide one out for good."""
    waiting = [at for at, turn in enumerate(turns) if not turn.holds]
    if not waiting:
        return None
    least = min(turns[at].service_ns for at in waiting)
    within = [at for at in waiting if turns[at].service_ns <= least + SLACK_NS]
    chosen = min(within, key=lambda at: (turns[at].deadline_ns, turns[at].service_ns))
    return chosen if _fits(turns[chosen], (turn for turn in turns if turn.holds), width) else None


def _fits(turn: Turn, holders: Iterable[Turn], width: int) -> bool:
    """Alone everything fits, however wide."""
    taken = sum(max(1, holder.width) for holder in holders if not passes(turn, holder))
    return taken == 0 or taken + turn.width <= width


def passes(turn: Turn, holder: Turn) -> bool:
    if turn.weight >= holder.weight and not EQUALS_WAIT:
        return True
    known = turn.length_ns > 0 and holder.length_ns > 0
    own_ns, its_ns = (turn.length_ns, holder.length_ns) if known else (1, 1)
    return turn.weight * its_ns >= PASSES * holder.weight * own_ns


def served(service_ns: int, held_ns: int, weight: int) -> int:
    """What a worker has had, after a turn of `held_ns`."""
    return service_ns + max(0, held_ns) * NORMAL // max(1, weight)


def rejoined(service_ns: int, others: Sequence[int]) -> int:
    """What a worker that had nothing to do counts as having had, beside those that have: it is owed nothing for the
    time that it wanted nothing, and what it had too much while it was alone is forgotten."""
    least = min(others, default=service_ns)
    return min(max(service_ns, least), least + SLACK_NS)


def due_ns(now_ns: int, token_s: float, *, decodes: bool) -> int:
    """When a step should begin that is ready now."""
    return now_ns + int(token_s * 1e9) * (1 if decodes else PROMPTS_WAIT)
