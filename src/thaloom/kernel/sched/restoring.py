"""Whether keys and values that left the device are brought back, or computed again: whatever takes less time.

What moving a block takes is learned from the blocks that were moved, what computing it takes from the steps
(`step_times`). Where neither is known yet, blocks are moved: one has to be, before anybody knows.

A prompt has to be brought back from its beginning on, and computed from where that ends. Each block more costs the same
to bring, and the later ones more to compute, for they attend to all before them: so of blocks that come from one place
either all are worth it or none is, and only where the place changes is there anything to weigh.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Sequence
from itertools import groupby
from typing import Literal

from thaloom.hal.ops import BLOCK_TOKENS
from thaloom.kernel.sched.step_times import StepTimes, rows_from

Place = Literal["host", "disk"]
Way = Literal["out", "host", "disk"]
"""`out`: from the device to the host; the others: from there to the device."""
SAMPLES = 32
"""Enough that a few disturbed moves do not count."""
PATIENCE = 256
"""Blocks that were left where they are because moving seemed too slow; then it is tried again, for it may have been a
bad minute."""


class MoveTimes:
    """Seconds that a block takes on each way: the middle one of the latest. One thread at a time; no clock."""

    def __init__(self) -> None:
        self._kept: dict[Way, deque[float]] = {}
        self._refused: dict[Way, int] = {}

    def add(self, way: Way, seconds: float) -> None:
        """One block was moved."""
        self._kept.setdefault(way, deque(maxlen=SAMPLES)).append(seconds)
        self._refused[way] = 0

    def refuse(self, way: Way, num_blocks: int) -> None:
        """So many were not moved, because it did not seem worth it."""
        self._refused[way] = self._refused.get(way, 0) + num_blocks
        if self._refused[way] >= PATIENCE:
            self._kept.pop(way, None)
            self._refused[way] = 0

    def refuse_all(self, places: Sequence[Place]) -> None:
        """Blocks were left in these."""
        for place, run in groupby(places):
            self.refuse(place, sum(1 for _ in run))

    def seconds(self, way: Way) -> float:
        """0 where nothing is known."""
        kept = self._kept.get(way)
        return statistics.median(kept) if kept else 0.0


def blocks_to_bring(
    places: Sequence[Place], start: int, end: int, *, chunk_tokens: int, times: StepTimes | None, moves: MoveTimes
) -> int:
    """How many of the blocks that follow position `start`, each to be had from its place, are worth bringing, if all
    up to `end` has to be there in the end."""
    if times is None:
        return len(places)
    best, best_s = 0, _computing_s(start, end, chunk_tokens, times)
    count, moving_s = 0, 0.0
    for place, run in groupby(places):
        number = sum(1 for _ in run)
        count += number
        moving_s += number * moves.seconds(place)
        total_s = moving_s + _computing_s(start + count * BLOCK_TOKENS, end, chunk_tokens, times)
        if total_s <= best_s:
            best, best_s = count, total_s
    return best


def saved_s(*, chunk_tokens: int, times: StepTimes | None, moves: MoveTimes) -> float | None:
    """Seconds that a block saves if it leaves for the host and is brought back from there once, and not computed in a
    step of full chunks, at the beginning of a prompt; None where that is not known. 0 or less: let it go."""
    if times is None:
        return None
    computing_s = times.seconds(rows_from(0, chunk_tokens)) * min(1.0, BLOCK_TOKENS / chunk_tokens)
    return computing_s - moves.seconds("out") - moves.seconds("host")


def _computing_s(start: int, end: int, chunk_tokens: int, times: StepTimes) -> float:
    """All of it, in whole chunks, with nobody else in the steps."""
    return sum(
        times.seconds(rows_from(first, min(chunk_tokens, end - first), outputs=1))
        for first in range(start, end, chunk_tokens)
    )
