"""From a row of logits to one token, in NumPy, the same whatever else runs.

Shapes: V vocabulary. Everything is computed in float64 from float32 logits. The draw for a position comes from a
counter-based generator keyed by (seed, position): it needs no state, so neither neighbours nor a preemption change it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thaloom.base.errors import InternalError
from thaloom.work.runtime.types import Sampling

Row = NDArray[np.float32]
"""(V,) logits of one position."""
Row64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Logprobs:
    """Natural logarithms of the model's own probabilities: before temperature and filters."""

    chosen: float
    top_tokens: tuple[int, ...]
    top_logprobs: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    token: int
    logprobs: Logprobs | None


def choose(logits: Row, sampling: Sampling, *, position: int, num_top: int | None) -> Choice:
    """The token at `position` (0 is the prompt's first). `num_top`: how many likeliest to report, None: no logprobs.

    `sampling.seed` must be set unless temperature is 0. Raises InternalError if a logit is not finite: no token is
    better than a random one that looks like an answer.
    """
    if not np.isfinite(logits).all():
        raise InternalError(
            f"the model gave {_count_bad(logits)} logits that are not finite for position {position}", position=position
        )
    token = int(np.argmax(logits)) if sampling.temperature == 0 else _draw(logits, sampling, position)
    return Choice(token=token, logprobs=None if num_top is None else logprobs(logits, token, num_top))


def _count_bad(logits: Row) -> int:
    return int(logits.size - np.count_nonzero(np.isfinite(logits)))


def _draw(logits: Row, sampling: Sampling, position: int) -> int:
    tokens, weights = candidates(logits, sampling)
    edges = np.cumsum(weights)
    index = int(np.searchsorted(edges, uniform(sampling.seed or 0, position) * edges[-1], side="right"))
    if index == edges.size:  # rounding put the draw on the last edge itself
        index = int(np.flatnonzero(weights)[-1])
    return int(tokens[index])


def candidates(logits: Row, sampling: Sampling) -> tuple[NDArray[np.intp], Row64]:
    """The tokens that temperature, top-k, top-p and min-p leave, in that order, by increasing id, and their weights:
    proportional to their probabilities.

    Ties go to the lower token id. Top-p counts probability among what top-k left; the likeliest token always stays.
    """
    tokens = np.arange(logits.size)
    scaled = logits.astype(np.float64)
    if 0 < sampling.top_k < logits.size:
        tokens = np.sort(_likeliest(logits, sampling.top_k))
        scaled = scaled[tokens]
    scaled -= scaled.max()
    with np.errstate(over="ignore"):  # at the tiniest temperatures: -inf, of weight 0, is what is meant
        scaled /= sampling.temperature
    weights: Row64 = np.exp(scaled)
    if sampling.top_p < 1.0:
        kept = np.sort(_fewest(weights, sampling.top_p))
        tokens, weights = tokens[kept], weights[kept]
    if sampling.min_p > 0.0:
        kept = np.flatnonzero(weights >= sampling.min_p * weights.max())
        tokens, weights = tokens[kept], weights[kept]
    return tokens, weights


def _fewest(weights: Row64, share: float) -> NDArray[np.intp]:
    """The fewest, likeliest first, whose sum reaches `share` of all. Looks at 256, then at eight times as many, and so
    on: sorting a whole vocabulary would cost more than everything else here."""
    target = share * weights.sum()
    count = 256
    while True:
        order = _likeliest(weights, count)
        edges = np.cumsum(weights[order])
        if edges[-1] >= target or count >= weights.size:
            return order[: int(np.searchsorted(edges, target, side="left")) + 1]
        count *= 8


def _likeliest(values: Row | Row64, count: int) -> NDArray[np.intp]:
    """The `count` highest, highest first, the lower index on a tie."""
    if count >= values.size:
        return np.argsort(-values, kind="stable")
    lowest = np.partition(values, values.size - count)[values.size - count]
    found = np.flatnonzero(values >= lowest)  # more than `count` only where the last place is tied
    return found[np.argsort(-values[found], kind="stable")][:count]


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that depends on these two alone.

    The raw stream of a bit generator is part of NumPy's compatibility promise (that of its distributions is not).
    Source: Philox 4x64-10, Salmon et al. 2011, by numpy.random.Philox.
    """
    key = np.array([seed & 0xFFFF_FFFF_FFFF_FFFF, position], dtype=np.uint64)
    return float(int(np.random.Philox(key=key).random_raw()) >> 11) * 2.0**-53


def logprobs(logits: Row, token: int, num_top: int) -> Logprobs:
    """Of the chosen token and the `num_top` likeliest."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max()
    normaliser = float(np.log(np.exp(shifted).sum()))
    top = _likeliest(logits, num_top) if num_top else np.empty(0, np.intp)
    return Logprobs(
        chosen=float(shifted[token]) - normaliser,
        top_tokens=tuple(int(index) for index in top),
        top_logprobs=tuple(float(shifted[index]) - normaliser for index in top),
    )
