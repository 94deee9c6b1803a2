"""Draws and texts of the engine of last resort, without its library."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tests.contract.engines.fake_language import Backwards
from thaloom.work.runtime.engines.transformers.answering import Answer, Question, settings_of
from thaloom.work.runtime.engines.transformers.drawing import Draws, Settings, logprobs_of
from thaloom.work.runtime.engines.transformers.writing import Writing

LOGITS = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))


def drawn(settings: Settings, count: int = 4000) -> dict[int, float]:
    draws = Draws(settings, ())
    found = Counter(draws.next(LOGITS) for _ in range(count))
    return {token: number / count for token, number in found.items()}


def test_draws_have_the_distribution_they_should() -> None:
    found = drawn(Settings(seed=1))
    assert [found[token] for token in range(4)] == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.03)
    warm = np.array([0.5, 0.3, 0.15, 0.05]) ** 0.5
    found = drawn(Settings(seed=1, temperature=2.0))
    assert [found[token] for token in range(4)] == pytest.approx(list(warm / warm.sum()), abs=0.03)


@pytest.mark.parametrize(
    ("settings", "left"),
    [
        (Settings(temperature=0), {0}),
        (Settings(top_k=2), {0, 1}),
        (Settings(top_p=0.5), {0}),
        (Settings(top_p=0.51), {0, 1}),
        (Settings(min_p=0.5), {0, 1}),
        (Settings(top_k=1, temperature=50.0), {0}),
        (Settings(logit_bias={0: -100.0, 3: 1.0}), {1, 2, 3}),
        (Settings(logit_bias={3: 100.0}, temperature=0), {3}),
        (Settings(logit_bias={9: 1.0}, temperature=0), {0}),
    ],
)
def test_filters_leave_what_they_should(settings: Settings, left: set[int]) -> None:
    assert set(drawn(settings, 600)) == left


def test_the_same_seed_draws_the_same() -> None:
    first, second, other = (Draws(Settings(seed=seed), ()) for seed in (7, 7, 8))
    mine = [first.next(LOGITS) for _ in range(50)]
    assert mine == [second.next(LOGITS) for _ in range(50)]
    assert mine != [other.next(LOGITS) for _ in range(50)]


def test_penalties() -> None:
    repeated = Draws(Settings(temperature=0, repetition_penalty=3.0), prompt=[0, 77])  # 77: beyond the logits
    assert repeated.next(LOGITS) == 1  # -0.69 * 3 is below -1.2
    frequent = Draws(Settings(temperature=0, frequency_penalty=0.3), prompt=[0])
    assert [frequent.next(LOGITS) for _ in range(3)] == [0, 0, 1]  # -0.69, -0.99, -1.29 against -1.2
    present = Draws(Settings(temperature=0, presence_penalty=2.0), prompt=[0])
    assert [present.next(LOGITS) for _ in range(4)] == [0, 1, 2, 0]


def test_what_is_banned_is_never_drawn() -> None:
    draws = Draws(Settings(seed=3), ())
    assert {draws.next(LOGITS, banned=(0, 2, 99)) for _ in range(300)} == {1, 3}


def test_logprobs_are_of_the_model_alone() -> None:
    np.testing.assert_allclose(np.exp(logprobs_of(LOGITS + 5)), [0.5, 0.3, 0.15, 0.05], rtol=1e-6)


def test_who_does_not_listen_any_more_gets_no_more_computed() -> None:
    told: list[object] = []

    def tell(chunk: object) -> bool:
        told.append(chunk)
        return len(told) < 3

    answer = Answer(Question(model="m", prompt="x" * 40, ignore_eos=True), Backwards(4096), tell)
    answer.run()
    assert (answer.completion_tokens, len(told)) == (3, 4)


def test_what_the_makers_want_holds_where_nobody_says_otherwise() -> None:
    defaults = {"temperature": 0.6, "top_p": 0.9}
    assert settings_of(Question(model="m", top_p=1.0), defaults) == Settings(temperature=0.6, top_p=1.0)


def decode(tokens: object) -> str:
    return bytes(tokens).decode(errors="replace")  # type: ignore[call-overload, no-any-return]


def written(text: bytes, stops: tuple[str, ...] = (), *, keep_stop: bool = False) -> tuple[list[str], Writing]:
    writing = Writing(decode, stops, keep_stop=keep_stop, prompt=list(b"before"))
    pieces = []
    for byte in text:
        pieces.append(writing.feed(byte))
        if writing.stopped is not None:
            break
    return [*pieces, writing.finish()], writing


def test_characters_come_whole() -> None:
    assert written("aß€x".encode())[0] == ["a", "", "ß", "", "", "€", "x", ""]
    broken = "".join(written("a€".encode()[:-1])[0])
    assert broken == "a" + b"\xe2\x82".decode(errors="replace")


def test_what_never_becomes_a_character_is_told_in_the_end() -> None:
    assert "".join(written(b"\x80" * 20 + b"x")[0]) == "\ufffd" * 20 + "x"


def test_stops_are_found_across_tokens_and_nothing_of_them_leaks() -> None:
    pieces, writing = written(b"one STOP two", ("STOP",))
    assert ("".join(pieces), writing.stopped) == ("one ", "STOP")
    assert "".join(written(b"one STOP two", ("STOP",), keep_stop=True)[0]) == "one STOP"
    assert "".join(written(b"one STO two", ("STOP",))[0]) == "one STO two"
    assert "".join(written(b"aab", ("ab",))[0]) == "a"
    assert "".join(written(b"one STO", ("STOP",))[0]) == "one STO"
    pieces, writing = written(b"xaby", ("b", "ab"))
    assert ("".join(pieces), writing.stopped) == ("x", "ab")
