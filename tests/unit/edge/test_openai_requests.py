"""From a body to what the runtime is asked: every wrong field is named, and nothing is silently left out."""

from __future__ import annotations

from typing import Any

import pytest

from thaloom.base.errors import BadParameter
from thaloom.base.ids import RequestId
from thaloom.edge.api.openai.requests import OpenAIWanted, chat, completion
from thaloom.edge.wire.openai import UNSERVED
from thaloom.work.runtime.types import ChatMessage

ASK: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
PLAIN: dict[str, Any] = {"model": "tiny", "prompt": "x"}


def ask_chat(**changes: Any) -> OpenAIWanted:
    return chat(ASK | changes, RequestId("id"))


def ask_completion(**changes: Any) -> OpenAIWanted:
    return completion(PLAIN | changes, RequestId("id"))


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"model": None}, "model"),
        ({"model": ""}, "model"),
        ({"model": 7}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": "x"}, {"role": "robot", "content": "x"}]}, "messages[1].role"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 1}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "assistant", "content": "x", "tool_calls": [{"id": "1"}]}]}, "messages[0].tool_calls"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": "0.5"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"temperature": [1]}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"top_k": 1.5}, "top_k"),
        ({"min_p": 2}, "min_p"),
        ({"seed": "x"}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": -1}, "max_completion_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop": ["a", 5]}, "stop[1]"),
        ({"stop": ["a", ""]}, "stop[1]"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"logprobs": 3}, "logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        # what would change the answer and is not served yet
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"functions": [{}]}, "functions"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"frequency_penalty": -0.5}, "frequency_penalty"),
        ({"repetition_penalty": 1.1}, "repetition_penalty"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"best_of": 2}, "best_of"),
        ({"echo": True}, "echo"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"guided_json": {}}, "guided_json"),
        ({"stop_token_ids": [5]}, "stop_token_ids"),
        ({"chat_template_kwargs": {"enable_thinking": False}}, "chat_template_kwargs"),
    ],
)  # fmt: skip
def test_a_wrong_field_of_a_chat_is_named(changes: dict[str, Any], param: str) -> None:
    with pytest.raises(BadParameter) as caught:
        ask_chat(**changes)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": {"text": "x"}}, "prompt"),
        ({"prompt": [1, -1]}, "prompt[1]"),
        ({"prompt": [1, "x"]}, "prompt[1]"),
        ({"logprobs": True}, "logprobs"),
        ({"logprobs": 21}, "logprobs"),
        ({"suffix": "end"}, "suffix"),
        ({"prompt": ["x"] * 65, "n": 2}, "n"),
    ],
)
def test_a_wrong_field_of_a_completion_is_named(changes: dict[str, Any], param: str) -> None:
    with pytest.raises(BadParameter) as caught:
        ask_completion(**changes)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"prompt": [-1]}, r"prompt\[0\]: .*greater than or equal to 0"),
        ({"prompt": [[2**31]]}, r"prompt\[0\]\[0\]: .*less than 2147483648"),
        ({"stop": ["a"] * 17}, "stop: .*at most 16 items"),
        ({"stop": ""}, "stop: .*at least 1 character"),
    ],
)
def test_a_right_type_with_a_wrong_value_is_not_called_a_wrong_type(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(BadParameter, match=complaint):
        ask_completion(**changes)


@pytest.mark.parametrize("missing", ["model", "messages"])
def test_a_missing_field_is_named(missing: str) -> None:
    with pytest.raises(BadParameter) as caught:
        chat({name: value for name, value in ASK.items() if name != missing}, RequestId("id"))
    assert caught.value.param == missing


@pytest.mark.parametrize("name", sorted(UNSERVED))
def test_what_is_not_served_is_refused_unless_it_asks_for_nothing(name: str) -> None:
    for ask in (ask_chat, ask_completion):
        for nothing in (None, *UNSERVED[name]):
            ask(**{name: nothing})
        with pytest.raises(BadParameter, match="not served yet") as caught:
            ask(**{name: "something"})
        assert caught.value.param == name


def test_a_truth_value_is_no_number_that_asks_for_nothing() -> None:
    with pytest.raises(BadParameter):
        ask_chat(best_of=True)


def test_harmless_unknown_fields_are_let_pass() -> None:
    ask_chat(user="ann", metadata={"a": 1}, store=True, service_tier="auto", never_heard_of=[1])


def test_absent_fields_stay_the_models_own() -> None:
    (request,) = ask_chat().requests
    assert (request.sampling, request.sampling_changes, request.max_tokens, request.logprobs) == (None, {}, None, None)
    assert request.messages == (ChatMessage(role="user", content="hi"),)


def test_given_fields_arrive() -> None:
    (request,) = ask_chat(
        temperature=1, top_p=0.5, top_k=-1, min_p=0.1, seed=3, max_completion_tokens=7, stop="x", ignore_eos=True,
        logprobs=True, top_logprobs=4,
    ).requests  # fmt: skip
    assert request.sampling_changes == {"temperature": 1.0, "top_p": 0.5, "top_k": 0, "min_p": 0.1, "seed": 3}
    assert (request.max_tokens, request.stop, request.ignore_eos, request.logprobs) == (7, ("x",), True, 4)
    assert ask_chat(logprobs=True).requests[0].logprobs == 0
    assert ask_chat(max_tokens=7, max_completion_tokens=7).requests[0].max_tokens == 7


def test_seeds_of_several_answers_differ_and_stay_in_range() -> None:
    assert [request.sampling_changes["seed"] for request in ask_chat(seed=2**64 - 2, n=3).requests] == [
        2**64 - 2,
        2**64 - 1,
        2**64 - 4,
    ]
    assert len({request.id for request in ask_chat(n=5).requests}) == 5


def test_names_and_old_roles_reach_the_template() -> None:
    messages = [{"role": "developer", "content": "d"}, {"role": "user", "content": "u", "name": "ann"}]
    (request,) = ask_chat(messages=messages).requests
    assert request.messages == (
        ChatMessage(role="system", content="d"),
        ChatMessage(role="user", content="u", extra={"name": "ann"}),
    )


def test_each_form_of_prompt_is_understood() -> None:
    assert [request.prompt for request in ask_completion(prompt=["a", "b"], n=2).requests] == ["a", "a", "b", "b"]
    assert [request.prompt_tokens for request in ask_completion(prompt=[1, 2]).requests] == [(1, 2)]
    assert [request.prompt_tokens for request in ask_completion(prompt=[[1], [2, 3]]).requests] == [(1,), (2, 3)]
    assert ask_completion().requests[0].max_tokens == 16
