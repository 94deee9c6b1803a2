"""How much of its limits the holder of a key may use now, and when more: token buckets, pure.

A bucket holds one minute's worth and is refilled steadily. Tokens are taken when a request begins, as many as it may
need, and corrected when it has ended: a request that took more leaves the bucket below zero, and the next one waits
for that too. So over time nobody gets more than the limit, and nobody is charged for tokens that never came.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

from thaloom.kernel.state.types import Allowance, KeyLimits

MINUTE_S = 60.0
_GUESSED_S = 1.0
"""How long a request takes, while none of this key has ended."""
_WEIGHT = 0.2
"""Of the latest request in the mean duration."""


class Usage(NamedTuple):
    """Of one key: what is left in its buckets, as it was at `at` (monotonic seconds), and what runs. A tuple: it is
    made anew several times for each request, and a dataclass takes ten times as long."""

    requests: float
    tokens: float
    """Below zero: more were used than there were."""
    at: float
    running: int = 0
    mean_s: float = 0.0
    """How long its requests take; 0: not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Which limit is used up, and in how many seconds it will be enough again: of `concurrent` an expectation."""

    of: Literal["requests", "tokens", "concurrent"]
    limit: int
    retry_after_s: float


def unused(limits: KeyLimits, now: float) -> Usage:
    """Of a key that nothing is known of: full buckets."""
    return Usage(requests=float(limits.requests_per_minute or 0), tokens=float(limits.tokens_per_minute or 0), at=now)


def refilled(usage: Usage, limits: KeyLimits, now: float) -> Usage:
    """As it is at `now`. A clock that was set back (another boot) counts as no time at all."""
    elapsed_s = max(0.0, now - usage.at)
    return usage._replace(
        requests=_filled(usage.requests, limits.requests_per_minute, elapsed_s),
        tokens=_filled(usage.tokens, limits.tokens_per_minute, elapsed_s),
        at=now,
    )


def begin(usage: Usage, limits: KeyLimits, now: float) -> Usage | Refusal:
    """One more request."""
    usage = refilled(usage, limits, now)
    if limits.concurrent is not None and usage.running >= limits.concurrent:
        expected_s = (usage.mean_s or _GUESSED_S) / limits.concurrent
        return Refusal(of="concurrent", limit=limits.concurrent, retry_after_s=expected_s)
    if limits.requests_per_minute is not None:
        if usage.requests < 1.0:
            wait_s = _wait_s(1.0 - usage.requests, limits.requests_per_minute)
            return Refusal(of="requests", limit=limits.requests_per_minute, retry_after_s=wait_s)
        usage = usage._replace(requests=usage.requests - 1.0)
    return usage._replace(running=usage.running + 1)


def reserve(usage: Usage, limits: KeyLimits, num_tokens: int, now: float) -> Usage | Refusal:
    """Tokens for an answer, before it is known how many it takes. What exceeds a whole minute's waits for a full bucket
    and no longer."""
    usage = refilled(usage, limits, now)
    if limits.tokens_per_minute is None:
        return usage
    needed = min(num_tokens, limits.tokens_per_minute)
    if usage.tokens < needed:
        wait_s = _wait_s(needed - usage.tokens, limits.tokens_per_minute)
        return Refusal(of="tokens", limit=limits.tokens_per_minute, retry_after_s=wait_s)
    return usage._replace(tokens=usage.tokens - num_tokens)


def settle(usage: Usage, limits: KeyLimits, *, reserved: int, used: int, now: float) -> Usage:
    """What the answer took in the end, in place of what was reserved for it."""
    usage = refilled(usage, limits, now)
    if limits.tokens_per_minute is None:
        return usage
    tokens = min(float(limits.tokens_per_minute), usage.tokens + reserved - used)
    return usage._replace(tokens=tokens)


def end(usage: Usage, duration_s: float) -> Usage:
    """A request is over, however it ended."""
    mean_s = duration_s if usage.mean_s == 0.0 else usage.mean_s + _WEIGHT * (duration_s - usage.mean_s)
    return usage._replace(running=max(0, usage.running - 1), mean_s=mean_s)


def take_back(usage: Usage, limits: KeyLimits) -> Usage:
    """One request that begun and may not go on, as if it had not."""
    requests = _filled(usage.requests + 1.0, limits.requests_per_minute, 0.0)
    return usage._replace(requests=requests, running=max(0, usage.running - 1))


def allowances(usage: Usage, limits: KeyLimits, now: float) -> tuple[Allowance, ...]:
    """What is left of each limit that counts by the minute."""
    usage = refilled(usage, limits, now)
    found = []
    if limits.requests_per_minute is not None:
        found.append(_allowance("requests", limits.requests_per_minute, usage.requests))
    if limits.tokens_per_minute is not None:
        found.append(_allowance("tokens", limits.tokens_per_minute, usage.tokens))
    return tuple(found)


def _allowance(of: Literal["requests", "tokens"], limit: int, left: float) -> Allowance:
    return Allowance(of=of, limit=limit, remaining=max(0, math.floor(left)), reset_s=_wait_s(limit - left, limit))


def _filled(left: float, per_minute: int | None, elapsed_s: float) -> float:
    return left if per_minute is None else min(float(per_minute), left + per_minute * elapsed_s / MINUTE_S)


def _wait_s(missing: float, per_minute: int) -> float:
    return max(0.0, missing) * MINUTE_S / per_minute
