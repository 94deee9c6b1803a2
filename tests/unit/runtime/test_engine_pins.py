from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest

from tests.unit.runtime.doubles import Bench, HistoryExecutable, ask, greedy, make_bench
from tests.unit.runtime.test_loading import spec
from thaloom.base.errors import BadParameter
from thaloom.hal.ops import BLOCK_TOKENS
from thaloom.work.runtime.core.sequence import Ticket
from thaloom.work.runtime.messages import Tokens

NUM_BLOCKS = 16
FOUR = 4 * BLOCK_TOKENS
"""Tokens one salt can pin of that: half of the half."""


def bench(pin_share: float = 0.5) -> Bench:
    return make_bench(HistoryExecutable(NUM_BLOCKS), num_blocks=NUM_BLOCKS, chunk_tokens=64, pin_share=pin_share)


def answered(engine: Bench, prompt: list[int], *pins: tuple[int, float], salt: str = "", owner: str = "") -> Ticket:
    ticket = engine.submit(ask(prompt, 2, pins=list(pins), cache_salt=salt, owner=owner))
    engine.run()
    assert engine.tokens(ticket) == greedy(prompt, 2)
    return ticket


def crowd(engine: Bench) -> None:
    """Prompts of strangers that together take all of the pool several times."""
    for number in range(100, 108):
        answered(engine, [number % 7 + 10] * 3 + [number % 5 + 20] * 100)


def test_a_pinned_beginning_is_found_after_a_crowd_came_by() -> None:
    found = {}
    for share in (0.0, 0.5):
        engine = bench(share)
        first = answered(engine, [1] * FOUR, (FOUR, 60.0))
        crowd(engine)
        again = answered(engine, [1] * FOUR + [2])
        found[share] = (engine.finished(first).pinned_tokens, engine.finished(again).cached_tokens)
    assert found == {0.0: (0, 0), 0.5: (FOUR, FOUR)}


def test_its_time_ends_and_then_it_goes_like_everything_else() -> None:
    engine = bench()
    answered(engine, [1] * FOUR, (FOUR, 60.0))
    assert engine.engine.load().pinned_blocks == 4
    engine.wait(60.0)
    assert engine.engine.load().pinned_blocks == 0
    crowd(engine)
    assert engine.finished(answered(engine, [1] * FOUR + [2])).cached_tokens == 0


def test_what_finds_no_room_is_told_and_counted_and_the_request_served() -> None:
    engine = bench()
    prompt = [1] * (6 * BLOCK_TOKENS)
    ticket = answered(engine, prompt, (len(prompt), 60.0))
    assert engine.finished(ticket).pinned_tokens == FOUR
    assert engine.engine.counters.refused_pin_tokens == 2 * BLOCK_TOKENS


def test_each_salt_has_its_own_half() -> None:
    engine = bench()
    pinned = [
        engine.finished(answered(engine, [1] * FOUR, (FOUR, 60.0), salt=salt)).pinned_tokens
        for salt in ("mine", "theirs", "nobody's")
    ]
    assert pinned == [FOUR, FOUR, 0]


def test_whose_key_is_known_has_one_half_whatever_the_salt() -> None:
    engine = bench()
    pinned = [
        engine.finished(answered(engine, [1] * FOUR, (FOUR, 60.0), salt=salt, owner=owner)).pinned_tokens
        for owner, salt in (("me", "one"), ("me", "two"), ("you", ""))
    ]
    assert pinned == [FOUR, 0, FOUR]


def test_pins_keep_no_request_out() -> None:
    engine = bench(1.0)
    for salt in ("a", "b"):
        answered(engine, [1] * (7 * BLOCK_TOKENS), (7 * BLOCK_TOKENS, 60.0), salt=salt)
    assert engine.engine.load().pinned_blocks == 14
    answered(engine, [2] * 200)
    assert engine.engine.load().num_broken_pins > 0


def test_a_beginning_may_be_pinned_longer_than_what_follows() -> None:
    engine = bench()
    answered(engine, [1] * FOUR, (2 * BLOCK_TOKENS, 3600.0), (FOUR, 60.0))
    engine.wait(60.0)
    assert engine.engine.load().pinned_blocks == 2


def test_the_last_tokens_that_fill_no_block_are_not_pinned() -> None:
    engine = bench()
    ticket = answered(engine, [1] * 20, (20, 60.0))
    assert engine.finished(ticket).pinned_tokens == BLOCK_TOKENS
    assert engine.engine.counters.refused_pin_tokens == 0


@pytest.mark.parametrize("num_blocks", [1, 4], ids=["first_chunk", "last_chunk"])
def test_what_is_pinned_is_told_with_the_first_token(num_blocks: int) -> None:
    """Whoever stops at a string hears nothing of the answer's end."""
    engine = make_bench(HistoryExecutable(NUM_BLOCKS), num_blocks=NUM_BLOCKS, chunk_tokens=32)
    num_tokens = num_blocks * BLOCK_TOKENS
    ticket = answered(engine, [1] * num_tokens, (num_tokens, 60.0))
    started = next(news.started for news in engine.news[ticket] if isinstance(news, Tokens))
    assert started is not None
    assert started.pinned_tokens == engine.finished(ticket).pinned_tokens == num_tokens


@pytest.mark.parametrize("pin", [(-1, 60.0), (5, 60.0), (4, 0.0), (4, math.nan), (4, 1e6)])
def test_a_pin_that_makes_no_sense_is_refused(pin: tuple[int, float]) -> None:
    with pytest.raises(BadParameter) as caught:
        bench().submit(ask([1] * 4, 2, pins=[pin]))
    assert caught.value.param == "pins"


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_a_share_that_is_none_is_refused(tmp_path: Path, share: float) -> None:
    with pytest.raises(BadParameter) as caught:
        dataclasses.replace(spec(tmp_path), pin_share=share)
    assert caught.value.param == "pin_share"
