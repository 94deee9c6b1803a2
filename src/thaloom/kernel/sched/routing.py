"""Which of several workers of one model takes a request: pure.

Work is counted in tokens that have to be computed. A worker that still holds the beginning of a prompt has less to do,
so requests stay where their conversation is, until that worker is so far behind the others that computing the beginning
anew elsewhere is sooner done.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

DECODE_TOKENS = 64
"""What an answer in the making weighs: it has a row in every step, beside the rows of prompts."""


class Candidate(NamedTuple):
    """A worker that could take the request."""

    waiting_tokens: int
    """Of prompts it was given and has not begun to answer."""
    answers: int
    """Requests it has and has not ended."""
    matched_tokens: int
    """Of this prompt, those whose keys and values it most likely holds."""


def choose_worker(candidates: Sequence[Candidate], prompt_tokens: int) -> int:
    """The place of the one that will be through with this prompt first; the first of equals. At least one must be."""
    costs = [
        each.waiting_tokens + DECODE_TOKENS * each.answers + max(prompt_tokens - each.matched_tokens, 0)
        for each in candidates
    ]
    return costs.index(min(costs))


def choose_share(weights: Sequence[int], draw: float) -> int:
    """The place that `draw`, a number in [0, 1), falls on when the places are as wide as their weights. Not all may
    be 0."""
    left = draw * sum(weights)
    for place, weight in enumerate(weights):
        if left < weight:
            return place
        left -= weight
    return max(place for place, weight in enumerate(weights) if weight)  # what rounding left over
