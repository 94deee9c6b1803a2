"""When what strikes: made from a seed alone, so that a run can be had again.

A fault says what happens and when; whom it strikes is a number in [0, 1) that chooses among those who are there at that
moment, and `span_s` is how long it lasts (a disk stays full, a daemon stays away) or how far into an action it comes.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

BEGIN_S, END_S = 2.0, 12.0
"""Nothing strikes before, and as long before the end: clients are seen to be served at both."""
LEAST_GAP_S = 0.2
GAP_S = 8.0
"""Mean seconds from one fault to the next. Some come while the node still heals from the one before: that is meant."""
OPEN_ENDED = 1.0e9

KINDS: Mapping[str, tuple[int, float, float]] = {
    # kind: (cards in the deck, least and most of span_s)
    "kill_worker": (5, 0.0, 0.0),
    "kill_door": (2, 0.0, 0.0),
    "kill_daemon": (2, 0.1, 4.0),
    "kill_daemon_in_action": (4, 0.0, 0.06),
    "kill_job": (3, 0.0, 0.0),
    "kill_job_and_daemon": (1, 0.1, 3.0),
    "kill_worker_and_daemon": (1, 0.1, 3.0),
    "kill_door_and_daemon": (1, 0.1, 3.0),
    "kill_all": (1, 0.1, 3.0),
    "freeze_worker": (1, 0.5, 3.0),
    "revoke_key": (2, 1.0, 4.0),
    "fill_disk": (1, 5.0, 9.0),
    "fill_disk_and_kill_daemon": (1, 5.0, 9.0),
    "reload": (1, 0.0, 0.0),
    "hand_over": (1, 0.1, 2.0),
    "back_up": (1, 0.0, 0.0),
}
"""All faults there are. Every kind comes once in each deck of cards at least, whatever the seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    number: int
    at_s: float
    """Since the run began."""
    kind: str
    whom: float
    """In [0, 1): who of those that are there."""
    span_s: float

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"no fault {self.kind!r} (there are: {', '.join(sorted(KINDS))})")
        if not 0 <= self.whom < 1:
            raise ValueError(f"`whom` must be in [0, 1), not {self.whom}")
        if self.at_s < 0 or self.span_s < 0:
            raise ValueError("a fault has no negative times")


def make_schedule(seed: int, duration_s: float, *, gap_s: float = GAP_S, kinds: Iterable[str] = KINDS) -> list[Fault]:
    """The faults of one run, in order of time. Equal arguments give equal faults."""
    chance = random.Random(seed)
    cards = [kind for kind in sorted(kinds) for _ in range(KINDS[kind][0])]
    deck: list[str] = []
    faults: list[Fault] = []
    at_s = BEGIN_S
    while at_s < duration_s - END_S:
        if not deck:
            deck = sorted(cards, key=lambda _: chance.random())
        kind = deck.pop()
        _, least_s, most_s = KINDS[kind]
        faults.append(
            Fault(
                number=len(faults),
                at_s=round(at_s, 3),
                kind=kind,
                whom=round(chance.random(), 6) % 1.0,
                span_s=round(least_s + chance.random() * (most_s - least_s), 4),
            )
        )
        at_s += LEAST_GAP_S + chance.expovariate(1.0 / max(1e-3, gap_s - LEAST_GAP_S))
    return faults


def to_json(faults: Iterable[Fault]) -> list[dict[str, Any]]:
    return [asdict(fault) for fault in faults]


def from_json(data: Any) -> list[Fault]:
    """A list of faults, or a record that has one under `schedule`. Raises ValueError for what is neither."""
    items = data.get("schedule") if isinstance(data, dict) else data
    if not isinstance(items, list):
        raise ValueError("neither a list of faults nor a record with a schedule")
    try:
        faults = [Fault(**item) for item in items]
    except TypeError as error:
        raise ValueError(f"not a fault: {error}") from error
    return sorted(faults, key=lambda fault: (fault.at_s, fault.number))
