"""Answers in Anthropic's form, where a client over a socket would not look."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from pydantic import TypeAdapter

from thaloom.base.errors import ERRORS, QueueFull, ThaloomError
from thaloom.base.ids import RequestId
from thaloom.edge.api.anthropic.answers import AnthropicForm
from thaloom.edge.api.anthropic.requests import messages
from thaloom.edge.api.errors import error_response
from thaloom.edge.api.routes.generation import Choice
from thaloom.edge.wire import anthropic as wire
from thaloom.work.runtime.types import Delta, Done, ToolCallPiece

DONE = Done(
    reason="tool_calls", prompt_tokens=5, completion_tokens=2, cached_tokens=3, queue_s=0.1, prefill_s=0.2, decode_s=0.3
)
EVENT: TypeAdapter[Any] = TypeAdapter(wire.Event)


def form(**changes: Any) -> AnthropicForm:
    body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}],
            "thinking": {"type": "adaptive"}} | changes  # fmt: skip
    return AnthropicForm(messages(body, RequestId("msg-1")))


def delta(text: str = "", **more: Any) -> Delta:
    return Delta(text=text, num_tokens=1, **more)


def piece(**fields: Any) -> Delta:
    return delta(tool_calls=(ToolCallPiece(**fields),))


PIECES = [
    delta(reasoning="hm"), delta(reasoning=" so", text="I"), delta(" see"),
    piece(index=0, id="c0", name="f"), piece(index=0, arguments='{"a":'), piece(index=0, arguments="1}"),
    delta("and", tool_calls=(ToolCallPiece(index=1, id="c1", name="g"),)),
]  # fmt: skip


def streamed(made: AnthropicForm, deltas: list[Delta]) -> list[Any]:
    choice = Choice(index=0)
    written = made.opening()
    for one in deltas:
        choice.add(one)
        if choice.has_news:
            written += made.chunk(choice)
            choice.told()
    choice.done = DONE
    written += made.chunk(choice) + made.closing([choice])
    events = []
    for event in written.decode().split("\n\n")[:-1]:
        kind, data = event.split("\n")
        told = json.loads(data.removeprefix("data: "))
        assert kind == f"event: {told['type']}"
        assert EVENT.validate_python(told).model_dump(exclude_none=True).keys() <= told.keys()
        events.append(told)
    return events


def test_blocks_are_opened_filled_and_closed_one_after_the_other() -> None:
    events = streamed(form(), PIECES)
    kinds = [event["type"] for event in events]
    assert kinds[:2] == ["message_start", "ping"]
    assert kinds[-2:] == ["message_delta", "message_stop"]
    opened: int | None = None
    blocks = []
    for event in events[2:-2]:
        if event["type"] == "content_block_start":
            assert opened is None
            opened = event["index"]
            blocks.append(event["content_block"]["type"])
        elif event["type"] == "content_block_stop":
            assert event["index"] == opened
            opened = None
        else:
            assert event["index"] == opened
    assert opened is None
    assert blocks == ["thinking", "text", "tool_use", "text", "tool_use"]
    before_stop = [events[index - 1] for index, kind in enumerate(kinds) if kind == "content_block_stop"]
    assert before_stop[0]["delta"]["type"] == "signature_delta"
    assert events[-2]["usage"] == {
        "input_tokens": 2, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 3, "output_tokens": 2,
        "output_tokens_details": {"thinking_tokens": 0}, "service_tier": "standard",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("pinned", "cached", "told"),
    [
        (0, 16, (24, 0, 16)),
        (32, 0, (8, 32, 0)),
        (32, 16, (8, 16, 16)),
        (32, 32, (8, 0, 32)),
        (16, 32, (8, 0, 32)),
    ],
)
def test_what_was_computed_to_stay_is_told_apart(pinned: int, cached: int, told: tuple[int, int, int]) -> None:
    ended = dataclasses.replace(DONE, prompt_tokens=40, cached_tokens=cached, pinned_tokens=pinned)
    usage = json.loads(form().whole([Choice(index=0, done=ended)]))["usage"]
    names = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    assert tuple(usage[name] for name in names) == told
    assert sum(told) == 40


def test_a_whole_message_is_what_the_document_promises() -> None:
    choice = Choice(index=0, done=DONE)
    for one in PIECES:
        choice.add(one)
    told = json.loads(form().whole([choice]))
    assert wire.MessageAnswer.model_validate(told).model_dump() == told
    assert [block["type"] for block in told["content"]] == ["thinking", "text", "tool_use", "tool_use"]
    assert [block["input"] for block in told["content"][2:]] == [{"a": 1}, {}]
    thought = [event for event in streamed(form(), PIECES) if event.get("delta", {}).get("signature")]
    assert thought[0]["delta"]["signature"] == told["content"][0]["signature"]


@pytest.mark.parametrize(
    ("arguments", "read"),
    [
        ('{"a": "wh', {"a": "wh"}), ('{"a": 1, "b', {"a": 1}), ("", {}), ("[1]", {}), ("nonsense", {}), ("{", {}),
    ],
)  # fmt: skip
def test_arguments_that_were_cut_off_are_told_as_far_as_they_came(arguments: str, read: dict[str, Any]) -> None:
    choice = Choice(index=0, done=DONE)
    choice.add(piece(index=0, id="c", name="f", arguments=arguments))
    assert json.loads(form().whole([choice]))["content"][0]["input"] == read


def test_an_empty_answer_has_no_blocks() -> None:
    assert json.loads(form().whole([Choice(index=0, done=DONE)]))["content"] == []
    assert [event["type"] for event in streamed(form(), [])] == [
        "message_start", "ping", "message_delta", "message_stop",
    ]  # fmt: skip


def test_a_thought_nobody_asked_for_opens_no_block() -> None:
    events = streamed(form(thinking={"type": "disabled"}), [delta(reasoning="hm"), delta(reasoning="so"), delta("x")])
    assert [event["content_block"]["type"] for event in events if "content_block" in event] == ["text"]


@pytest.mark.parametrize("leaf", ERRORS.values(), ids=ERRORS.keys())
def test_every_leaf_has_a_type_the_protocol_knows(leaf: type[ThaloomError]) -> None:
    response = error_response(leaf("what", param="p"), "/v1/messages", request_id="req-1")
    told = json.loads(bytes(response.body))
    assert wire.Error.model_validate(told).model_dump() == told
    assert (told["type"], told["request_id"]) == ("error", "req-1")
    assert told["error"]["type"] in {
        "invalid_request_error", "authentication_error", "permission_error", "not_found_error", "request_too_large",
        "rate_limit_error", "api_error", "overloaded_error", "timeout_error",
    }  # fmt: skip
    assert told["error"]["details"] == {"error_code": leaf.code, "param": "p"}
    assert response.status_code == leaf.http_status


def test_when_to_come_back_is_told_twice() -> None:
    response = error_response(QueueFull("full", retry_after_s=3), "/v1/messages/count_tokens")
    assert response.headers["retry-after"] == "3"
    assert json.loads(bytes(response.body))["error"]["details"]["retry_after_s"] == 3
