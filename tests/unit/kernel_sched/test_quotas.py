"""Token buckets: what is let through, and that the time told is the time it takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thaloom.base.errors import BadParameter
from thaloom.kernel.sched import quotas
from thaloom.kernel.sched.quotas import Refusal, Usage
from thaloom.kernel.state.types import KeyLimits


def begun(usage: Usage, limits: KeyLimits, now: float) -> Usage:
    after = quotas.begin(usage, limits, now)
    assert isinstance(after, Usage)
    return after


def test_a_minutes_worth_at_once_then_steadily() -> None:
    limits = KeyLimits(requests_per_minute=3)
    usage = quotas.unused(limits, 10.0)
    for _ in range(3):
        usage = begun(usage, limits, 10.0)
    assert quotas.begin(usage, limits, 10.0) == Refusal(of="requests", limit=3, retry_after_s=20.0)
    assert quotas.begin(usage, limits, 25.0) == Refusal(of="requests", limit=3, retry_after_s=5.0)
    begun(usage, limits, 30.0)


def test_a_bucket_never_holds_more_than_a_minute() -> None:
    limits = KeyLimits(requests_per_minute=2, tokens_per_minute=100)
    usage = quotas.refilled(quotas.unused(limits, 0.0), limits, 1e6)
    assert (usage.requests, usage.tokens) == (2.0, 100.0)


def test_a_clock_set_back_gives_nothing_and_takes_nothing() -> None:
    limits = KeyLimits(requests_per_minute=2)
    usage = begun(quotas.unused(limits, 1000.0), limits, 1000.0)
    assert quotas.refilled(usage, limits, 5.0).requests == 1.0


def test_tokens_are_taken_before_and_corrected_after() -> None:
    limits = KeyLimits(tokens_per_minute=600)
    usage = quotas.reserve(quotas.unused(limits, 0.0), limits, 500, 0.0)
    assert isinstance(usage, Usage)
    assert quotas.reserve(usage, limits, 200, 0.0) == Refusal(of="tokens", limit=600, retry_after_s=10.0)
    assert quotas.settle(usage, limits, reserved=500, used=100, now=0.0).tokens == 500.0
    assert quotas.settle(usage, limits, reserved=500, used=0, now=0.0).tokens == 600.0


def test_who_took_more_than_reserved_waits_for_that_too() -> None:
    limits = KeyLimits(tokens_per_minute=60)
    usage = quotas.reserve(quotas.unused(limits, 0.0), limits, 60, 0.0)
    assert isinstance(usage, Usage)
    usage = quotas.settle(usage, limits, reserved=60, used=90, now=0.0)
    assert usage.tokens == -30.0
    assert quotas.reserve(usage, limits, 10, 0.0) == Refusal(of="tokens", limit=60, retry_after_s=40.0)


def test_what_exceeds_a_minute_waits_for_a_full_bucket_and_no_longer() -> None:
    limits = KeyLimits(tokens_per_minute=60)
    full = quotas.unused(limits, 0.0)
    usage = quotas.reserve(full, limits, 1000, 0.0)
    assert isinstance(usage, Usage)
    assert usage.tokens == -940.0, "and is charged in full"
    assert isinstance(quotas.reserve(full._replace(tokens=59.0), limits, 1000, 0.0), Refusal)


def test_requests_at_the_same_time_are_counted_and_the_wait_is_expected_from_those_before() -> None:
    limits = KeyLimits(concurrent=2)
    usage = quotas.unused(limits, 0.0)
    usage = begun(begun(usage, limits, 0.0), limits, 0.0)
    assert quotas.begin(usage, limits, 0.0) == Refusal(of="concurrent", limit=2, retry_after_s=0.5)
    usage = quotas.end(usage, 8.0)
    usage = begun(usage, limits, 8.0)
    assert quotas.begin(usage, limits, 8.0) == Refusal(of="concurrent", limit=2, retry_after_s=4.0)
    assert quotas.end(quotas.end(quotas.end(usage, 1.0), 1.0), 1.0).running == 0


def test_allowances_tell_limit_rest_and_when_it_is_full_again() -> None:
    limits = KeyLimits(requests_per_minute=60, tokens_per_minute=600)
    usage = begun(quotas.unused(limits, 0.0), limits, 0.0)
    requests, tokens = quotas.allowances(usage, limits, 0.5)
    assert (requests.of, requests.limit, requests.remaining, requests.reset_s) == ("requests", 60, 59, 0.5)
    assert (tokens.of, tokens.limit, tokens.remaining, tokens.reset_s) == ("tokens", 600, 600, 0.0)
    assert quotas.allowances(usage, KeyLimits(concurrent=1), 0.0) == ()


def test_no_limits_refuse_nothing() -> None:
    limits = KeyLimits()
    usage = quotas.unused(limits, 0.0)
    for _ in range(1000):
        usage = begun(usage, limits, 0.0)
        after = quotas.reserve(usage, limits, 10**9, 0.0)
        assert isinstance(after, Usage)


@pytest.mark.parametrize(
    "wrong",
    [{"requests_per_minute": 0}, {"tokens_per_minute": -1}, {"concurrent": 0}, {"models": ()}, {"models": ("",)}],
)
def test_limits_that_mean_nothing_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(BadParameter):
        KeyLimits(**wrong)  # type: ignore[arg-type]


asks = st.lists(
    st.tuples(st.floats(0, 30), st.integers(0, 500), st.integers(0, 500)), min_size=1, max_size=60
)  # (seconds until it, reserved, used)


@given(asks=asks, per_minute=st.integers(1, 1000))
def test_over_any_time_nobody_gets_more_than_a_bucket_and_its_refill_and_one_excess(
    asks: list[tuple[float, int, int]], per_minute: int
) -> None:
    """Safety. The excess is what the last answer took beyond what was reserved: it is known only when it is there."""
    limits = KeyLimits(tokens_per_minute=per_minute)
    usage, now, taken = quotas.unused(limits, 0.0), 0.0, 0
    for wait_s, reserved, used in asks:
        now += wait_s
        after = quotas.reserve(usage, limits, reserved, now)
        if isinstance(after, Usage):
            usage = quotas.settle(after, limits, reserved=reserved, used=used, now=now)
            taken += used
            assert taken <= per_minute * (1 + now / 60) + 500 + 1e-6


@given(asks=asks, per_minute=st.integers(1, 1000))
def test_who_waits_as_long_as_told_is_let_in(asks: list[tuple[float, int, int]], per_minute: int) -> None:
    """Liveness: Retry-After is honest, and not a moment longer than needed."""
    limits = KeyLimits(tokens_per_minute=per_minute)
    usage, now = quotas.unused(limits, 0.0), 0.0
    for wait_s, reserved, used in asks:
        now += wait_s
        after = quotas.reserve(usage, limits, reserved, now)
        if isinstance(after, Refusal):
            assert isinstance(quotas.reserve(usage, limits, reserved, now + after.retry_after_s * 0.99), Refusal)
            now += after.retry_after_s + 1e-6
            after = quotas.reserve(usage, limits, reserved, now)
            assert isinstance(after, Usage)
        usage = quotas.settle(after, limits, reserved=reserved, used=used, now=now)
