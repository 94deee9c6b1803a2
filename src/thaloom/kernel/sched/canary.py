"""Whether a new version does worse than the one it is to replace: pure.

The question is asked again with every answer, so the verdict must not come from a run of bad luck: failures count when
even the favourable end of what they allow is worse, times when the better part of the canary's is slower than usual.
Source: Wilson 1927, the score interval of a proportion.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryLimits:
    min_answers: int = 20
    """Of either, before times are compared."""
    worse_failures: float = 0.02
    """By how much a larger share of requests may fail."""
    slower: float = 1.5
    """How many times longer a token may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """What became of the latest requests to one version. Failures are those that are nobody's but ours."""

    requests: int
    failures: int
    first_token_s: Sequence[float] = ()
    token_s: Sequence[float] = ()
    """Mean time between two tokens of an answer, for each answer that had several."""


def verdict(canary: Outcomes, usual: Outcomes, limits: CanaryLimits) -> str | None:
    """Why the canary should get no more requests; None: no reason yet."""
    expected = usual.failures / usual.requests if usual.requests else 0.0
    if canary.requests and _least_share(canary.failures, canary.requests) > expected + limits.worse_failures:
        return f"{canary.failures} of {canary.requests} requests failed, {usual.failures} of {usual.requests} elsewhere"
    for name, mine, theirs in (
        ("to the first token", canary.first_token_s, usual.first_token_s),
        ("for a token", canary.token_s, usual.token_s),
    ):
        if min(len(mine), len(theirs)) < limits.min_answers:
            continue
        quick, usual_s = quantiles(mine, n=4)[0], median(theirs)
        if median(mine) > limits.slower * usual_s and quick > usual_s:
            return f"{median(mine):.3g} s {name}, {usual_s:.3g} s elsewhere"
    return None


def _least_share(failures: int, requests: int) -> float:
    """The lower end of the interval that holds the true share in 19 of 20 cases."""
    z, share = 1.96, failures / requests
    spread = z * math.sqrt(share * (1 - share) / requests + z * z / (4 * requests * requests))
    return (share + z * z / (2 * requests) - spread) / (1 + z * z / requests)
