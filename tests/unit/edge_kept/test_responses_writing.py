"""The events of a response: each item and part opened, grown and closed once, and what they tell adds up."""

from __future__ import annotations

import json
from typing import Any

from openai.types.responses import Response as OpenAIResponse
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from thaloom.base.errors import BadParameter, PromptTooLong, QueueFull, WorkerLost
from thaloom.base.ids import RequestId
from thaloom.edge.api.openai.kept.responses.reading import read, wanted
from thaloom.edge.api.openai.kept.responses.writing import ResponseForm
from thaloom.edge.api.routes.generation import Choice
from thaloom.edge.wire.responses import Response
from thaloom.work.runtime.types import Delta, Done, PositionLogprobs, TokenLogprob, ToolCallPiece

EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def done(reason: Any = "stop", **facts: Any) -> Done:
    return Done(
        **{"reason": reason, "prompt_tokens": 9, "completion_tokens": 5, "cached_tokens": 4, "queue_s": 0.0,
           "prefill_s": 0.0, "decode_s": 0.0} | facts
    )  # fmt: skip


def form(**fields: Any) -> ResponseForm:
    return ResponseForm(wanted(read({"model": "tiny", "input": "hi"} | fields), RequestId("resp_1")), now=lambda: 7.5)


def text(said: str, **facts: Any) -> Delta:
    return Delta(text=said, num_tokens=1, **facts)


def thought(said: str) -> Delta:
    return Delta(text="", num_tokens=1, reasoning=said)


def call(index: int, arguments: str = "", **facts: Any) -> Delta:
    return Delta(text="", num_tokens=1, tool_calls=(ToolCallPiece(index=index, arguments=arguments, **facts),))


def streamed(answer: ResponseForm, items: list[Delta | Done | Exception]) -> list[dict[str, Any]]:
    choice = Choice(index=0)
    data = answer.opening()
    for item in items:
        if isinstance(item, Exception):
            data += answer.error_event(item)  # type: ignore[arg-type]
            break
        if isinstance(item, Done):
            choice.done = item
        else:
            choice.add(item)
        data += answer.chunk(choice)
        choice.told()
    else:
        data += answer.closing([choice])
    events = []
    for block in data.decode().split("\n\n")[:-1]:
        name, body = block.split("\n")
        event = json.loads(body.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        EVENTS.validate_python(event)
        events.append(event)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def whole(answer: ResponseForm, items: list[Any]) -> dict[str, Any]:
    choice = Choice(index=0)
    for item in items:
        if isinstance(item, Done):
            choice.done = item
        else:
            choice.add(item)
    body: dict[str, Any] = json.loads(answer.whole([choice]))
    OpenAIResponse.model_validate(body)
    Response.model_validate(body)
    return body


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


TEXT_CLOSE = ["output_text.done", "content_part.done", "output_item.done"]


def test_a_text_is_opened_grown_and_closed() -> None:
    events = streamed(form(), [text("Hel"), text(""), text("lo"), done()])
    assert kinds(events) == [
        "created", "in_progress", "output_item.added", "content_part.added", "output_text.delta", "output_text.delta",
        *TEXT_CLOSE, "completed",
    ]  # fmt: skip
    assert [event["delta"] for event in events if "delta" in event] == ["Hel", "lo"]
    assert events[2]["item"]["content"] == []
    assert events[3]["part"] == {"type": "output_text", "text": "", "annotations": []}
    last = events[-1]["response"]
    assert last["output"][0] == events[-2]["item"]
    assert last["output"][0]["content"] == [{"type": "output_text", "text": "Hello", "annotations": []}]
    assert (last["status"], last["created_at"], last["completed_at"]) == ("completed", 7, 7)
    assert last["usage"] == {
        "input_tokens": 9,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 5},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 14,
    }
    assert events[0]["response"]["output"] == []
    assert events[0]["response"]["usage"] is None


def test_thought_said_and_called_are_items_of_their_own() -> None:
    items = [
        thought("Hm"), thought("."), text("I look."), call(0, id="c1", name="f"), call(0, '{"a"'), call(0, ":1}"),
        call(1, "{}", id="c2", name="g"), done("tool_calls", reasoning_tokens=2),
    ]  # fmt: skip
    events = streamed(form(), items)
    assert kinds(events)[2:] == [
        "output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.delta",
        "reasoning_text.done", "content_part.done", "output_item.done",
        "output_item.added", "content_part.added", "output_text.delta", *TEXT_CLOSE,
        "output_item.added", "function_call_arguments.delta", "function_call_arguments.delta",
        "function_call_arguments.done", "output_item.done",
        "output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done",
        "completed",
    ]  # fmt: skip
    output = events[-1]["response"]["output"]
    assert [item["type"] for item in output] == ["reasoning", "message", "function_call", "function_call"]
    assert [item["status"] for item in output] == ["completed"] * 4
    assert output[0]["content"] == [{"type": "reasoning_text", "text": "Hm."}]
    assert (output[2]["call_id"], output[2]["name"], output[2]["arguments"]) == ("c1", "f", '{"a":1}')
    assert len({item["id"] for item in output}) == 4
    added = [event for event in events if event["type"] == "response.output_item.added"]
    assert [event["output_index"] for event in added] == [0, 1, 2, 3]
    assert added[2]["item"]["arguments"] == ""
    body = whole(form(), items)
    assert [without_id(item) for item in body["output"]] == [without_id(item) for item in output]


def without_id(item: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in item.items() if name != "id"}


def test_an_answer_cut_by_its_length_is_incomplete() -> None:
    events = streamed(form(max_output_tokens=5), [text("Hel"), done("length")])
    assert events[-1]["type"] == "response.incomplete"
    response = events[-1]["response"]
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert (response["output"][0]["status"], response["completed_at"]) == ("incomplete", None)
    assert whole(form(), [thought("Hm"), done("length")])["output"][0]["type"] == "reasoning"


def test_an_answer_of_no_words_is_a_message_of_no_words() -> None:
    for items in ([done()], [thought("Hm"), done()]):
        body = whole(form(), items)
        assert body["output"][-1]["content"][0]["text"] == ""
        assert streamed(form(), items)[-1]["response"]["output"][-1]["type"] == "message"
    assert [
        item["type"] for item in whole(form(), [call(0, "{}", id="c", name="f"), done("tool_calls")])["output"]
    ] == ["function_call"]


def test_a_failure_closes_what_is_open_and_says_whose_it_is() -> None:
    events = streamed(form(), [text("Hel"), WorkerLost("gone")])
    assert kinds(events)[-4:] == [*TEXT_CLOSE, "failed"]
    response = events[-1]["response"]
    assert response["status"] == "failed"
    assert response["error"] == {"code": "server_error", "message": "gone", "type": "worker_lost", "param": None}
    assert response["output"][0]["status"] == "incomplete"
    too_long = streamed(form(), [PromptTooLong("long", param="messages")])[-1]["response"]["error"]
    assert too_long["param"] == "input", "in the words of its caller"
    assert streamed(form(), [BadParameter("wrong")])[-1]["response"]["error"]["code"] == "invalid_prompt"
    assert streamed(form(), [QueueFull("full")])[-1]["response"]["error"]["code"] == "rate_limit_exceeded"


def position(token: str) -> PositionLogprobs:
    one = TokenLogprob(token=1, text=token, data=token.encode(), logprob=-0.5)
    lost = TokenLogprob(token=2, text="z", data=b"z", logprob=float("-inf"))
    return PositionLogprobs(chosen=one, top=(one, lost))


def test_logprobs_are_of_what_is_said() -> None:
    wish = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    items = [
        Delta(text="", num_tokens=1, reasoning="Hm", logprobs=(position("Hm"),)),
        text("a", logprobs=(position("a"),)), text("b", logprobs=(position("b"),)), done(reasoning_tokens=1),
    ]  # fmt: skip
    logprobs = whole(form(**wish), items)["output"][1]["content"][0]["logprobs"]
    assert [one["token"] for one in logprobs] == ["a", "b"]
    assert logprobs[0] == {
        "token": "a",
        "bytes": [97],
        "logprob": -0.5,
        "top_logprobs": [
            {"token": "a", "bytes": [97], "logprob": -0.5},
            {"token": "z", "bytes": [122], "logprob": -9999.0},
        ],
    }
    events = streamed(form(**wish), items)
    deltas = [event for event in events if event["type"] == "response.output_text.delta"]
    assert [[one["token"] for one in event["logprobs"]] for event in deltas] == [["a"], ["b"]]
    assert events[-1]["response"]["output"][1]["content"][0]["logprobs"] == logprobs


def test_a_response_tells_what_was_asked() -> None:
    tool = {"type": "function", "name": "f", "parameters": {"type": "object"}}
    schema = {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}
    body = whole(
        form(
            instructions="i", tools=[tool], tool_choice={"type": "function", "name": "f"}, text={"format": schema},
            metadata={"a": "b"}, temperature=0.5, top_p=0.9, reasoning={"effort": "low", "summary": "auto"}, user="u",
            previous_response_id="resp_0", parallel_tool_calls=False, max_output_tokens=50, service_tier="priority",
        ),
        [text("x"), done()],
    )  # fmt: skip
    assert body["tools"] == [{**tool, "description": None, "strict": False}]
    assert body["tool_choice"] == {"type": "function", "name": "f"}
    assert body["text"] == {"format": schema, "verbosity": "medium"}
    assert body["reasoning"] == {"effort": "low", "summary": None}
    assert (body["service_tier"], body["truncation"], body["background"]) == ("default", "disabled", False)
    told = ("instructions", "metadata", "temperature", "top_p", "user", "previous_response_id", "max_output_tokens")
    assert [body[name] for name in told] == ["i", {"a": "b"}, 0.5, 0.9, "u", "resp_0", 50]
    assert (body["parallel_tool_calls"], body["store"]) == (False, True)
