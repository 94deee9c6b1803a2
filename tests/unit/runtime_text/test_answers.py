"""Text, stop strings and log-probabilities of one answer, together."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.runtime_text.tokenizers_of_the_field import byte_level, save
from thaloom.work.runtime.frontend.answers import AnswerText
from thaloom.work.runtime.messages import LogprobRow, Tokens
from thaloom.work.runtime.text.tokenizer import Tokenizer, read_text_files
from thaloom.work.runtime.types import Delta


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    return Tokenizer(read_text_files(save(tmp_path, byte_level())))


def rows(tokens: list[int]) -> list[LogprobRow]:
    return [LogprobRow(chosen=-1.0, top_tokens=[token, 0], top_logprobs=[-1.0, -2.0]) for token in tokens]


def play(tokenizer: Tokenizer, text: str, *stop: str) -> tuple[AnswerText, list[Delta]]:
    answer = AnswerText(tokenizer, stop=stop, at_start=True)
    deltas = [answer.feed(Tokens(tokens=[token], logprobs=rows([token]))) for token in tokenizer.encode_rendered(text)]
    return answer, [*deltas, answer.finish()]


def test_every_token_has_its_logprobs_once_and_in_order(tokenizer: Tokenizer) -> None:
    text = "The 世界, é!"
    answer, deltas = play(tokenizer, text, "no such stop")
    assert "".join(delta.text for delta in deltas) == text
    told = [position.chosen for delta in deltas for position in delta.logprobs]
    assert [entry.token for entry in told] == tokenizer.encode_rendered(text)
    assert b"".join(entry.data for entry in told) == text.encode()
    assert answer.num_tokens == len(told) == sum(delta.num_tokens for delta in deltas)


def test_logprobs_of_half_a_character_come_with_the_character(tokenizer: Tokenizer) -> None:
    _, deltas = play(tokenizer, "世")
    assert [(delta.text, len(delta.logprobs)) for delta in deltas[:3]] == [("", 0), ("", 0), ("世", 3)]
    assert deltas[2].logprobs[0].chosen.text == "�"


def test_a_stop_string_ends_the_answer_and_takes_its_own_tokens_logprobs_with_it(tokenizer: Tokenizer) -> None:
    answer, deltas = play(tokenizer, "ab##cd", "##")
    assert answer.stopped
    assert "".join(delta.text for delta in deltas) == "ab"
    assert [position.chosen.text for delta in deltas for position in delta.logprobs] == ["a", "b"]
    assert answer.num_tokens == 4


def test_tokens_after_the_stop_in_the_same_message_are_not_counted(tokenizer: Tokenizer) -> None:
    answer = AnswerText(tokenizer, stop=["b"], at_start=True)
    delta = answer.feed(Tokens(tokens=tokenizer.encode_rendered("abcdef"), logprobs=None))
    assert (delta.text, delta.num_tokens, delta.logprobs) == ("a", 2, ())


def test_what_was_held_back_comes_with_the_end(tokenizer: Tokenizer) -> None:
    _, deltas = play(tokenizer, "ab#", "##")
    assert (deltas[-1].text, len(deltas[-1].logprobs)) == ("#", 1)


def test_top_logprobs_name_their_tokens(tokenizer: Tokenizer) -> None:
    _, deltas = play(tokenizer, "a")
    top = deltas[0].logprobs[0].top
    assert [(entry.text, entry.data, entry.logprob) for entry in top] == [("a", b"a", -1.0), ("!", b"!", -2.0)]
