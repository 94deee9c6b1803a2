"""How many guessed tokens each sequence may have verified in a step.

A guess costs a row. While a step waits for memory rows are nearly free and almost any guess pays; once it computes,
a row costs as much as it ever brings. So guesses are taken one by one, the likeliest first, while each makes the step
do more useful work per second, at the prices that were measured (`StepTimes`) and the chances that were measured.

Nobody pays for another's guesses: a step is made longer than `NEARLY_FREE` only when every sequence in it is expected
to come forward by at least as much.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import NamedTuple

from thaloom.kernel.sched.chunks import NEARLY_FREE
from thaloom.kernel.sched.step_times import StepShape, StepTimes

DRAFT_ROWS = 16
"""Guesses in a step, for all sequences together, that an engine sets memory aside for unless told otherwise."""
MARGIN = 1.1
"""A guess must bring a tenth more than it costs: prices and chances are estimates."""


class Offer(NamedTuple):
    """A sequence of `length` tokens that decodes, and for which up to `most` tokens could be guessed.

    The first guess is right with the chance `first`, each further one, if those before were, with the chance `then`.
    """

    length: int
    most: int
    first: float
    then: float


def choose_drafts(offers: Sequence[Offer], shape: StepShape, most_rows: int, times: StepTimes | None) -> list[int]:
    """Guesses for each offer, `most_rows` together at most. `shape`: the step without any of them.

    `offers` has an entry for every sequence of the step that decodes, with `most` = 0 where nothing can be guessed.
    None at all while prices are not known.
    """
    counts = [0] * len(offers)
    if times is None:
        return counts
    best = [(-offer.first, index) for index, offer in enumerate(offers) if offer.most > 0]
    heapq.heapify(best)
    plain_s = now_s = times.seconds(shape)
    work = float(shape.rows)
    forward = [1.0] * len(offers)
    while best and most_rows:
        negative, index = heapq.heappop(best)
        offer, chance = offers[index], -negative
        longer = shape.plus(StepShape(1, 1, offer.length + counts[index] + 1))
        then_s = times.seconds(longer)
        if chance * now_s <= MARGIN * work * (then_s - now_s):
            continue
        forward[index] += chance
        if then_s > NEARLY_FREE * plain_s and min(forward) * plain_s < then_s:
            forward[index] -= chance
            continue
        counts[index] += 1
        shape, now_s, work, most_rows = longer, then_s, work + chance, most_rows - 1
        if counts[index] < offer.most:
            heapq.heappush(best, (-chance * offer.then, index))
    return counts
