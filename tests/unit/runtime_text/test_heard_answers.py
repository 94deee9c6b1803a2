"""Thoughts, calls, stop strings and the prompt's echo in one answer, token by token."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tokenizers import AddedToken

from tests.unit.runtime_text.dialects_of_the_field import DIALECTS, ONE, PARIS, TOOLS, TWO, numbered
from tests.unit.runtime_text.tokenizers_of_the_field import byte_level, save
from thaloom.base.ids import RequestId
from thaloom.work.runtime.dialects.thinking import KNOWN
from thaloom.work.runtime.frontend.answers import AnswerText
from thaloom.work.runtime.frontend.conversing import answer_text
from thaloom.work.runtime.frontend.prompting import Speech
from thaloom.work.runtime.messages import LogprobRow, PromptLogprobs, Tokens
from thaloom.work.runtime.text.tokenizer import Tokenizer, read_text_files
from thaloom.work.runtime.types import ChatMessage, Delta, GenerateRequest, Sampling

USER = ChatMessage(role="user", content="hi")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    fast = byte_level()
    fast.add_special_tokens([AddedToken("[TOOL_CALLS]", special=True), AddedToken("[/THINK]", special=True)])
    fast.add_special_tokens([AddedToken("[THINK]", special=True)])
    return Tokenizer(read_text_files(save(tmp_path_factory.mktemp("tokenizer"), fast)))


def answer(tokenizer: Tokenizer, *, dialect: str = "hermes", thinking: int | None = None, **fields: Any) -> AnswerText:
    speech = Speech(
        tokenizer=tokenizer,
        template=None,
        sampling=Sampling(),
        context_length=None,
        dialect=DIALECTS.create(dialect),
        thinking=None if thinking is None else KNOWN[thinking],
    )
    prompt = tokenizer.encode_rendered(fields.pop("prompt_text", "hi"))
    if "prompt" not in fields:
        fields["messages"] = (USER,)
    request = GenerateRequest(id=RequestId("r"), model="m", **fields)
    return answer_text(request, prompt, speech, new_id=numbered())


def play(tokenizer: Tokenizer, said: AnswerText, text: str, size: int = 1, *, logprobs: bool = False) -> list[Delta]:
    tokens = tokenizer.encode_rendered(text)
    deltas: list[Delta] = []
    for at in range(0, len(tokens), size):
        if said.stopped:
            return deltas
        some = tokens[at : at + size]
        rows = [LogprobRow(chosen=-1.0, top_tokens=[], top_logprobs=[]) for _ in some] if logprobs else None
        deltas.append(said.feed(Tokens(tokens=some, logprobs=rows)))
    return deltas if said.stopped else [*deltas, said.finish()]


def total(deltas: list[Delta]) -> tuple[str, str, list[tuple[str | None, str]]]:
    calls: list[tuple[str | None, str]] = []
    for piece in (piece for delta in deltas for piece in delta.tool_calls):
        calls += [(piece.name, "")] if piece.id is not None else []
        calls[piece.index] = (calls[piece.index][0], calls[piece.index][1] + piece.arguments)
    return "".join(delta.text for delta in deltas), "".join(delta.reasoning for delta in deltas), calls


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("dialect", ["hermes", "mistral", "pythonic"])
def test_calls_are_told_apart_from_the_text(tokenizer: Tokenizer, dialect: str, size: int) -> None:
    said = answer(tokenizer, dialect=dialect, tools=TOOLS)
    text, reasoning, calls = total(play(tokenizer, said, TWO[dialect], size))
    assert (text, reasoning) == ("", "")
    assert [(name, json.loads(arguments)) for name, arguments in calls] == [("get_weather", PARIS), ("now", {})]
    assert said.num_calls == 2


def test_arguments_are_told_while_they_are_written(tokenizer: Tokenizer) -> None:
    deltas = play(tokenizer, answer(tokenizer, tools=TOOLS), ONE["hermes"])
    pieces = [piece for delta in deltas for piece in delta.tool_calls]
    assert (pieces[0].id, pieces[0].name) == ("call_0", "get_weather")
    assert len(pieces) > 10


def test_without_tools_a_call_is_text_and_its_marks_stay_hidden(tokenizer: Tokenizer) -> None:
    assert total(play(tokenizer, answer(tokenizer), ONE["hermes"])) == (ONE["hermes"], "", [])
    said = answer(tokenizer, dialect="mistral")
    assert total(play(tokenizer, said, "[TOOL_CALLS]x"))[0] == "x"
    shown = answer(tokenizer, dialect="mistral", show_special_tokens=True)
    assert total(play(tokenizer, shown, "[TOOL_CALLS]x"))[0] == "[TOOL_CALLS]x"


def test_what_only_looked_like_a_call_is_text_whole(tokenizer: Tokenizer) -> None:
    for dialect, text in (
        ("hermes", 'a <tool_call>\n{"name": "nobody", "arguments": {}}'),
        ("mistral", "[TOOL_CALLS]x"),
    ):
        said = answer(tokenizer, dialect=dialect, tools=TOOLS)
        assert total(play(tokenizer, said, text)) == (text, "", [])
        assert said.num_calls == 0


def test_a_call_cut_off_is_told_as_far_as_it_came_and_is_not_whole(tokenizer: Tokenizer) -> None:
    said = answer(tokenizer, tools=TOOLS)
    text, _, calls = total(play(tokenizer, said, '<tool_call>{"name": "now", "arguments": {"a": "b'))
    assert (text, calls, said.num_calls) == ("", [("now", '{"a": "b')], 0)


def test_where_one_call_is_wanted_the_first_ends_the_answer(tokenizer: Tokenizer) -> None:
    said = answer(tokenizer, tools=TOOLS, parallel_tool_calls=False)
    deltas = play(tokenizer, said, TWO["hermes"] + "and more")
    assert said.stopped
    assert said.stop_found is None
    assert [name for name, _ in total(deltas)[2]] == ["get_weather"]


@pytest.mark.parametrize("size", [1, 2, 1000])
@pytest.mark.parametrize(("thinking", "marks"), [(0, ("<think>", "</think>")), (1, ("[THINK]", "[/THINK]"))])
def test_thoughts_are_told_apart_and_counted(
    tokenizer: Tokenizer, thinking: int, marks: tuple[str, str], size: int
) -> None:
    thought = f"{marks[0]}\nlet me <see>\n{marks[1]}"
    said = answer(tokenizer, thinking=thinking)
    assert total(play(tokenizer, said, f"{thought}\n\nThe answer.", size)) == ("The answer.", "let me <see>", [])
    assert said.num_reasoning == len(tokenizer.encode_rendered(thought))
    begun = answer(tokenizer, thinking=thinking, prompt_text=f"hi{marks[0]}\n")
    assert total(play(tokenizer, begun, f"hm{marks[1]}\n\nyes", size)) == ("yes", "hm", [])
    together = answer(tokenizer, thinking=thinking, separate_reasoning=False)
    assert total(play(tokenizer, together, f"{thought}\n\nyes", size)) == (f"{thought}\n\nyes", "", [])
    assert together.num_reasoning == said.num_reasoning
    plain = answer(tokenizer, thinking=thinking)
    assert total(play(tokenizer, plain, "no thoughts", size)) == ("no thoughts", "", [])
    assert plain.num_reasoning == 0


def test_thoughts_cut_off_are_thoughts(tokenizer: Tokenizer) -> None:
    said = answer(tokenizer, thinking=0)
    assert total(play(tokenizer, said, "<think>\nhm\n")) == ("", "hm\n", [])
    assert said.num_reasoning == said.num_tokens


def test_a_call_in_thoughts_is_a_thought_and_one_behind_them_a_call(tokenizer: Tokenizer) -> None:
    said = answer(tokenizer, thinking=0, tools=TOOLS)
    text, reasoning, calls = total(play(tokenizer, said, f"<think>{ONE['hermes']}</think>\n\n{ONE['hermes']}"))
    assert (text, reasoning) == ("", ONE["hermes"])
    assert len(calls) == said.num_calls == 1


def test_a_raw_prompt_has_no_thoughts(tokenizer: Tokenizer) -> None:
    said = answer(tokenizer, thinking=0, prompt="hi")
    assert total(play(tokenizer, said, "<think>a</think>b")) == ("<think>a</think>b", "", [])


@pytest.mark.parametrize("size", [1, 1000])
def test_a_stop_string_is_found_in_all_that_is_written_and_shown_if_wanted(tokenizer: Tokenizer, size: int) -> None:
    said = answer(tokenizer, stop=("##", "%"))
    assert total(play(tokenizer, said, "ab##cd", size))[0] == "ab"
    assert said.stop_found == "##"
    shown = answer(tokenizer, stop=("##",), include_stop=True)
    assert total(play(tokenizer, shown, "ab##cd", size))[0] == "ab##"
    thinking = answer(tokenizer, stop=("##",), thinking=0)
    assert total(play(tokenizer, thinking, "<think>a##", size)) == ("", "a", [])
    held = answer(tokenizer, stop=("Z",), tools=TOOLS)
    assert total(play(tokenizer, held, "a <tool_cZ", size)) == ("a <tool_c", "", [])
    assert held.stopped


def test_logprobs_come_once_and_in_order_with_thoughts_and_calls(tokenizer: Tokenizer) -> None:
    text = f"<think>\nhm\n</think>\n\nLook: {TWO['hermes']} done <tool_call> "
    said = answer(tokenizer, thinking=0, tools=TOOLS)
    deltas = play(tokenizer, said, text, logprobs=True)
    told = [entry.chosen.token for delta in deltas for entry in delta.logprobs]
    assert told == tokenizer.encode_rendered(text)
    first = next(delta for delta in deltas if delta.tool_calls)
    index = deltas.index(first)
    before = b"".join(entry.chosen.data for delta in deltas[:index] for entry in delta.logprobs)
    assert "get_weather" not in before.decode()


def rows(count: int) -> list[LogprobRow]:
    return [LogprobRow(chosen=-float(index), top_tokens=[0], top_logprobs=[-0.5]) for index in range(count)]


@pytest.mark.parametrize("cut", [1, 3, 100])
def test_the_prompt_is_echoed_with_the_log_probabilities_of_its_tokens(tokenizer: Tokenizer, cut: int) -> None:
    prompt = "The 世界"
    tokens = tokenizer.encode_rendered(prompt)
    said = answer(tokenizer, prompt=prompt, prompt_text=prompt, echo=True, logprobs=1)
    all_rows = rows(len(tokens) - 1)
    deltas = [said.of_prompt(PromptLogprobs(rows=all_rows[at : at + cut])) for at in range(0, len(all_rows), cut)]
    assert said.rest_of_prompt() is None
    deltas += play(tokenizer, said, " is", logprobs=True)
    told = [entry for delta in deltas for entry in delta.logprobs]
    assert "".join(delta.text for delta in deltas) == prompt + " is"
    assert [entry.chosen.token for entry in told] == [*tokens, *tokenizer.encode_rendered(" is")]
    assert (told[0].chosen.logprob, told[0].top) == (None, ())
    assert [entry.chosen.logprob for entry in told[1 : len(tokens)]] == [row.chosen for row in all_rows]
    assert sum(delta.num_tokens for delta in deltas) == said.num_tokens == len(tokenizer.encode_rendered(" is"))


def test_an_echo_without_log_probabilities_comes_before_the_answer(tokenizer: Tokenizer) -> None:
    said = answer(tokenizer, prompt="ab", prompt_text="ab", echo=True, stop=("b",))
    first = said.rest_of_prompt()
    assert first is not None
    assert (first.text, first.num_tokens) == ("ab", 0)
    assert said.rest_of_prompt() is None
    assert total(play(tokenizer, said, "cbd"))[0] == "c"  # the prompt itself is not searched for stop strings


def test_a_prompt_of_one_token_has_an_echo_too(tokenizer: Tokenizer) -> None:
    said = answer(tokenizer, prompt="a", prompt_text="a", echo=True, logprobs=0)
    first = said.rest_of_prompt()
    assert first is not None
    assert (first.text, [entry.chosen.logprob for entry in first.logprobs]) == ("a", [None])


def test_nothing_is_looked_for_where_nothing_is_asked_for(tokenizer: Tokenizer) -> None:
    plain = answer(tokenizer)
    assert plain._hearing is None
    thinking = answer(tokenizer, thinking=0)
    play(tokenizer, thinking, "<think>a</think>\n\nb")
    assert thinking._hearing is None  # thoughts are over: from there on it costs nothing
