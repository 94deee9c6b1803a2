"""From a body to what the runtime is asked: every field where it belongs, every refusal by its name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from thaloom.base.errors import BadParameter
from thaloom.base.ids import RequestId
from thaloom.edge.api.openai.kept.responses.items import kept_items, messages
from thaloom.edge.api.openai.kept.responses.reading import ResponseWanted, read, read_tokens, to_tokenize, wanted
from thaloom.work.runtime.types import ChatMessage, Constraint, GenerateRequest, Pin, Tool

WEATHER = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": True}
TIME = {"type": "function", "name": "time", "description": "What time it is."}


def asked(**fields: Any) -> ResponseWanted:
    return wanted(read({"model": "tiny", "input": "hi"} | fields), RequestId("resp_1"))


def request(**fields: Any) -> GenerateRequest:
    (found,) = asked(**fields).requests
    return found


def said(given: Any, instructions: str | None = None) -> list[tuple[str, str, dict[str, Any]]]:
    found = request(input=given, instructions=instructions).messages
    assert found is not None
    return [(message.role, message.content, message.extra) for message in found]


def refused(**fields: Any) -> BadParameter:
    with pytest.raises(BadParameter) as error:
        asked(**fields)
    return error.value


def test_a_text_is_what_a_user_says() -> None:
    assert said("hi", "Be brief.") == [("system", "Be brief.", {}), ("user", "hi", {})]


def test_messages_may_come_without_their_type_and_in_parts() -> None:
    assert said(
        [
            {"role": "developer", "content": "Be kind."},
            {
                "type": "message",
                "role": "user",
                "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}],
            },
            {"role": "assistant", "content": [{"type": "output_text", "text": "c", "annotations": []}]},
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
        ]
    ) == [("system", "Be kind.", {}), ("user", "a\nb", {}), ("assistant", "c", {}), ("assistant", "no", {})]


def test_what_a_model_did_in_one_go_is_one_turn() -> None:
    calls = [
        {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Ulm"}}},
        {"id": "c2", "type": "function", "function": {"name": "time", "arguments": "no json"}},
    ]
    assert said(
        [
            {"role": "user", "content": "hi"},
            {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]},
            {"role": "assistant", "content": "I look."},
            {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city": "Ulm"}'},
            {"type": "function_call", "call_id": "c2", "name": "time", "arguments": "no json"},
            {"type": "function_call_output", "call_id": "c1", "output": "rain"},
            {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "noon"}]},
            {"role": "assistant", "content": "Rain, at noon."},
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Short."}]},
            {"role": "assistant", "content": "Bye."},
        ]
    ) == [
        ("user", "hi", {}),
        ("assistant", "I look.", {"reasoning_content": "Hm.", "tool_calls": calls}),
        ("tool", "rain", {"tool_call_id": "c1", "name": "weather"}),
        ("tool", "noon", {"tool_call_id": "c2", "name": "time"}),
        ("assistant", "Rain, at noon.", {}),
        ("assistant", "Bye.", {"reasoning_content": "Short."}),
    ]


def test_items_are_kept_with_ids_and_in_parts_and_mean_the_same_again() -> None:
    given: Any = [
        {"role": "user", "content": "hi", "id": "msg_own"},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "1"},
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]},
        {"role": "assistant", "content": "ok"},
    ]
    first = asked(input=given)
    assert first.items[0]["id"] == "msg_own"
    assert [item["id"].split("_")[0] for item in first.items] == ["msg", "fc", "fco", "rs", "msg"]
    assert first.items[0]["content"] == [{"type": "input_text", "text": "hi"}]
    again = asked(input=first.items)
    assert again.items == first.items
    assert again.requests[0].messages == first.requests[0].messages
    assert messages(None, json.loads(json.dumps(kept_items(read({"model": "m", "input": given}).input)))) == (
        first.requests[0].messages
    )


def test_what_was_said_before_comes_first_but_its_instructions_do_not() -> None:
    before = asked(input="one", instructions="old").items
    found = wanted(read({"model": "m", "input": "two", "instructions": "new"}), RequestId("r"), before=before)
    contents = [(message.role, message.content) for message in found.requests[0].messages or ()]
    assert contents == [("system", "new"), ("user", "one"), ("user", "two")]
    assert [item["content"][0]["text"] for item in found.items] == ["two"]


def test_tools_and_their_choice() -> None:
    found = request(tools=[WEATHER, TIME])
    assert found.tools == (
        Tool(name="weather", parameters={"type": "object"}, strict=True),
        Tool(name="time", description="What time it is."),
    )
    assert (found.tool_use, found.forced_tool, found.parallel_tool_calls) == ("auto", None, True)
    assert request(tools=[TIME], tool_choice="none").tool_use == "none"
    assert request(tools=[TIME], tool_choice="required", parallel_tool_calls=False).parallel_tool_calls is False
    forced = request(tools=[WEATHER, TIME], tool_choice={"type": "function", "name": "time"})
    assert (forced.tool_use, forced.forced_tool, len(forced.tools)) == ("required", "time", 2)
    choice = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "time"}]}
    allowed = request(tools=[WEATHER, TIME], tool_choice=choice)
    assert ([tool.name for tool in allowed.tools], allowed.tool_use) == (["time"], "required")


def test_the_form_of_the_text_is_a_constraint_unless_a_call_is_required() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    form = {"format": {"type": "json_schema", "name": "answer", "schema": schema, "strict": True}}
    assert request(text=form).constraint == Constraint(
        kind="json_schema", text=json.dumps(schema), param="text.format.schema"
    )
    assert request(text={"format": {"type": "json_object"}}).constraint == Constraint(
        kind="json_object", param="text.format"
    )
    assert request(text={"format": {"type": "text"}, "verbosity": "medium"}).constraint is None
    assert request(text=form, tools=[TIME], tool_choice="required").constraint is None


def test_sampling_lengths_logprobs_and_effort() -> None:
    found = request(
        temperature=0,
        top_p=0.5,
        top_k=-1,
        min_p=0.1,
        seed=3,
        presence_penalty=1,
        max_output_tokens=7,
        include=["message.output_text.logprobs", "reasoning.encrypted_content"],
        top_logprobs=2,
        reasoning={"effort": "low", "summary": "auto"},
    )
    assert found.sampling_changes == {
        "temperature": 0.0,
        "top_p": 0.5,
        "top_k": 0,
        "min_p": 0.1,
        "seed": 3,
        "presence_penalty": 1.0,
    }
    assert (found.max_tokens, found.logprobs) == (7, 2)
    assert found.templating.variables == {"reasoning_effort": "low", "enable_thinking": True}
    assert request(reasoning={"effort": "none"}).templating.variables["enable_thinking"] is False
    assert request(include=["message.output_text.logprobs"]).logprobs == 0
    assert request(top_logprobs=4).logprobs == 4
    assert request(max_output_tokens=16.0).max_tokens == 16
    plain = request()
    assert (plain.logprobs, plain.max_tokens, plain.sampling_changes, plain.templating.variables) == (
        None,
        None,
        {},
        {},
    )


def test_harmless_fields_are_let_pass_and_storing_is_the_default() -> None:
    assert asked().store is True
    assert asked(store=False, stream=True).store is False
    asked(
        user="u",
        safety_identifier="s",
        prompt_cache_key="k",
        service_tier="flex",
        metadata={"a": "b"},
        truncation=None,
        max_tool_calls=3,
        stream=True,
        stream_options={"include_obfuscation": False},
        unknown={"x": 1},
        conversation=None,
        prompt=None,
        background=False,
        tools=[],
        context_management=[],
        tool_choice="auto",
    )


def test_a_prompt_that_is_to_stay_is_pinned_for_a_day() -> None:
    assert request(prompt_cache_retention="24h").pins == (Pin(seconds=86_400.0),)
    assert request(prompt_cache_retention="in_memory").pins == request().pins == ()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": ""}, "model"),
        ({"prompt_cache_retention": "1h"}, "prompt_cache_retention"),
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role"),
        ({"input": [{"type": "computer_call"}]}, "input[0].type"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "input[0].content[0].type",
        ),
        ({"input": [{"type": "function_call", "call_id": "c", "name": "f"}]}, "input[0].arguments"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [TIME, {"type": "mcp", "server_label": "x"}]}, "tools[1].type"),
        ({"tools": [{"type": "custom", "name": "x"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [TIME, TIME]}, "tools"),
        ({"tools": [TIME], "tool_choice": {"type": "file_search"}}, "tool_choice.type"),
        ({"tools": [TIME], "tool_choice": {"type": "function", "name": "other"}}, "tool_choice.name"),
        ({"tool_choice": "required"}, "tool_choice"),
        (
            {
                "tools": [TIME],
                "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "x"}]},
            },
            "tool_choice.tools[0].name",
        ),
        ({"text": {"format": {"type": "json_schema", "name": "a b", "schema": {}}}}, "text.format.name"),
        ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format.schema"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"verbosity": "high"}}, "text.verbosity"),
        ({"temperature": "hot"}, "temperature"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_output_tokens": 1.5}, "max_output_tokens"),
        ({"max_output_tokens": True}, "max_output_tokens"),
        ({"seed": 1e300}, "seed"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"include": ["everything"]}, "include[0]"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
        ({"truncation": "auto"}, "truncation"),
        ({"background": True, "store": False}, "store"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"context_management": [{"type": "compaction"}]}, "context_management"),
        ({"moderation": {"model": "m"}}, "moderation"),
        ({"input": [{"type": {}, "role": "user", "content": "x"}]}, "input[0].type"),
        ({"input": [{"type": None, "role": "user", "content": "x"}]}, "input[0].type"),
        ({"previous_response_id": ""}, "previous_response_id"),
    ],
)
def test_what_is_wrong_or_not_done_here_is_refused_by_its_name(fields: dict[str, Any], param: str) -> None:
    error = refused(**fields)
    assert error.param == param
    assert param.split(".")[0].split("[")[0] in error.message


def test_tokens_are_counted_of_the_same_prompt() -> None:
    fields = {"model": "tiny", "input": "hi", "instructions": "i", "tools": [TIME], "reasoning": {"effort": "low"}}
    counted, generated = to_tokenize(read_tokens(dict(fields))), request(**fields)
    assert (counted.messages, counted.tools, counted.templating) == (
        generated.messages,
        generated.tools,
        generated.templating,
    )
    assert counted.messages == (ChatMessage(role="system", content="i"), ChatMessage(role="user", content="hi"))
    with pytest.raises(BadParameter):
        read_tokens(fields | {"tools": [{"type": "web_search"}]})
