"""From a body to what the runtime is asked: every wrong field is named, and nothing is silently left out."""

from __future__ import annotations

import json
from typing import Any

import pytest

from thaloom.base.errors import BadParameter
from thaloom.base.ids import RequestId
from thaloom.edge.api.anthropic.requests import AnthropicWanted, count_tokens, messages
from thaloom.edge.wire.anthropic import UNSERVED
from thaloom.work.runtime.types import ChatMessage, GenerateRequest

ASK: dict[str, Any] = {"model": "tiny", "max_tokens": 2000, "messages": [{"role": "user", "content": "hi"}]}
TOOL: dict[str, Any] = {"name": "f", "input_schema": {"type": "object"}}
USE = {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}}


def ask(**changes: Any) -> AnthropicWanted:
    return messages(ASK | changes, RequestId("msg-1"))


def request(**changes: Any) -> GenerateRequest:
    (made,) = ask(**changes).requests
    return made


def turns(*given: tuple[str, Any]) -> tuple[ChatMessage, ...]:
    made = request(messages=[{"role": role, "content": content} for role, content in given]).messages
    assert made is not None
    return made


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def result(content: Any = "r", **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "t1", "content": content} | more


def user(*blocks: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(blocks)}]


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"model": None}, "model"),
        ({"model": ""}, "model"),
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": ""}]}, "messages[0].content"),
        ({"messages": user()}, "messages[0].content"),
        ({"messages": user({"type": "text"})}, "messages[0].content[0].text"),
        ({"messages": user({"type": "image", "source": {}})}, "messages[0].content[0].type"),
        ({"messages": user(text("x"), {"type": "document", "source": {}})}, "messages[0].content[1].type"),
        ({"messages": user(result([{"type": "image"}]))}, "messages[0].content[0].content[0].type"),
        ({"messages": user(result())}, "messages[0].content[0].tool_use_id"),
        ({"messages": user(USE)}, "messages[0].content[0]"),
        ({"messages": [{"role": "assistant", "content": [result()]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "assistant", "content": ""}]}, "messages"),
        ({"messages": [{"role": "assistant", "content": [{"type": "redacted_thinking", "data": "x"}]}]}, "messages"),
        ({"messages": [{"role": "assistant", "content": [USE]}]}, "messages[0]"),
        ({"messages": [{"role": "assistant", "content": "And "}]}, "messages[0]"),
        ({"messages": [{"role": "assistant", "content": [{"type": "thinking", "thinking": "x"}]}]}, "messages[0]"),
        ({"system": 5}, "system"),
        ({"system": [{"type": "image"}]}, "system[0].type"),
        ({"temperature": 1.1}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"stop_sequences": [""]}, "stop_sequences[0]"),
        ({"stop_sequences": "x"}, "stop_sequences"),
        ({"stop_sequences": ["x"] * 65}, "stop_sequences"),
        ({"stream": 1}, "stream"),
        ({"service_tier": "fast"}, "service_tier"),
        ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
        ({"tools": [TOOL | {"name": "a b"}]}, "tools[0].name"),
        ({"tools": [TOOL, TOOL]}, "tools[1].name"),
        ({"tools": [TOOL, {"type": "bash_20250124", "name": "bash"}]}, "tools[1].type"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "g"}}, "tool_choice.name"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"tools": [TOOL], "tool_choice": {"type": "must"}}, "tool_choice.type"),
        ({"tools": [TOOL], "tool_choice": {"type": "any"}, "thinking": {"type": "enabled", "budget_tokens": 1024}},
         "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "any"}, "output_format": {"type": "json_schema", "schema": {}}},
         "tool_choice"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1000}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "loud"}}, "thinking.type"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format.type"),
        ({"output_config": {"effort": "none"}}, "output_config.effort"),
        ({"container": "c"}, "container"),
        ({"mcp_servers": [{"type": "url"}]}, "mcp_servers"),
        ({"inference_geo": "eu"}, "inference_geo"),
        ({"compaction": {}}, "compaction"),
        ({"thread": {"type": "create"}}, "thread"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(changes: dict[str, Any], param: str) -> None:
    with pytest.raises(BadParameter) as caught:
        ask(**changes)
    assert caught.value.param == param
    assert param.split(".")[0].split("[")[0] in caught.value.message


def test_what_asks_for_nothing_is_let_pass() -> None:
    nothing = {name: values[0] if values else None for name, values in UNSERVED.items()}
    made = request(**nothing, thread=None, cache_control=None, context_management={"edits": []},
                   speed="fast", betas=["x"], something_new={"a": 1})  # fmt: skip
    assert made == request()


def test_neighbours_of_one_role_are_one_turn() -> None:
    made = turns(("user", "a"), ("user", [text("b"), text("c")]), ("assistant", "d"), ("assistant", "e"), ("user", "f"))
    assert [(turn.role, turn.content) for turn in made] == [("user", "a\nb\nc"), ("assistant", "d\ne"), ("user", "f")]


def test_an_empty_word_is_none() -> None:
    assert [(turn.role, turn.content) for turn in turns(("user", [text("")]))] == [("user", "")]
    made = turns(("user", "a"), ("assistant", ""), ("assistant", [text("")]), ("user", [text("b"), text("")]))
    assert [(turn.role, turn.content) for turn in made] == [("user", "a\nb")]


def test_results_and_words_keep_their_order() -> None:
    second = USE | {"id": "t2", "name": "g"}
    made = turns(
        ("user", "go"),
        ("assistant", [{"type": "thinking", "thinking": "hm", "signature": "s"}, text("I look"), USE, second]),
        ("user", [result([text("a"), text("b")]), result("bad", tool_use_id="t2", is_error=True), text("and?")]),
    )
    assert [turn.role for turn in made] == ["user", "assistant", "tool", "tool", "user"]
    assert made[1].content == "I look"
    assert made[1].extra["reasoning_content"] == "hm"
    assert [call["id"] for call in made[1].extra["tool_calls"]] == ["t1", "t2"]
    assert made[1].extra["tool_calls"][0]["function"] == {"name": "f", "arguments": {"a": 1}}
    assert (made[2].content, made[2].extra) == ("a\nb", {"tool_call_id": "t1", "name": "f"})
    assert (made[3].content, made[3].extra["name"]) == ("Error: bad", "g")
    assert made[4].content == "and?"


def test_a_result_may_say_nothing() -> None:
    for empty in ({"content": None}, {"content": []}, {"content": ""}):
        made = turns(("user", "go"), ("assistant", [USE]), ("user", [result(**empty)]))
        assert made[-1].content == ""


def test_system_comes_first_and_may_come_again() -> None:
    made = request(system=[text("a"), text("b")], messages=[*ASK["messages"], {"role": "system", "content": "c"}])
    assert [(turn.role, turn.content) for turn in made.messages or ()] == [
        ("system", "a\nb"), ("user", "hi"), ("system", "c"),
    ]  # fmt: skip
    assert request(system="").messages == request().messages


def test_a_begun_answer_is_continued() -> None:
    begun = request(messages=[*ASK["messages"], {"role": "assistant", "content": [text("The sum is (")]}]).templating
    assert (begun.continue_final_message, begun.add_generation_prompt) == (True, False)
    for empty in ("", [], [text("")]):
        made = request(messages=[*ASK["messages"], {"role": "assistant", "content": empty}])
        assert made.templating.continue_final_message is False
        assert len(made.messages or ()) == 1


def test_how_tools_may_be_used() -> None:
    def choice(**given: Any) -> tuple[Any, ...]:
        made = request(tools=[TOOL | {"strict": True}], tool_choice=given)
        assert made.tools[0].strict
        return made.tool_use, made.forced_tool, made.parallel_tool_calls

    assert choice(type="auto") == ("auto", None, True)
    assert choice(type="none") == ("none", None, True)
    assert choice(type="any", disable_parallel_tool_use=True) == ("required", None, False)
    assert choice(type="tool", name="f") == ("required", "f", True)
    assert request().tool_use == "auto"


def test_thinking_is_told_to_the_template() -> None:
    def told(**given: Any) -> tuple[dict[str, Any], bool, bool]:
        wanted = ask(**given)
        return wanted.requests[0].templating.variables, wanted.thinking, wanted.thinking_text

    off = {"enable_thinking": False, "thinking": False}
    assert told() == (off, False, True)
    assert told(thinking={"type": "disabled"}) == (off, False, True)
    on = {"enable_thinking": True, "thinking": True, "thinking_budget": 1024}
    assert told(thinking={"type": "enabled", "budget_tokens": 1024}) == (on, True, True)
    assert told(thinking={"type": "adaptive", "display": "omitted"}) == ({}, True, False)
    assert told(output_config={"effort": "max"}) == (off | {"reasoning_effort": "high"}, False, True)


@pytest.mark.parametrize("field", ["output_config", "output_format"])
def test_a_format_is_a_constraint(field: str) -> None:
    schema = {"type": "object", "properties": {"é": {"type": "string"}}}
    wanted: dict[str, Any] = {"type": "json_schema", "schema": schema}
    constraint = request(**{field: {"format": wanted} if field == "output_config" else wanted}).constraint
    assert constraint is not None
    assert (constraint.kind, json.loads(constraint.text)) == ("json_schema", schema)
    assert constraint.param.split(".")[0] == field


def test_ids_look_as_the_protocols_do() -> None:
    assert ask().id == "msg_1"
    assert request().id == "msg-1"


def test_what_is_counted_is_what_would_be_asked() -> None:
    body = {name: value for name, value in ASK.items() if name != "max_tokens"} | {"system": "s", "tools": [TOOL]}
    counted, asked = count_tokens(body), request(system="s", tools=[TOOL])
    assert (counted.messages, counted.tools, counted.templating) == (asked.messages, asked.tools, asked.templating)
    with pytest.raises(BadParameter):
        count_tokens(body | {"messages": []})
