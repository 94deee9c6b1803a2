"""Marks of a prompt: where each stands, for how long, and how many there may be."""

from __future__ import annotations

from typing import Any

import pytest

from thaloom.base.errors import BadParameter
from thaloom.base.ids import RequestId
from thaloom.edge.api.anthropic.requests import count_tokens, messages
from thaloom.work.runtime.types import ChatMessage, Mark, Pin

HERE: dict[str, Any] = {"cache_control": {"type": "ephemeral"}}
HOUR: dict[str, Any] = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
TOOL: dict[str, Any] = {"name": "f", "input_schema": {"type": "object"}}
USE: dict[str, Any] = {"type": "tool_use", "id": "t1", "name": "f", "input": {}}
BODY: dict[str, Any] = {"model": "tiny", "max_tokens": 9}


def text(value: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": value} | more


def said(*turns: tuple[str, Any]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in turns]


def pins(turns: list[dict[str, Any]] | None = None, **fields: Any) -> tuple[Pin, ...]:
    body = BODY | {"messages": turns or said(("user", "hi"))} | fields
    (request,) = messages(body, RequestId("msg-1")).requests
    for pin in request.pins:
        mark = pin.mark or Mark()
        assert mark.num_messages <= len(request.messages or ())
    return request.pins


def begun(turns: list[dict[str, Any]], **fields: Any) -> list[str]:
    """What of the marked messages is before each mark."""
    (request,) = messages(BODY | {"messages": turns} | fields, RequestId("msg-1")).requests
    made: tuple[ChatMessage, ...] = request.messages or ()
    marks = [pin.mark for pin in request.pins if pin.mark is not None]
    return [made[mark.num_messages].content[: mark.num_characters] for mark in marks]


def test_nothing_is_pinned_unasked() -> None:
    assert pins(system="s", tools=[TOOL]) == ()
    assert pins(said(("user", [text("a", cache_control=None)])), cache_control=None) == ()


def test_a_mark_lasts_five_minutes_or_an_hour() -> None:
    five = {"cache_control": {"type": "ephemeral", "ttl": "5m"}}
    assert [pin.seconds for control in (HERE, five, HOUR) for pin in pins(**control)] == [300.0, 300.0, 3600.0]


def test_a_mark_of_the_request_is_behind_all_of_it() -> None:
    assert pins(**HOUR) == (Pin(seconds=3600.0),)


def test_a_mark_of_what_the_system_is_told() -> None:
    blocks = [text("Be"), text("brief.", **HERE), text("Today")]
    assert pins(system=blocks) == (Pin(seconds=300.0, mark=Mark(num_characters=len("Be\nbrief."))),)
    assert begun(said(("user", "hi")), system=blocks) == ["Be\nbrief."]


def test_a_mark_of_a_tool_keeps_what_the_system_is_told() -> None:
    tools = [TOOL | HERE, TOOL | {"name": "g"}]
    assert pins(tools=tools) == (Pin(seconds=300.0, mark=Mark(num_tools=1)),)
    assert pins(tools=tools, system="s") == (Pin(seconds=300.0, mark=Mark(num_tools=1, num_messages=1)),)


def test_marks_of_messages_stand_where_their_blocks_end() -> None:
    turns = said(
        ("user", [text("a"), text("b", **HERE), text("c")]),
        ("assistant", [text("d"), USE | HERE, USE | {"id": "t2"}]),
        ("user", [{"type": "tool_result", "tool_use_id": "t1", "content": "wet", "is_error": True} | HERE, text("e")]),
    )
    for system, num_before in (("", 0), ("s", 1)):
        assert [pin.mark for pin in pins(turns, system=system, tools=[TOOL])] == [
            Mark(num_messages=num_before, num_characters=len("a\nb")),
            Mark(num_messages=num_before + 1, num_characters=1, num_calls=1),
            Mark(num_messages=num_before + 2, num_characters=len("Error: wet")),
        ]
        assert begun(turns, system=system, tools=[TOOL]) == ["a\nb", "d", "Error: wet"]


def test_thoughts_before_a_mark_are_of_it() -> None:
    thought = {"type": "thinking", "thinking": "Hm.", "signature": ""}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": "wet"}
    said_and_used = [thought, text("a", **HERE), thought, text("b"), USE | HERE]
    turns = said(("user", "hi"), ("assistant", said_and_used), ("user", [result]))
    first, second = (pin.mark for pin in pins(turns, tools=[TOOL]))
    assert first == Mark(num_messages=1, num_characters=1, num_thought_characters=len("Hm."))
    assert second == Mark(num_messages=1, num_characters=len("a\nb"), num_thought_characters=len("Hm.Hm."), num_calls=1)


def test_a_mark_within_a_result_is_behind_it() -> None:
    result = {"type": "tool_result", "tool_use_id": "t1", "content": [text("wet", **HERE), text("cold")]}
    assert begun(said(("user", "hi"), ("assistant", [USE]), ("user", [result]))) == ["wet\ncold"]


def test_there_may_be_four() -> None:
    system = [text("s", **HERE)]
    tools = [TOOL | HERE]
    turns = said(("user", [text("a", **HERE)]))
    assert len(pins(turns, system=system, tools=tools, **HERE)) == 4
    five = {"messages": said(("user", [text("a", **HERE), text("b", **HERE)])), "system": system, "tools": tools}
    for asked in (
        lambda: messages(BODY | five | HERE, RequestId("msg-1")),
        lambda: count_tokens({"model": "tiny"} | five | HERE),
    ):
        with pytest.raises(BadParameter, match="at most 4") as caught:
            asked()
        assert caught.value.param == "cache_control"


@pytest.mark.parametrize("wrong", [5, "ephemeral", {}, {"type": "forever"}, {"type": "ephemeral", "ttl": "2h"}])
def test_a_mark_that_is_none_is_refused_by_its_name(wrong: Any) -> None:
    places = {
        "cache_control": {"cache_control": wrong},
        "system[0].cache_control": {"system": [text("s", cache_control=wrong)]},
        "tools[0].cache_control": {"tools": [TOOL | {"cache_control": wrong}]},
        "messages[0].content[0].cache_control": {"messages": said(("user", [text("a", cache_control=wrong)]))},
    }
    for name, fields in places.items():
        with pytest.raises(BadParameter) as caught:
            pins(**fields)
        assert (caught.value.param or "").startswith(name)
