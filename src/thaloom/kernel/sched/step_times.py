"""How long a step takes, learned from the steps that were taken.

A step's time is close to a straight line: something for being a step at all (the weights are read once, whatever it
holds), something for each row, each output, and each pair of a row and a position it attends to. On top of that,
processors have tastes (tiles, caches), which a factor for each range of rows catches.

`StepHistory` keeps the latest few steps of each range of rows, so that what a step of 512 rows took is still known
after an hour of single rows; `fit` makes a `StepTimes` of them. No clock: seconds are handed in.
"""

from __future__ import annotations

import math
from bisect import bisect
from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SAMPLES_PER_RANGE = 16
"""Enough for a median that a few disturbed steps do not move, few enough to forget a slow minute within a second."""
REFIT_STEPS = 64
"""A fit costs about as much as five bare steps of the engine: at one in 64, it is not seen."""
LEAST_SPREAD = 4
"""Steps of so many times more rows than others must have been seen before base and slope can be told apart."""
_ROUNDS = 3
_RIDGE = np.array([1e-9, 1e-6, 1e-3, 1e-3])
"""What no step tells apart (a batch that never changes has as many outputs in every step) counts as the cost of being
a step: so that a guess seems cheap, is tried, and then its price is known."""
_DISTURBED = 0.15
"""Relative residual from which a step counts less and less (Huber's rule)."""


class StepShape(NamedTuple):
    """What a step's time depends on. `attended`: pairs of a row and a position it sees."""

    rows: int
    outputs: int
    attended: int

    def plus(self, other: StepShape) -> StepShape:
        return StepShape(self.rows + other.rows, self.outputs + other.outputs, self.attended + other.attended)


NO_ROWS = StepShape(0, 0, 0)


def rows_from(start: int, count: int, *, outputs: int = 0) -> StepShape:
    """`count` rows of one sequence, the first at position `start`."""
    return StepShape(count, outputs, count * start + count * (count + 1) // 2)


class StepTimes(NamedTuple):
    """A fit. `factors` multiply the straight line at the (log2 of) rows `centres`, and in between by interpolation."""

    base_s: float
    row_s: float
    output_s: float
    attended_s: float
    centres: tuple[float, ...] = ()
    factors: tuple[float, ...] = ()

    def seconds(self, shape: StepShape) -> float:
        rows, outputs, attended = shape
        line = self.base_s + rows * self.row_s + outputs * self.output_s + attended * self.attended_s
        return line * self._factor(rows)

    def _factor(self, rows: int) -> float:
        centres, factors = self.centres, self.factors
        if not centres:
            return 1.0
        at = math.log2(rows) if rows > 1 else 0.0
        right = bisect(centres, at)
        if right == 0 or right == len(centres):
            return factors[max(right - 1, 0)]
        left = right - 1
        share = (at - centres[left]) / (centres[right] - centres[left])
        return factors[left] + share * (factors[right] - factors[left])


class StepHistory:
    """The latest steps of each range of rows, and the fit to them."""

    def __init__(self) -> None:
        self._ranges: dict[int, deque[tuple[StepShape, float]]] = {}
        self._since_fit = 0
        self._next_fit = 1
        self.times: StepTimes | None = None
        """None until steps of very different sizes have been seen."""

    def expected_s(self, shape: StepShape) -> float:
        """By the fit; before there is one, what the latest of about as many rows took, 0 if there was none."""
        if self.times is not None:
            return self.times.seconds(shape)
        kept = self._ranges.get(_range_of(shape.rows))
        return kept[-1][1] if kept else 0.0

    def add(self, shape: StepShape, seconds: float) -> None:
        """One step that was taken. One that took no time at all (made-up clocks) says nothing."""
        if seconds <= 0 or shape.rows < 1:
            return
        kept = self._ranges.get(_range_of(shape.rows))
        if kept is None:
            kept = self._ranges[_range_of(shape.rows)] = deque(maxlen=SAMPLES_PER_RANGE)
            self._next_fit = 1  # a size never seen before: worth looking at once
        kept.append((shape, seconds))
        self._since_fit += 1
        if self._since_fit >= self._next_fit:
            self._since_fit, self._next_fit = 0, min(2 * self._next_fit, REFIT_STEPS)
            self.times = fit(self._ranges.values())


def _range_of(rows: int) -> int:
    """Two ranges for each power of two."""
    return int(2 * math.log2(rows))


def fit(ranges: Iterable[Sequence[tuple[StepShape, float]]]) -> StepTimes | None:
    """None while the steps are too alike to tell what a row costs.

    Least squares of relative differences, none of the four costs negative, disturbed steps counted less; each range
    of rows has the same say however many of its steps are known.
    """
    kept = sorted((list(steps) for steps in ranges if steps), key=lambda steps: steps[0][0].rows)
    rows = [shape.rows for steps in kept for shape, _ in steps]
    if not rows or max(rows) < LEAST_SPREAD * min(rows):
        return None
    shapes = np.array([(1, *shape) for steps in kept for shape, _ in steps], dtype=np.float64)
    seconds = np.array([taken for steps in kept for _, taken in steps], dtype=np.float64)
    say = np.concatenate([np.full(len(steps), 1 / len(steps)) for steps in kept])
    scaled = shapes / seconds[:, None]
    weights = say
    for _ in range(_ROUNDS):
        costs = _least_squares(scaled, weights)
        residuals = np.abs(scaled @ costs - 1)
        weights = say * np.minimum(1, _DISTURBED / np.maximum(residuals, _DISTURBED))
    line = shapes @ costs
    if not (line > 0).all():
        return None
    ratios = np.split(seconds / line, np.cumsum([len(steps) for steps in kept])[:-1])
    centres = [sum(math.log2(shape.rows) for shape, _ in steps) / len(steps) for steps in kept]
    factors = [float(np.median(each)) for each in ratios]
    base_s, row_s, output_s, attended_s = costs.tolist()
    return StepTimes(base_s, row_s, output_s, attended_s, tuple(centres), tuple(factors))


def _least_squares(scaled: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Costs >= 0 that bring `scaled @ costs` closest to 1: what comes out negative is left out, the worst first."""
    size = np.sqrt(np.einsum("ij,ij->j", scaled, scaled))
    size[size == 0] = 1.0
    even = scaled / size
    products = (even * weights[:, None]).T @ even + np.diag(_RIDGE)
    wanted = even.T @ weights
    used = list(range(len(size)))
    costs = np.zeros(len(size))
    while used:
        found = np.linalg.solve(products[np.ix_(used, used)], wanted[used])
        if (found >= 0).all():
            costs[used] = found / size[used]
            break
        used.pop(int(np.argmin(found)))
    return costs
