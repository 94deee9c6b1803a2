"""Which worker takes a request, and when a new version is sent home."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thaloom.kernel.sched.canary import CanaryLimits, Outcomes, verdict
from thaloom.kernel.sched.routing import Candidate, choose_share, choose_worker

LIMITS = CanaryLimits()


def test_the_least_loaded_takes_what_nobody_knows() -> None:
    assert choose_worker([Candidate(500, 2, 0), Candidate(0, 1, 0), Candidate(0, 3, 0)], 100) == 1


def test_a_conversation_stays_where_it_is() -> None:
    assert choose_worker([Candidate(0, 1, 0), Candidate(0, 3, 900)], 1000) == 1


def test_but_not_behind_a_long_queue() -> None:
    assert choose_worker([Candidate(0, 0, 0), Candidate(5000, 3, 900)], 1000) == 0


def test_the_first_of_equals() -> None:
    assert choose_worker([Candidate(0, 0, 0)] * 3, 10) == 0


@given(st.lists(st.builds(Candidate, *[st.integers(0, 10**6)] * 3), min_size=1, max_size=8), st.integers(1, 10**6))
def test_more_work_never_makes_a_worker_more_wanted(candidates: list[Candidate], prompt: int) -> None:
    chosen = choose_worker(candidates, prompt)
    others = [each._replace(waiting_tokens=each.waiting_tokens + 1) for each in candidates]
    others[chosen] = candidates[chosen]
    assert choose_worker(others, prompt) == chosen


def test_shares_are_as_wide_as_their_weights() -> None:
    generator = random.Random(1)
    found = Counter(choose_share([90, 0, 10], generator.random()) for _ in range(10_000))
    assert set(found) == {0, 2}
    assert 800 < found[2] < 1200
    assert choose_share([1, 1], 0.999999999999999999) == 1


def told(requests: int, failures: int = 0, token_s: float = 0.05, first_s: float = 0.2) -> Outcomes:
    count = requests - failures
    spread = [0.8 + 0.4 * index / max(count - 1, 1) for index in range(count)]
    return Outcomes(
        requests=requests,
        failures=failures,
        token_s=[token_s * each for each in spread],
        first_token_s=[first_s * each for each in spread],
    )


@pytest.mark.parametrize(
    ("canary", "usual", "word"),
    [
        (told(100), told(900), None),
        (told(0), told(900), None),
        (told(100), told(0), None),
        (told(10, 1), told(900), None),
        (told(4, 3), told(900), "3 of 4 requests failed"),
        (told(2, 2), told(0), "failed"),
        (told(200, 30), told(900), "failed"),
        (told(200, 30), told(900, 130), None),
        (told(19, token_s=1.0), told(900), None),
        (told(30, token_s=0.1), told(900), "for a token"),
        (told(30, token_s=0.06), told(900), None),
        (told(30, first_s=0.5), told(900), "to the first token"),
    ],
)
def test_a_canary_is_sent_home_only_for_a_reason(canary: Outcomes, usual: Outcomes, word: str | None) -> None:
    said = verdict(canary, usual, LIMITS)
    assert (said is None) if word is None else (word in (said or ""))
