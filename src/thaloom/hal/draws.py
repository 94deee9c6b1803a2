"""From a row of logits to one token: what a draw is, and, in NumPy, which token is the right one.

Probabilities are held as whole numbers, in units of 2^-44 of the likeliest token's. Sums of whole numbers do not
depend on their order, so a driver may cut the vocabulary among threads, skip what weighs nothing and never sort, and
still draws the same token to the last one. What the unit loses, less than one part in 10^8 of all probability in a
vocabulary of 150,000, is far below the rounding of the logits themselves.

The one function that is not exact, exp, is spelled out in multiplications and additions for the same reason: two
mathematical libraries seldom agree on the last bit, and then on no sum.

Shapes: V vocabulary. `(V,)` rows of finite float32.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Row = NDArray[np.float32]
Weights = NDArray[np.int64]
"""(V,) probabilities in units of 2^-44 of the likeliest token's; 0 for what is filtered out."""

UNIT = 1 << 44
FLOOR = -32.0
"""Logarithms below it weigh nothing: exp(-32) is a quarter of a unit."""
UNIFORM_STEPS = 1 << 53
MAX_FURTHER = 6

_LOG2_E = 1.4426950408889634
_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
"""ln 2 in two parts; the first has 32 bits, so that its product with a small whole number is exact."""
_EXP = tuple(1.0 / math.factorial(power) for power in range(11, -1, -1))
"""Taylor's series to the 11th power: off by 6e-15 at most for |x| <= ln(2) / 2."""


Allowed = NDArray[np.uint32]
"""(ceil(V / 32),) one bit for each token, the lowest first: whether it may be drawn. Bits beyond V mean nothing."""
EDIT = np.dtype([("token", np.int32), ("scale", np.float32), ("add", np.float32)])
Edits = NDArray[np.void]
"""(E,) of EDIT: what is done to the logits of some tokens, one after the other: x / scale where x is positive, else
x * scale; then + add; what is too large for a float becomes the largest. Scales are positive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """How one row becomes a token: edits, then only what is allowed, then temperature, top-k, top-p, min-p, then one
    draw by a number given from outside.

    temperature 0 is greedy: the highest logit, the lower id on a tie; of the rest only `num_top` is then looked at.
    """

    temperature: float = 0.0
    top_k: int = 0
    """Only the k likeliest; 0: all. A tie goes to the lower id, here and below."""
    top_p: float = 1.0
    """Only the fewest, likeliest first, whose probabilities reach this share of what top-k left; at least one."""
    min_p: float = 0.0
    """Only those at least this fraction as likely as the likeliest."""
    uniform: float = 0.0
    """In [0, 1), a multiple of 2^-53: where in the distribution the token lies, by increasing id."""
    further: tuple[float, ...] = ()
    """As `uniform`, at most MAX_FURTHER: each gives one more token, drawn from what those before it leave, for next to
    nothing. A greedy draw has none."""
    num_top: int | None = None
    """How many of the likeliest to report, with logarithms of probabilities. None: neither."""
    report: tuple[int, ...] = ()
    """Tokens whose logarithms of probabilities are reported too, if any are."""
    edits: Edits | None = field(default=None, compare=False)
    allowed: Allowed | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not (0.0 <= self.temperature < math.inf and self.top_k >= 0 and 0.0 < self.top_p <= 1.0):
            raise ValueError(f"impossible draw: {self}")
        if not (0.0 <= self.min_p <= 1.0 and 0.0 <= self.uniform < 1.0 and (self.num_top or 0) >= 0):
            raise ValueError(f"impossible draw: {self}")
        if self.further and (
            len(self.further) > MAX_FURTHER or not 0.0 <= min(self.further) <= max(self.further) < 1.0
        ):
            raise ValueError(f"impossible draw: {self}")

    @property
    def is_greedy(self) -> bool:
        """Whether it is the highest logit's token as the model gave it, and nothing more is asked."""
        return self.temperature == 0.0 and self.num_top is None and self.edits is None and self.allowed is None

    @property
    def uniform_steps(self) -> int:
        """`uniform` in steps of 2^-53."""
        return int(self.uniform * UNIFORM_STEPS)

    @property
    def further_steps(self) -> tuple[int, ...]:
        return tuple(int(uniform * UNIFORM_STEPS) for uniform in self.further)


@dataclass(frozen=True, slots=True, kw_only=True)
class Logprobs:
    """Natural logarithms of the model's own probabilities: before edits, temperature and filters."""

    chosen: float
    top_tokens: tuple[int, ...]
    top_logprobs: tuple[float, ...]
    reported: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    token: int
    """-1 where a logit was not finite (no token is better than a random one that looks like an answer), or where no
    token was allowed."""
    num_not_finite: int = 0
    logprobs: Logprobs | None = None
    further: tuple[int, ...] = ()
    """More tokens, in order, all different; fewer than the draw has numbers for where nothing more weighs anything."""
    further_logprobs: tuple[Logprobs, ...] = ()
    """Of each of them, where they are asked for."""

    def each(self) -> Iterator[Drawn]:
        """What was drawn first, and each of the further ones as if it had been."""
        yield self
        for place, token in enumerate(self.further):
            yield Drawn(token=token, logprobs=self.further_logprobs[place] if self.further_logprobs else None)


def draw(logits: Row, wish: Draw) -> Drawn:
    """The definition. A driver that draws by itself (`driver.SamplesNatively`) gives the same, to the last bit."""
    num_not_finite = logits.size - int(np.count_nonzero(np.isfinite(logits)))
    if num_not_finite:
        return Drawn(token=-1, num_not_finite=num_not_finite)
    edited = edit(logits, wish)
    if edited.max() == -np.inf:
        return Drawn(token=-1)
    if wish.temperature == 0:
        tokens = [int(np.argmax(edited))]
    else:
        tokens = pick_different(candidates(edited, wish), (wish.uniform_steps, *wish.further_steps))
    if wish.num_top is None:
        return drawn(tokens)
    top = likeliest(logits, wish.num_top)
    total = int(weigh(logits, 1.0).sum())
    highest = float(logits.max())
    return drawn(tokens, [logprobs(logits, token, top, wish, highest=highest, total=total) for token in tokens])


def drawn(tokens: Sequence[int], reports: Sequence[Logprobs] = ()) -> Drawn:
    """Of the token and the further ones, in order; `reports` of each, or of none."""
    first = reports[0] if reports else None
    return Drawn(token=tokens[0], logprobs=first, further=tuple(tokens[1:]), further_logprobs=tuple(reports[1:]))


def edit(logits: Row, wish: Draw) -> Row:
    """The row to draw from: a copy, unless there is nothing to do; -infinity for what is not allowed."""
    if wish.edits is None and wish.allowed is None:
        return logits
    edited = logits.copy()
    largest = np.finfo(np.float32).max
    with np.errstate(over="ignore"):
        for token, scale, add in () if wish.edits is None else wish.edits:
            x = edited[token]
            edited[token] = np.clip((x / scale if x > 0 else x * scale) + add, -largest, largest)
    if wish.allowed is not None:
        bits = np.unpackbits(wish.allowed.astype("<u4").view(np.uint8), bitorder="little")
        edited[bits[: logits.size] == 0] = -np.inf
    return edited


def logprobs(logits: Row, token: int, top: NDArray[np.integer], wish: Draw, *, highest: float, total: int) -> Logprobs:
    """Of the chosen token, of `top` and of what the wish names. `highest`: the highest logit; `total`: all weights at
    temperature 1."""
    normaliser = math.log(total / UNIT)

    def of(index: int) -> float:
        return float(logits[index]) - highest - normaliser

    return Logprobs(
        chosen=of(token),
        top_tokens=tuple(int(index) for index in top),
        top_logprobs=tuple(of(int(index)) for index in top),
        reported=tuple(of(index) for index in wish.report),
    )


def candidates(logits: Row, wish: Draw) -> Weights:
    """What temperature (above 0), top-k, top-p and min-p leave, in that order."""
    weights = weigh(logits, wish.temperature)
    if 0 < wish.top_k < logits.size:
        weights = _only(weights, likeliest(logits, wish.top_k))
    if wish.top_p < 1.0:
        weights = _only(weights, _fewest(logits, weights, wish.top_p))
    if wish.min_p > 0.0:
        weights[weights < wish.min_p * UNIT] = 0
    return weights


def pick(weights: Weights, uniform_steps: int) -> int:
    """The first token, by id, at which the running sum passes `uniform_steps` * 2^-53 of the whole."""
    edges = np.cumsum(weights)
    return int(np.searchsorted(edges, int(edges[-1]) * uniform_steps >> 53, side="right"))


def pick_different(weights: Weights, uniform_steps: Sequence[int]) -> list[int]:
    """A token for each number, picked from what those before it leave: fewer where that is nothing. Changes `weights`.

    Whoever takes the first that may be taken has drawn from those that may: what is refused is left out as it is met.
    """
    tokens: list[int] = []
    for steps in uniform_steps:
        if not weights.any():
            break
        tokens.append(pick(weights, steps))
        weights[tokens[-1]] = 0
    return tokens


def weigh(logits: Row, temperature: float) -> Weights:
    """exp((logit - highest) / temperature) in units, to the nearest, ties to even."""
    with np.errstate(over="ignore"):  # the tiniest temperatures have no inverse; -inf, of weight 0, is what is meant
        inverse = min(np.float64(1.0) / temperature, sys.float_info.max)
        scaled = (logits.astype(np.float64) - float(logits.max())) * inverse
    weights = np.zeros(logits.size, np.int64)
    alive = scaled >= FLOOR
    weights[alive] = np.rint(exp(scaled[alive]) * UNIT)
    return weights


def exp(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """e^x for x in [FLOOR, 0], to some 10^-14: 2^n * e^r with a whole n, |r| <= ln(2) / 2. No fused operations."""
    n = np.rint(x * _LOG2_E)
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    result = np.full_like(r, _EXP[0])
    for coefficient in _EXP[1:]:
        result = result * r + coefficient
    return np.ldexp(result, n.astype(np.int32))


def likeliest(logits: Row, count: int) -> NDArray[np.intp]:
    """The `count` highest, highest first, the lower id on a tie; all if there are no more."""
    if count == 0:
        return np.empty(0, np.intp)
    if count >= logits.size:
        return np.argsort(-logits, kind="stable")
    lowest = np.partition(logits, logits.size - count)[logits.size - count]
    found = np.flatnonzero(logits >= lowest)  # more than `count` only where the last place is tied
    return found[np.argsort(-logits[found], kind="stable")][:count]


def _fewest(logits: Row, weights: Weights, share: float) -> NDArray[np.intp]:
    """The fewest, likeliest first, whose sum reaches `share` of all. Looks at 256, then at eight times as many, and so
    on: sorting a whole vocabulary would cost more than everything else here."""
    total = int(weights.sum())
    needed = min(total, math.ceil(share * float(total)))  # the product may round to more than there is
    count = 256
    while True:
        order = likeliest(logits, count)  # those that top-k removed come last, with no weight
        edges = np.cumsum(weights[order])
        if edges[-1] >= needed or count >= weights.size:
            return order[: int(np.searchsorted(edges, needed, side="left")) + 1]
        count *= 8


def _only(weights: Weights, kept: NDArray[np.intp]) -> Weights:
    result = np.zeros_like(weights)
    result[kept] = weights[kept]
    return result
