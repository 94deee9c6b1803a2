"""Ratios from interleaved runs: A B A B, one ratio for each neighbouring pair, and their median with its spread.

The memory of a shared machine changes speed from minute to minute by a factor of two. Neighbours in time share it; two
medians taken minutes apart do not. So a ratio is only ever made within a pair, and where the rate follows memory alone
(one sequence), a pair during which the memory's speed itself moved is refused.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

MAX_PROBE_CHANGE = 0.20
CROWDED = 0.20


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One measurement: tokens per second; what two threads read from memory right before (bytes per second); the share
    of the time in which somebody waited for a processor (None: the kernel does not tell)."""

    rate: float
    probe: float
    waited: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    ours: Run
    peer: Run

    @property
    def ratio(self) -> float:
        return self.ours.rate / self.peer.rate

    @property
    def probe_change(self) -> float:
        """How much faster the memory was in the better of the two moments: 0.2 is 20 %."""
        slow, fast = sorted((self.ours.probe, self.peer.probe))
        return fast / slow - 1

    @property
    def crowded(self) -> bool:
        """Whether other work took the processors away. It counts all the same, but engines whose threads spin at
        barriers suffer from it more than others, so the record says how many pairs were."""
        return any((run.waited or 0.0) > CROWDED for run in (self.ours, self.peer))


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a cell's pairs say. `ratio` and its spread are None if too few pairs count."""

    ratio: float | None
    low: float | None
    high: float | None
    """The quartiles of the pairs' ratios; with fewer than four, the least and the greatest."""
    num_pairs: int
    num_refused: int
    num_crowded: int
    ours: float
    peer: float
    """Medians of all runs, in tokens/s. Their quotient is not `ratio`."""


def judge(pairs: Sequence[Pair], *, follows_memory: bool, least: int = 3) -> Verdict:
    """The median of the pairs that count. Raises ValueError if there are none at all."""
    if not pairs:
        raise ValueError("nothing was measured")
    counted = [pair for pair in pairs if not (follows_memory and pair.probe_change > MAX_PROBE_CHANGE)]
    ratios = sorted(pair.ratio for pair in counted)
    enough = len(ratios) >= min(least, len(pairs))
    low, high = spread(ratios) if enough and ratios else (None, None)
    return Verdict(
        ratio=statistics.median(ratios) if enough and ratios else None,
        low=low,
        high=high,
        num_pairs=len(counted),
        num_refused=len(pairs) - len(counted),
        num_crowded=sum(pair.crowded for pair in counted),
        ours=statistics.median(pair.ours.rate for pair in pairs),
        peer=statistics.median(pair.peer.rate for pair in pairs),
    )


def spread(values: Sequence[float]) -> tuple[float, float]:
    """First and third quartile; least and greatest of fewer than four."""
    if len(values) < 4:
        return min(values), max(values)
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, third


Side = Literal["ours", "peer"]


def order(num_pairs: int) -> Iterable[tuple[Side, Side]]:
    """Who goes first in each pair: A B, B A, A B ... so that a drift of the machine favours nobody."""
    for index in range(num_pairs):
        yield ("ours", "peer") if index % 2 == 0 else ("peer", "ours")
