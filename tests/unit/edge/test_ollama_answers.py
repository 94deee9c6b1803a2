"""Answers in Ollama's form, where a client over a socket would not look."""

from __future__ import annotations

import json
from typing import Any

import pytest

from thaloom.base.errors import ERRORS, ThaloomError
from thaloom.base.ids import RequestId
from thaloom.edge.api.errors import error_response
from thaloom.edge.api.ollama.answers import OllamaForm
from thaloom.edge.api.ollama.requests import OllamaWanted, chat, generate
from thaloom.edge.api.routes.generation import Choice
from thaloom.edge.wire import ollama as wire
from thaloom.work.runtime.types import Delta, Done, ToolCallPiece

DONE = Done(
    reason="stop", prompt_tokens=5, completion_tokens=2, cached_tokens=3, queue_s=0.1, prefill_s=0.2, decode_s=0.3
)


def form(kind: Any = chat) -> OllamaForm:
    body: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "x"}], "prompt": "x"}
    wanted = kind(body, RequestId("id"))
    assert isinstance(wanted, OllamaWanted)
    return OllamaForm(wanted, now=1_700_000_000.25)


def delta(text: str = "", **more: Any) -> Delta:
    return Delta(text=text, num_tokens=1, **more)


def piece(**fields: Any) -> Delta:
    return delta(tool_calls=(ToolCallPiece(**fields),))


def lines(made: OllamaForm, deltas: list[Delta]) -> list[Any]:
    choice = Choice(index=0)
    written = made.opening()
    for one in deltas:
        choice.add(one)
        written += made.chunk(choice)
        choice.told()
    choice.done = DONE
    written += made.chunk(choice) + made.closing([choice])
    assert written.endswith(b"\n")
    return [json.loads(line) for line in written.splitlines()]


@pytest.mark.parametrize(("kind", "message"), [(chat, wire.Chat), (generate, wire.Generated)])
def test_every_line_is_what_the_document_promises(kind: Any, message: Any) -> None:
    deltas = [delta(reasoning="hm"), delta("I"), piece(index=0, id="c", name="f", arguments="{}")]
    told = lines(form(kind), deltas)
    choice = Choice(index=0, done=DONE)
    for one in deltas:
        choice.add(one)
    whole = json.loads(form(kind).whole([choice]))
    for line in (*told, whole):
        assert set(line) <= set(message.model_fields)
        message.model_validate(line)
        assert (line["model"], line["created_at"]) == ("m", "2023-11-14T22:13:20.250000Z")
    assert [line["done"] for line in told] == [False] * (len(told) - 1) + [True]
    cost = {name: told[-1][name] for name in wire.Metrics.model_fields}
    assert cost == {
        "total_duration": 600_000_000, "load_duration": 0, "prompt_eval_count": 5,
        "prompt_eval_duration": 200_000_000, "eval_count": 2, "eval_duration": 300_000_000,
    }  # fmt: skip
    assert cost == {name: whole[name] for name in cost}


def test_a_call_is_told_when_it_is_whole() -> None:
    told = lines(
        form(),
        [
            piece(index=0, id="c0", name="f"), piece(index=0, arguments='{"a"'), piece(index=0, arguments=":1}"),
            piece(index=1, id="c1", name="g", arguments='{"b": "cut o'),
        ],
    )  # fmt: skip
    found = [line["message"].get("tool_calls") for line in told]
    assert found == [
        [{"id": "c0", "function": {"index": 0, "name": "f", "arguments": {"a": 1}}}],
        [{"id": "c1", "function": {"index": 1, "name": "g", "arguments": {"b": "cut o"}}}],
        None,
    ]


def test_the_end_may_bring_the_last_words() -> None:
    made = form(generate)
    choice = Choice(index=0, done=DONE)
    choice.add(delta("end"))
    first, last = [json.loads(line) for line in made.chunk(choice).splitlines()]
    assert (first["response"], first["done"]) == ("end", False)
    assert (last["response"], last["done"], last["done_reason"]) == ("", True, "stop")


@pytest.mark.parametrize("leaf", ERRORS.values(), ids=ERRORS.keys())
def test_every_leaf_can_be_told(leaf: type[ThaloomError]) -> None:
    response = error_response(leaf("what", param="p"), "/api/chat")
    assert json.loads(bytes(response.body)) == {"error": "what", "code": leaf.code}
    assert response.status_code == leaf.http_status
    assert json.loads(form().error_event(leaf("what"))) == {"error": "what", "code": leaf.code}
