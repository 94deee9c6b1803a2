"""From a body to what the runtime is asked: every wrong field is named, and nothing is silently left out."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from thaloom.base.errors import BadParameter
from thaloom.base.ids import RequestId
from thaloom.edge.api.openai.requests import OpenAIWanted, chat, completion
from thaloom.edge.wire.openai_requests import UNSERVED_IN_CHAT, UNSERVED_IN_COMPLETION
from thaloom.work.runtime.types import ChatMessage, Constraint, GenerateRequest, Pin, Templating, Tool

ASK: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
PLAIN: dict[str, Any] = {"model": "tiny", "prompt": "x"}
FUNCTION: dict[str, Any] = {
    "type": "function",
    "function": {"name": "f", "description": "does", "parameters": {"type": "object"}, "strict": True},
}
OTHER: dict[str, Any] = {"type": "function", "function": {"name": "g"}}
F = Tool(name="f", description="does", parameters={"type": "object"}, strict=True)
G = Tool(name="g")


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
        ({"messages": [{"role": 5, "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": ["x"]}, "messages[0]"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "tool", "content": None, "tool_call_id": "1"}]}, "messages[0].content"),
        ({"messages": [{"role": "function", "content": "x"}]}, "messages[0].name"),
        ({"messages": [{"role": "assistant"}]}, "messages[0].content"),
        ({"messages": [{"role": "assistant", "content": None, "tool_calls": []}]}, "messages[0].content"),
        ({"messages": [{"role": "assistant", "content": "x", "audio": {"id": "1"}}]}, "messages[0].audio"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "file", "file": {}}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "refusal", "refusal": "x"}]}]},
         "messages[0].content[0].type"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 1}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "assistant", "content": "x", "tool_calls": [{"id": "1"}]}]},
         "messages[0].tool_calls[0].function"),
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
        ({"frequency_penalty": 2.1}, "frequency_penalty"),
        ({"presence_penalty": "0"}, "presence_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"logit_bias": {"x": 1}}, "logit_bias.x"),
        ({"logit_bias": {"-1": 1}}, "logit_bias.-1"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5"),
        ({"logit_bias": [5]}, "logit_bias"),
        ({"min_tokens": -1}, "min_tokens"),
        ({"stop_token_ids": [-1]}, "stop_token_ids[0]"),
        ({"include_stop_str_in_output": "yes"}, "include_stop_str_in_output"),
        ({"skip_special_tokens": 0}, "skip_special_tokens"),
        ({"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": 1}},
         "stream_options.continuous_usage_stats"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function", "function": {"name": "f" * 65}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]},
         "tools[0].function.parameters"),
        ({"tools": [FUNCTION] * 129}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "must"}, "tool_choice"),
        ({"tools": [FUNCTION], "tool_choice": {"type": "custom", "custom": {"name": "f"}}}, "tool_choice.type"),
        ({"tools": [FUNCTION], "tool_choice": {"type": "function", "function": {"name": "g"}}},
         "tool_choice.function.name"),
        ({"tools": [FUNCTION], "tool_choice": {"type": "function"}}, "tool_choice.function"),
        ({"tools": [FUNCTION], "tool_choice": {"type": "allowed_tools", "allowed_tools": {
            "mode": "auto", "tools": []}}},
         "tool_choice.allowed_tools.tools"),
        ({"tools": [FUNCTION], "tool_choice": {"type": "allowed_tools", "allowed_tools": {
            "mode": "auto", "tools": [FUNCTION, {"type": "function", "function": {"name": "g"}}]}}},
         "tool_choice.allowed_tools.tools[1].function.name"),
        ({"functions": [{}]}, "functions[0].name"),
        ({"functions": [{"name": "f"}], "tools": [FUNCTION]}, "functions"),
        ({"function_call": "auto", "tools": [FUNCTION]}, "function_call"),
        ({"functions": [{"name": "f"}], "function_call": {"name": "g"}}, "function_call.name"),
        ({"parallel_tool_calls": "no"}, "parallel_tool_calls"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {}}, "response_format.type"),
        ({"response_format": "json_object"}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
         "response_format.json_schema.name"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": []}}},
         "response_format.json_schema.schema"),
        ({"response_format": {"type": "json_object"}, "guided_regex": "a"}, "guided_regex"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs.choice"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag"),
        ({"structured_outputs": {"json": "{"}}, "structured_outputs.json"),
        ({"guided_json": "[]"}, "guided_json"),
        ({"guided_choice": []}, "guided_choice"),
        ({"reasoning_effort": "some"}, "reasoning_effort"),
        ({"verbosity": 5}, "verbosity"),
        ({"chat_template_kwargs": []}, "chat_template_kwargs"),
        ({"user": 5}, "user"),
        # what would change the answer and is not served
        ({"best_of": 2}, "best_of"),
        ({"echo": True}, "echo"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"chat_template": "x"}, "chat_template"),
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
        ({"prompt": [[]]}, "prompt[0]"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"echo": 1}, "echo"),
        ({"best_of": 2, "n": 3}, "best_of"),
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"prompt": ["x"] * 65, "best_of": 2}, "n"),
        ({"logprobs": -1}, "logprobs"),
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


UNSERVED = [(ask_chat, name, neutral) for name, neutral in sorted(UNSERVED_IN_CHAT.items())] + [
    (ask_completion, name, neutral) for name, neutral in sorted(UNSERVED_IN_COMPLETION.items())
]


@pytest.mark.parametrize(("ask", "name", "neutral"), UNSERVED)
def test_what_is_not_served_is_refused_unless_it_asks_for_nothing(
    ask: Callable[..., OpenAIWanted], name: str, neutral: tuple[Any, ...]
) -> None:
    for nothing in (None, *neutral):
        ask(**{name: nothing})
    with pytest.raises(BadParameter, match="not served") as caught:
        ask(**{name: "something"})
    assert caught.value.param == name


def test_a_truth_value_is_no_number_that_asks_for_nothing() -> None:
    with pytest.raises(BadParameter):
        ask_chat(best_of=True)


def test_harmless_unknown_fields_are_let_pass() -> None:
    plain = ask_chat().requests
    harmless = {
        "user": "ann", "metadata": {"a": 1}, "store": True, "service_tier": "flex", "never_heard_of": [1],
        "prediction": {"type": "content", "content": "x"}, "prompt_cache_key": "k", "safety_identifier": "s",
        "modalities": ["text"], "parallel_tool_calls": True, "tool_choice": "auto", "tools": [],
        "response_format": {"type": "text"}, "structured_outputs": {}, "grammar": "", "logit_bias": {},
        "stop_token_ids": [], "min_tokens": 0, "skip_special_tokens": True, "chat_template_kwargs": {},
        "guided_decoding_backend": "x",
    }  # fmt: skip
    assert ask_chat(**harmless).requests == plain


def test_absent_fields_stay_the_models_own() -> None:
    (request,) = ask_chat().requests
    assert (request.sampling, request.sampling_changes, request.max_tokens, request.logprobs) == (None, {}, None, None)
    assert request.messages == (ChatMessage(role="user", content="hi"),)


def test_given_fields_arrive() -> None:
    (request,) = ask_chat(
        temperature=1, top_p=0.5, top_k=-1, min_p=0.1, seed=3, max_completion_tokens=7, stop="x", ignore_eos=True,
        logprobs=True, top_logprobs=4, cache_salt="mine",
    ).requests  # fmt: skip
    assert request.sampling_changes == {"temperature": 1.0, "top_p": 0.5, "top_k": 0, "min_p": 0.1, "seed": 3}
    assert (request.max_tokens, request.stop, request.ignore_eos, request.logprobs) == (7, ("x",), True, 4)
    assert request.cache_salt == "mine"
    assert ask_chat(logprobs=True).requests[0].logprobs == 0
    assert ask_chat(max_tokens=7, max_completion_tokens=8).requests[0].max_tokens == 7
    assert ask_chat(max_tokens=9, max_completion_tokens=8).requests[0].max_tokens == 8


@pytest.mark.parametrize("ask", [ask_chat, ask_completion])
def test_a_prompt_that_is_to_stay_is_pinned_for_a_day(ask: Callable[..., OpenAIWanted]) -> None:
    for request in ask(prompt_cache_retention="24h", n=2).requests:
        assert request.pins == (Pin(seconds=86_400.0),)
    for nothing in (None, "in_memory", "in-memory"):
        assert ask(prompt_cache_retention=nothing).requests == ask().requests


@pytest.mark.parametrize("ask", [ask_chat, ask_completion])
@pytest.mark.parametrize("wrong", ["1h", "", "24H", 24, True, {"type": "24h"}])
def test_no_other_time_can_be_asked_for(ask: Callable[..., OpenAIWanted], wrong: Any) -> None:
    with pytest.raises(BadParameter, match="in_memory") as caught:
        ask(prompt_cache_retention=wrong)
    assert caught.value.param == "prompt_cache_retention"


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


# -- each field that is served


def chat_request(**changes: Any) -> GenerateRequest:
    (request,) = ask_chat(**changes).requests
    return request


def test_penalties_and_biases_arrive() -> None:
    request = chat_request(
        frequency_penalty=-2, presence_penalty=2, repetition_penalty=1.5, logit_bias={"5": 1, "70": -100}
    )
    assert request.sampling_changes == {
        "frequency_penalty": -2.0,
        "presence_penalty": 2.0,
        "repetition_penalty": 1.5,
        "logit_bias": ((5, 1.0), (70, -100.0)),
    }


def test_ends_of_answers_arrive() -> None:
    request = chat_request(
        min_tokens=3, max_tokens=5, stop=["a", "b"], stop_token_ids=[7], include_stop_str_in_output=True,
        skip_special_tokens=False,
    )  # fmt: skip
    assert (request.min_tokens, request.max_tokens, request.stop, request.stop_tokens) == (3, 5, ("a", "b"), (7,))
    assert request.include_stop
    assert request.show_special_tokens


@pytest.mark.parametrize(
    ("changes", "use", "forced", "tools"),
    [
        ({}, "auto", None, (F, G)),
        ({"tool_choice": None}, "auto", None, (F, G)),
        ({"tool_choice": "auto"}, "auto", None, (F, G)),
        ({"tool_choice": "none"}, "none", None, (F, G)),
        ({"tool_choice": "required"}, "required", None, (F, G)),
        ({"tool_choice": OTHER}, "required", "g", (F, G)),
        ({"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [OTHER]}}},
         "required", None, (G,)),
        ({"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [OTHER, FUNCTION]}}},
         "auto", None, (F, G)),
    ],
)  # fmt: skip
def test_tools_and_the_choice_among_them_arrive(
    changes: dict[str, Any], use: str, forced: str | None, tools: tuple[Tool, ...]
) -> None:
    wanted = ask_chat(tools=[FUNCTION, OTHER], **changes)
    request = wanted.requests[0]
    assert (request.tools, request.tool_use, request.forced_tool) == (tools, use, forced)
    assert request.parallel_tool_calls
    assert wanted.tools.may_call == (use != "none")
    assert not wanted.tools.as_functions
    assert not chat_request(tools=[FUNCTION], parallel_tool_calls=False).parallel_tool_calls


@pytest.mark.parametrize(
    ("choice", "use", "forced"),
    [(None, "auto", None), ("auto", "auto", None), ("none", "none", None), ({"name": "f"}, "required", "f")],
)
def test_functions_are_tools_of_which_one_may_be_called(choice: Any, use: str, forced: str | None) -> None:
    wanted = ask_chat(functions=[FUNCTION["function"]], function_call=choice)
    request = wanted.requests[0]
    assert (request.tools, request.tool_use, request.forced_tool) == ((F,), use, forced)
    assert not request.parallel_tool_calls
    assert wanted.tools.as_functions


def test_turns_that_called_tools_and_what_these_said_reach_the_template() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    odd = {"id": "c2", "function": {"name": "f", "arguments": "{half"}}
    request = chat_request(
        messages=[
            {"role": "user", "content": "u"},
            {"role": "assistant", "content": None, "tool_calls": [call, odd], "reasoning_content": "hm"},
            {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "yes"}]},
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}, {"type": "text", "text": "but"}]},
        ]
    )
    assert request.messages is not None
    assert request.messages[1:] == (
        ChatMessage(
            role="assistant",
            content="",
            extra={
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}},
                    {"id": "c2", "type": "function", "function": {"name": "f", "arguments": "{half"}},
                ],
                "reasoning_content": "hm",
            },
        ),
        ChatMessage(role="tool", content="yes", extra={"tool_call_id": "c1"}),
        ChatMessage(role="assistant", content="no\nbut"),
    )


def test_an_older_function_call_and_its_answer_find_each_other() -> None:
    request = chat_request(
        messages=[
            {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
            {"role": "function", "name": "f", "content": None},
        ]
    )
    assert request.messages is not None
    (asked, answered) = request.messages
    assert asked.extra["tool_calls"] == [
        {"id": "call_0", "type": "function", "function": {"name": "f", "arguments": {}}}
    ]
    assert answered == ChatMessage(role="tool", content="", extra={"tool_call_id": "call_0", "name": "f"})


SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("changes", "kind", "text"),
    [
        ({"response_format": {"type": "json_object"}}, "json_object", ""),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, "json_object", ""),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": SCHEMA}}},
         "json_schema", SCHEMA),
        ({"structured_outputs": {"json": SCHEMA}}, "json_schema", SCHEMA),
        ({"structured_outputs": {"json": json.dumps(SCHEMA)}}, "json_schema", SCHEMA),
        ({"structured_outputs": {"regex": "a+"}}, "regex", "a+"),
        ({"structured_outputs": {"choice": ["a", "世"]}}, "choice", ["a", "世"]),
        ({"structured_outputs": {"grammar": 'root ::= "a"'}}, "gbnf", 'root ::= "a"'),
        ({"structured_outputs": {"grammar": 'start: "a"'}}, "lark", 'start: "a"'),
        ({"structured_outputs": {"json_object": True}}, "json_object", ""),
        ({"guided_json": SCHEMA}, "json_schema", SCHEMA),
        ({"guided_regex": "a+"}, "regex", "a+"),
        ({"guided_choice": ["a"]}, "choice", ["a"]),
        ({"guided_grammar": 'start: "a"'}, "lark", 'start: "a"'),
        ({"grammar": 'root ::= "a"'}, "gbnf", 'root ::= "a"'),
        ({"json_schema": SCHEMA}, "json_schema", SCHEMA),
    ],
)  # fmt: skip
def test_every_word_for_the_form_of_an_answer_is_understood(changes: dict[str, Any], kind: str, text: Any) -> None:
    for (request,) in (ask_chat(**changes).requests, ask_completion(**changes).requests):
        assert request.constraint is not None
        assert request.constraint.kind == kind
        (asked,) = changes
        within = [asked, *(f"{asked}.{name}" for name in changes[asked])] if asked == "structured_outputs" else [asked]
        assert request.constraint.param == within[-1], "it is what a refusal names"
        told = request.constraint.text
        assert (told if isinstance(text, str) else json.loads(told)) == text


def test_what_must_call_a_tool_has_no_other_form() -> None:
    both = {"tools": [FUNCTION], "response_format": {"type": "json_object"}}
    assert chat_request(**both).constraint == Constraint(kind="json_object")
    assert chat_request(**both, tool_choice="required").constraint is None


def test_words_for_the_template_arrive() -> None:
    assert chat_request().templating == Templating()
    request = chat_request(
        reasoning_effort="low", verbosity="high", documents=[{"text": "d"}], continue_final_message=True,
        chat_template_kwargs={"x": [1]},
    )  # fmt: skip
    assert request.templating == Templating(
        variables={
            "reasoning_effort": "low",
            "enable_thinking": True,
            "verbosity": "high",
            "documents": [{"text": "d"}],
            "x": [1],
        },
        continue_final_message=True,
    )
    assert chat_request(reasoning_effort="none").templating.variables["enable_thinking"] is False
    own = chat_request(reasoning_effort="high", chat_template_kwargs={"enable_thinking": False})
    assert own.templating.variables["enable_thinking"] is False
    assert not chat_request(add_generation_prompt=False).templating.add_generation_prompt


def test_reasoning_is_apart_unless_it_is_wanted_otherwise() -> None:
    assert chat_request().separate_reasoning
    assert not chat_request(separate_reasoning=False).separate_reasoning
    assert not ask_completion().requests[0].separate_reasoning
    assert ask_chat().include_reasoning
    assert not ask_chat(include_reasoning=False).include_reasoning


def test_an_echo_may_be_all_that_is_wanted() -> None:
    (request,) = ask_completion(echo=True, max_tokens=0, logprobs=0).requests
    assert (request.echo, request.max_tokens, request.logprobs) == (True, 0, 0)


def test_more_answers_are_made_than_shown_and_with_what_they_are_chosen_by() -> None:
    wanted = ask_completion(prompt=["a", "b"], best_of=3, n=2)
    assert [request.prompt for request in wanted.requests] == ["a"] * 3 + ["b"] * 3
    assert {request.logprobs for request in wanted.requests} == {0}
    assert (wanted.logprobs, wanted.num_shown, wanted.num_prompts) == (None, 2, 2)
    assert ask_completion(best_of=2, n=2).requests[0].logprobs is None


def test_usage_with_every_chunk_needs_usage_at_all() -> None:
    assert not ask_chat(stream=True, stream_options={"continuous_usage_stats": True}).usage_so_far
    both = {"include_usage": True, "continuous_usage_stats": True}
    assert ask_chat(stream=True, stream_options=both).usage_so_far


def test_a_tier_is_told_only_if_one_was_asked_for() -> None:
    assert ask_chat(service_tier="priority").service_tier
    assert not ask_chat().service_tier
