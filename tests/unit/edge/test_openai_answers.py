"""Answers in OpenAI's form, where a client over a socket would not look."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
from pydantic import BaseModel

from thaloom.base.ids import RequestId
from thaloom.edge.api.openai.answers import OpenAIForm
from thaloom.edge.api.openai.requests import chat, completion
from thaloom.edge.api.routes.generation import Choice
from thaloom.edge.wire import openai as wire
from thaloom.work.runtime.types import Delta, Done, PositionLogprobs, TokenLogprob, ToolCallPiece

DONE = Done(
    reason="stop", prompt_tokens=5, completion_tokens=2, cached_tokens=3, queue_s=0.1, prefill_s=0.2, decode_s=0.3
)


def chat_form(**changes: Any) -> OpenAIForm:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}]} | changes
    return OpenAIForm(chat(body, RequestId("chatcmpl-1")), created=1, fingerprint="fp_1")


def completion_form(**changes: Any) -> OpenAIForm:
    return OpenAIForm(
        completion({"model": "m", "prompt": "x"} | changes, RequestId("cmpl-1")), created=1, fingerprint="fp_1"
    )


def token(data: bytes, logprob: float = -1.0) -> TokenLogprob:
    return TokenLogprob(token=1, text=data.decode(errors="replace"), data=data, logprob=logprob)


def choice(*positions: PositionLogprobs, text: str = "Hi") -> Choice:
    made = Choice(index=0, done=DONE)
    made.add(Delta(text=text, num_tokens=1, logprobs=positions))
    return made


def usage(form: OpenAIForm) -> bytes:
    return form.closing([choice()]).removesuffix(b"data: [DONE]\n\n")


def event(chunk: bytes) -> Any:
    assert chunk.startswith(b"data: {")
    assert chunk.endswith(b"}\n\n")
    return json.loads(chunk[6:])


def test_whole_answers_are_what_the_document_promises() -> None:
    position = PositionLogprobs(chosen=token(b"Hi"), top=(token(b"Hi"), token(b"\xe4")))
    chats = json.loads(chat_form(logprobs=True, top_logprobs=2).whole([choice(position)]))
    completions = json.loads(completion_form(logprobs=2).whole([choice(position)]))
    assert wire.ChatCompletion.model_validate(chats).model_dump(exclude_unset=True) == chats
    assert wire.Completion.model_validate(completions).model_dump(exclude_unset=True) == completions


def test_chunks_are_what_the_document_promises() -> None:
    form = chat_form(stream=True)
    for chunk in (form.opening(), form.chunk(choice())):
        wire.ChatChunk.model_validate(event(chunk))
    assert "usage" not in event(form.opening())
    with_usage = chat_form(stream=True, stream_options={"include_usage": True})
    assert event(with_usage.opening())["usage"] is None
    assert event(usage(with_usage))["usage"]["total_tokens"] == 7


@pytest.mark.parametrize("form", [chat_form(n=2), completion_form(n=2)])
@pytest.mark.parametrize("text", ["Hi", '""', "\\ \n\u2028", "世界", "\ud800"])
def test_a_chunk_of_text_is_the_last_one_but_for_its_end(form: OpenAIForm, text: str) -> None:
    """It is not encoded as a whole."""
    whole = Choice(index=1, text=text, done=DONE)
    last = event(form.chunk(whole))
    last["choices"][0]["finish_reason"] = None
    whole.done = None
    assert event(form.chunk(whole)) == last


def test_the_last_chunk_without_text_has_an_empty_delta() -> None:
    assert event(chat_form(stream=True).chunk(Choice(index=0, done=DONE)))["choices"] == [
        {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}
    ]


def test_impossible_tokens_are_very_unlikely_and_not_infinite() -> None:
    position = PositionLogprobs(chosen=token(b"a"), top=(token(b"b", -math.inf), token(b"c", math.nan)))
    (entry,) = json.loads(chat_form(logprobs=True, top_logprobs=2).whole([choice(position)]))["choices"][0]["logprobs"][
        "content"
    ]
    assert [top["logprob"] for top in entry["top_logprobs"]] == [-9999.0, -9999.0]


def test_half_a_character_is_spelled_in_bytes() -> None:
    position = PositionLogprobs(chosen=token(b"\xe4\xb8"), top=(token(b"\xe4\xb8"), token(b"\xe4\xbd")))
    told = json.loads(completion_form(logprobs=2).whole([choice(position, text="")]))["choices"][0]["logprobs"]
    assert told["tokens"] == ["bytes:\\xe4\\xb8"]
    assert set(told["top_logprobs"][0]) == {"bytes:\\xe4\\xb8", "bytes:\\xe4\\xbd"}


def test_of_a_completion_the_chosen_token_is_always_among_the_top_ones() -> None:
    likely, unlikely = token(b"a", -0.5), token(b"z", -7.0)
    positions = [PositionLogprobs(chosen=chosen, top=(likely,)) for chosen in (likely, unlikely)]
    told = answered(completion_form(logprobs=1), choice(*positions, text="az"))["choices"][0]["logprobs"]
    assert told["top_logprobs"] == [{"a": -0.5}, {"a": -0.5, "z": -7.0}]


def test_offsets_count_whole_characters() -> None:
    parts = [token(b"a"), token(b"\xe4"), token(b"\xb8\x96"), token(b"b")]
    positions = [PositionLogprobs(chosen=part, top=()) for part in parts]
    form, grown = completion_form(logprobs=0), Choice(index=0)
    offsets = []
    for position in positions:
        grown.logprobs = [position]
        offsets += event(form.chunk(grown))["choices"][0]["logprobs"]["text_offset"]
    assert offsets == [0, 1, 1, 2]


TOOLS = [{"type": "function", "function": {"name": "f"}}]
CALLED = dataclasses.replace(DONE, reason="tool_calls")
PIECES = (
    ToolCallPiece(index=0, id="c0", name="f"),
    ToolCallPiece(index=0, arguments='{"a"'),
    ToolCallPiece(index=0, arguments=": 1}"),
    ToolCallPiece(index=1, id="c1", name="g", arguments="{}"),
)


def events(chunks: bytes, kind: type[BaseModel] = wire.ChatChunk) -> list[Any]:
    """The choice of each chunk; every one is what the document promises, and says nothing beside it."""
    told = [event(chunk + b"\n\n") for chunk in chunks.split(b"\n\n")[:-1]]
    for chunk in told:
        assert kind.model_validate(chunk).model_dump(exclude_unset=True) == chunk
    return [chunk["choices"][0] for chunk in told]


def answered(form: OpenAIForm, *choices: Choice) -> Any:
    told = json.loads(form.whole(choices))
    kind = wire.ChatCompletion if told["object"] == "chat.completion" else wire.Completion
    assert kind.model_validate(told).model_dump(exclude_unset=True, by_alias=True) == told
    return told


def test_calls_are_told_whole_and_without_content() -> None:
    (told,) = answered(chat_form(tools=TOOLS), Choice(index=0, tool_calls=list(PIECES), done=CALLED))["choices"]
    assert told["finish_reason"] == "tool_calls"
    assert told["message"] == {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "tool_calls": [
            {"id": "c0", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}},
            {"id": "c1", "type": "function", "function": {"name": "g", "arguments": "{}"}},
        ],
    }
    both = Choice(index=0, text="so", tool_calls=list(PIECES), done=CALLED)
    assert answered(chat_form(tools=TOOLS), both)["choices"][0]["message"]["content"] == "so"


def test_calls_are_streamed_name_first_then_their_arguments() -> None:
    form = chat_form(tools=TOOLS, stream=True)
    assert events(form.opening())[0]["delta"] == {"role": "assistant", "content": None, "refusal": None}
    told = events(form.chunk(Choice(index=0, text="so", tool_calls=list(PIECES), done=CALLED)))
    assert [choice["delta"] for choice in told] == [
        {"content": "so"},
        {"tool_calls": [{"index": 0, "id": "c0", "type": "function", "function": {"name": "f", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"a": 1}'}}]},
        {"tool_calls": [{"index": 1, "id": "c1", "type": "function", "function": {"name": "g", "arguments": ""}}]},
        {"tool_calls": [{"index": 1, "function": {"arguments": "{}"}}]},
    ]
    assert [choice["finish_reason"] for choice in told] == [None, None, None, None, "tool_calls"]


def test_a_piece_of_a_call_alone_is_one_chunk_without_an_end() -> None:
    form = chat_form(tools=TOOLS, stream=True)
    (told,) = events(form.chunk(Choice(index=0, tool_calls=[PIECES[1]])))
    assert (told["delta"], told["finish_reason"]) == (
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"a"'}}]}, None,
    )  # fmt: skip


def test_who_knows_functions_only_gets_one_function_call() -> None:
    form = chat_form(functions=[{"name": "f"}], stream=True)
    made = Choice(index=0, tool_calls=list(PIECES), done=CALLED)
    assert [(choice["delta"], choice["finish_reason"]) for choice in events(form.chunk(made))] == [
        ({"function_call": {"name": "f", "arguments": ""}}, None),
        ({"function_call": {"arguments": '{"a": 1}'}}, "function_call"),
    ]
    (told,) = answered(form, made)["choices"]
    assert told["finish_reason"] == "function_call"
    assert told["message"]["function_call"] == {"name": "f", "arguments": '{"a": 1}'}
    assert "tool_calls" not in told["message"]


def test_thought_comes_apart_and_first() -> None:
    made = Choice(index=0, text="so", reasoning="hm", done=DONE)
    form = chat_form(stream=True)
    assert [choice["delta"] for choice in events(form.chunk(made))] == [{"reasoning_content": "hm"}, {"content": "so"}]
    assert [choice["delta"] for choice in events(form.chunk(Choice(index=0, reasoning="hm")))] == [
        {"reasoning_content": "hm"}
    ]
    assert answered(form, made)["choices"][0]["message"]["reasoning_content"] == "hm"


def test_thought_that_is_not_wanted_is_left_out() -> None:
    form = chat_form(stream=True, include_reasoning=False)
    assert form.chunk(Choice(index=0, reasoning="hm")) == b""
    made = Choice(index=0, text="so", reasoning="hm", done=DONE)
    assert [choice["delta"] for choice in events(form.chunk(made))] == [{"content": "so"}]
    assert "reasoning_content" not in answered(form, made)["choices"][0]["message"]


def test_log_probabilities_are_told_once_with_the_first_of_several_chunks() -> None:
    position = PositionLogprobs(chosen=token(b"Hi"), top=())
    form = chat_form(stream=True, logprobs=True)
    told = events(form.chunk(Choice(index=0, text="so", reasoning="hm", logprobs=[position])))
    assert [choice["logprobs"] is None for choice in told] == [False, True]


def test_what_stopped_an_answer_is_told_where_it_is_known() -> None:
    stopped = dataclasses.replace(DONE, stop="###")
    for form in (chat_form(), completion_form()):
        assert answered(form, Choice(index=0, text="x", done=stopped))["choices"][0]["stop_reason"] == "###"
        assert "stop_reason" not in answered(form, Choice(index=0, text="x", done=DONE))["choices"][0]
    (last,) = events(completion_form(stream=True).chunk(Choice(index=0, done=stopped)), wire.Completion)
    assert (last["stop_reason"], last["finish_reason"]) == ("###", "stop")


def test_tokens_thought_with_are_counted() -> None:
    done = dataclasses.replace(DONE, reasoning_tokens=1)
    told = answered(chat_form(), Choice(index=0, text="x", done=done))["usage"]
    assert told == {
        "prompt_tokens": 5,
        "completion_tokens": 2,
        "total_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 3},
        "completion_tokens_details": {"reasoning_tokens": 1},
    }


@pytest.mark.parametrize("make", [chat_form, completion_form])
def test_counts_so_far_come_with_every_chunk_if_asked_for(make: Any) -> None:
    both = {"include_usage": True, "continuous_usage_stats": True}
    form, grown = make(stream=True, stream_options=both), Choice(index=0)
    grown.add(Delta(text="a", num_tokens=2, prompt_tokens=5))
    first = event(form.chunk(grown))
    grown.told()
    grown.add(Delta(text="b", num_tokens=1))
    assert first["usage"] == {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    assert event(form.chunk(grown))["usage"] == {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}


def test_the_likeliest_answers_to_each_prompt_are_shown() -> None:
    def made(index: int, *logprobs: float) -> Choice:
        positions = [PositionLogprobs(chosen=token(b"x", logprob), top=()) for logprob in logprobs]
        return Choice(index=index, text=str(index), logprobs=positions, done=DONE)

    form = completion_form(prompt=["a", "b"], best_of=3, n=2)
    told = answered(form, made(0, -3), made(1, -1, -2), made(2, -1), made(3, -5), made(4), made(5, -0.1))
    assert [(choice["index"], choice["text"]) for choice in told["choices"]] == [(0, "2"), (1, "1"), (2, "5"), (3, "3")]
    assert all(choice["logprobs"] is None for choice in told["choices"])
    assert told["usage"]["completion_tokens"] == 12
    assert told["usage"]["prompt_tokens"] == 10


def test_an_echoed_prompt_does_not_count_for_the_likelihood() -> None:
    def made(index: int, last: float) -> Choice:
        prompt = [PositionLogprobs(chosen=token(b"p", -0.1 - index), top=())] * 5
        return Choice(
            index=index, text=str(index), logprobs=[*prompt, PositionLogprobs(chosen=token(b"x", last), top=())],
            done=DONE,
        )  # fmt: skip

    form = completion_form(best_of=2, echo=True)
    assert [choice["text"] for choice in answered(form, made(0, -2), made(1, -1))["choices"]] == ["1"]


def test_the_first_token_of_an_echoed_prompt_has_no_log_probability() -> None:
    first = TokenLogprob(token=1, text="A", data=b"A", logprob=None)
    positions = [PositionLogprobs(chosen=first, top=()), PositionLogprobs(chosen=token(b"b"), top=(token(b"b"),))]
    made = Choice(index=0, text="Ab", logprobs=positions, done=DONE)
    told = answered(completion_form(echo=True, logprobs=1), made)["choices"][0]["logprobs"]
    assert told == {
        "tokens": ["A", "b"],
        "token_logprobs": [None, -1.0],
        "top_logprobs": [None, {"b": -1.0}],
        "text_offset": [0, 1],
    }


def test_the_tier_is_told_if_one_was_asked_for() -> None:
    made = Choice(index=0, text="x", done=DONE)
    assert answered(chat_form(service_tier="flex"), made)["service_tier"] == "default"
    assert "service_tier" not in answered(chat_form(), made)
