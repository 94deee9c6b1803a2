"""Guesses from a sequence's own tokens."""

from __future__ import annotations

import random

import pytest

from thaloom.work.runtime.core.lookup import CANDIDATES, LONGEST_MATCH, Lookup, Rate, first_belief


def read(tokens: list[int], num_prompt: int | None = None) -> Lookup:
    lookup = Lookup(first_belief(), first_belief())
    lookup.read(tokens, len(tokens) if num_prompt is None else num_prompt)
    return lookup


def test_what_followed_before_is_guessed() -> None:
    tokens = [1, 2, 3, 4, 5, 9, 2, 3]
    lookup = read(tokens)
    assert lookup.ready
    assert lookup.guess(tokens, 3) == [4, 5, 9]


def test_nothing_is_guessed_from_a_single_token_or_from_nothing() -> None:
    for tokens in ([], [1], [1, 2, 1], [1, 2, 3]):
        assert not read(tokens).ready
        assert read(tokens).guess(tokens, 4) == []


def test_the_longest_match_wins_then_the_latest() -> None:
    tokens = [7, 1, 2, 50, 8, 1, 2, 60, 9, 1, 2, 70, 8, 1, 2]
    assert read(tokens).guess(tokens, 1) == [60], "8, 1, 2 came before"
    tokens = [7, 1, 2, 50, 8, 1, 2, 60, 5, 1, 2]
    assert read(tokens).guess(tokens, 1) == [60], "the latest of 1, 2"


def test_what_has_no_end_yet_goes_round() -> None:
    tokens = [9, 1, 2, 3, 1, 2, 3, 1, 2]
    assert read(tokens).guess(tokens, 8) == [3, 1, 2, 3, 1, 2, 3, 1]


def test_a_guess_that_comes_true_is_followed_though_others_look_as_good() -> None:
    head = [5, 1, 2, 3, 4, 6, 6, 3, 4, 8]
    tokens = [*head, 5, 1, 2]
    lookup = read(tokens, num_prompt=len(tokens))
    tokens += [3, 4]
    lookup.read(tokens, len(head) + 3)
    assert lookup.guess(tokens, 1) == [6], "what followed 5 1 2 3 4, not the later 3 4"


def test_the_same_whether_read_at_once_or_token_by_token() -> None:
    drawn = random.Random(3)
    tokens = [drawn.randrange(4) for _ in range(400)]
    piecewise = Lookup(first_belief(), first_belief())
    end = 0
    while end < len(tokens):
        end = min(len(tokens), end + drawn.randrange(1, 7))
        piecewise.read(tokens[:end], 10)
    whole = read(tokens, num_prompt=10)
    assert piecewise.guess(tokens, 5) == whole.guess(tokens, 5)
    assert piecewise.rates == whole.rates


def test_every_match_is_a_real_one() -> None:
    drawn = random.Random(4)
    tokens: list[int] = []
    lookup = Lookup(first_belief(), first_belief())
    for _ in range(500):
        tokens.append(drawn.randrange(5))
        lookup.read(tokens, 1)
        if lookup.ready:
            guess = lookup.guess(tokens, 1)[0]
            assert any(tokens[i : i + 3] == [*tokens[-2:], guess] for i in range(len(tokens) - 2))


def test_being_right_is_measured_without_anyone_guessing() -> None:
    tokens = [1, 2, 3, 4] * 3
    lookup = read(tokens, num_prompt=8)
    before = lookup.rates.going.value
    for _ in range(20):
        tokens += [1, 2, 3, 4]
        lookup.read(tokens, 8)
    assert lookup.rates.going.value > 0.9 > before
    assert lookup.chances[0] == lookup.rates.going.value, "the next one goes on with a run of right ones"


def test_being_wrong_too_and_the_prompt_does_not_count() -> None:
    drawn = random.Random(5)
    tokens = [drawn.randrange(6) for _ in range(300)]
    assert read(tokens).rates == first_belief()
    lookup = read(tokens, num_prompt=1)
    assert lookup.chances[0] < 0.45
    assert lookup.rates.fresh.trials > 10


def test_all_teach_those_who_come_later() -> None:
    shared = first_belief()
    tokens = [1, 2, 3, 4] * 20
    Lookup(first_belief(), shared).read(tokens, 4)
    assert shared.going.value > first_belief().going.value
    assert shared.as_belief(4.0).going.value == pytest.approx(shared.going.value)
    assert shared.as_belief(4.0).going.trials == 4.0


def test_a_rate_forgets() -> None:
    rate = Rate.believed(0.5, 4.0)
    for _ in range(200):
        rate.add(True)
    assert rate.value > 0.99
    for _ in range(60):
        rate.add(False)
    assert rate.value < 0.2


def test_a_search_is_bounded_however_often_a_pair_came() -> None:
    """One token a thousand times: each look compares at most CANDIDATES places over LONGEST_MATCH tokens."""

    class Counted(list[int]):
        looks = 0

        def __getitem__(self, key):  # type: ignore[no-untyped-def]
            Counted.looks += 1
            return super().__getitem__(key)

    tokens = Counted([7] * 1000)
    lookup = Lookup(first_belief(), first_belief())
    lookup.read(tokens, 1000)
    Counted.looks = 0
    tokens += [8, 7, 7]
    lookup.read(tokens, 1000)
    assert 0 < Counted.looks < 3 * 2 * (CANDIDATES + 1) * LONGEST_MATCH
