"""Tokens are guessed slowly, by one and by all, and nobody else is kept out for it."""

from __future__ import annotations

import pytest

from thaloom.kernel.sched.guesses import (
    BURST,
    BURST_OF_ALL,
    MOST_ADDRESSES,
    MOST_PROVED,
    REFILL_OF_ALL_S,
    REFILL_S,
    Guesses,
    network_of,
)

HERE, THERE = "192.0.2.1", "192.0.2.2"


def test_after_a_burst_one_is_looked_at_each_so_often() -> None:
    guesses = Guesses()
    for _ in range(BURST):
        assert guesses.wait_s(HERE, ["x"], 0.0) == 0.0
        guesses.failed(HERE, 0.0)
    assert guesses.wait_s(HERE, ["x"], 0.0) == pytest.approx(REFILL_S)
    assert guesses.wait_s(HERE, ["x"], REFILL_S / 2) == pytest.approx(REFILL_S / 2), "what it says is true"
    assert guesses.wait_s(THERE, ["x"], 0.0) == 0.0
    assert guesses.wait_s(HERE, ["x"], REFILL_S) == 0.0
    guesses.failed(HERE, REFILL_S)
    assert guesses.wait_s(HERE, ["x"], REFILL_S) > 0.0, "one, not another burst"


def test_all_together_get_no_more_than_the_node_allows() -> None:
    guesses = Guesses()
    for number in range(BURST_OF_ALL):
        guesses.failed(f"10.0.{number // 250}.{number % 250}", 0.0)
    assert guesses.wait_s("192.0.2.9", ["x"], 0.0) == pytest.approx(REFILL_OF_ALL_S)


def test_who_was_right_lately_is_looked_at_and_a_guess_of_the_same_id_is_not() -> None:
    guesses = Guesses()
    guesses.proved("sk-th-aaaaaaaaaaaa-right")
    for _ in range(BURST):
        guesses.failed(HERE, 0.0)
    assert guesses.wait_s(HERE, ["sk-th-aaaaaaaaaaaa-right"], 0.0) == 0.0
    assert guesses.wait_s(HERE, ["sk-th-aaaaaaaaaaaa-wrong"], 0.0) > 0.0


def test_memory_is_bounded_whatever_is_shown_from_wherever() -> None:
    guesses = Guesses()
    for number in range(2 * MOST_ADDRESSES):
        guesses.failed(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", float(number))
    for number in range(2 * MOST_PROVED):
        guesses.proved(f"token {number}")
    assert len(guesses._of_each) == MOST_ADDRESSES
    assert len(guesses._proved) == MOST_PROVED


def test_looking_remembers_nothing() -> None:
    guesses = Guesses()
    for number in range(100):
        guesses.wait_s(f"10.0.0.{number}", ["x"], 0.0)
    assert not guesses._of_each


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::ffff", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("uid 1000", "uid 1000"),
        ("", ""),
    ],
)
def test_addresses_that_one_machine_has_are_one(address: str, network: str) -> None:
    assert network_of(address) == network


def test_a_clock_that_is_set_back_gives_nothing() -> None:
    guesses = Guesses()
    for _ in range(BURST):
        guesses.failed(HERE, 100.0)
    assert guesses.wait_s(HERE, ["x"], 50.0) == pytest.approx(REFILL_S)
