"""Anthropic's and Ollama's protocols: whatever a client sends is answered in their form, in time, never with a 500."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from tests.contract.edge.played_runtime import Scripted, calls, done, says, thinks
from tests.property.edge.asked import ask, encode
from thaloom.base.clock import ManualClock
from thaloom.base.events import Recorder
from thaloom.edge.api.app import door_app
from thaloom.edge.api.entrance.guard import RequestCrashed
from thaloom.edge.wire import anthropic, ollama

EVENT: TypeAdapter[Any] = TypeAdapter(anthropic.Event)
TOOL = {"name": "f", "description": "d", "input_schema": {"type": "object", "properties": {"a": {"type": "string"}}}}
CONVERSATION: list[Any] = [
    {"role": "user", "content": [{"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}]},
    {"role": "assistant", "content": [
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "text", "text": "I look"},
        {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": "b"}},
    ]},
    {"role": "user", "content": [
        {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "r"}], "is_error": True},
        {"type": "text", "text": "and?"},
    ]},
    {"role": "assistant", "content": "So"},
]  # fmt: skip
MESSAGES: dict[str, Any] = {
    "model": "tiny", "max_tokens": 2000, "system": [{"type": "text", "text": "Be brief."}], "messages": CONVERSATION,
    "temperature": 0.5, "top_p": 0.5, "top_k": 5, "stop_sequences": ["END"], "stream": True,
    "metadata": {"user_id": "u"}, "service_tier": "auto", "tools": [TOOL],
    "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
    "thinking": {"type": "enabled", "budget_tokens": 1024, "display": "omitted"},
    "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": {"type": "object"}}},
}  # fmt: skip
OPTIONS: dict[str, Any] = {
    "num_predict": 5, "temperature": 0.5, "top_k": 4, "top_p": 0.9, "min_p": 0.1, "seed": 7, "stop": ["END"],
    "repeat_penalty": 1.1, "repeat_last_n": -1, "presence_penalty": 0.1, "frequency_penalty": 0.1, "num_ctx": 64,
}  # fmt: skip
CHAT: dict[str, Any] = {
    "model": "tiny:latest", "stream": True, "format": {"type": "object"}, "options": OPTIONS, "keep_alive": "5m",
    "think": "low", "logprobs": True, "top_logprobs": 2,
    "messages": [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "thinking": "t", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]},
        {"role": "tool", "content": "r", "tool_name": "f"},
    ],
    "tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}],
}  # fmt: skip
SEEDS: dict[str, list[dict[str, Any]]] = {
    "/v1/messages": [MESSAGES, MESSAGES | {"stream": False, "messages": CONVERSATION[:1]}],
    "/v1/messages/count_tokens": [{name: MESSAGES[name] for name in ("model", "messages", "system", "tools")}],
    "/api/chat": [CHAT, CHAT | {"stream": False, "tools": None}],
    "/api/generate": [
        {"model": "tiny", "prompt": "hi", "system": "s", "options": OPTIONS, "format": "json", "stream": False},
        {"model": "tiny", "prompt": "hi", "raw": True, "keep_alive": 0},
    ],
    "/api/embed": [{"model": "tiny", "input": ["a", "b"], "truncate": True, "dimensions": 2, "keep_alive": 5}],
    "/api/embeddings": [{"model": "tiny", "prompt": "a"}],
    "/api/show": [{"model": "tiny", "verbose": True}],
    "/api/copy": [{"source": "tiny", "destination": "x:y"}],
    "/api/pull": [{"model": "tiny", "stream": True, "insecure": True}],
}
leaves = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(["tiny", "user", "assistant", "tool_use", "tool_result", "image", "0s", "", -1, 0, 1e308, 2**70])
)  # fmt: skip
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "role", "content", "text", "name", "input", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)


def runtime() -> Scripted:
    return Scripted(items=[*thinks("h"), *says("x"), *calls(0, "f", '{"a":'), done("tool_calls")])


def exchange(
    method: str, path: str, body: bytes, headers: list[tuple[bytes, bytes]], query: str = ""
) -> tuple[int, bytes]:
    """(status, body) of one request to a fresh application, without a socket and without a daemon."""
    events = Recorder()
    app = door_app(runtime(), control_socket=Path("/nonexistent"), clock=ManualClock(), emit=events)
    answer = ask(app, method, path, body, headers=headers, query=query.encode())
    assert events.of(RequestCrashed) == []
    return answer


def check(path: str, status: int, body: bytes) -> None:
    """In the protocol's own form, whatever it is. 503: there is no daemon to ask."""
    assert status < 500 or (status == 503 and path.startswith("/api/")), body
    if path.startswith("/v1/messages"):
        if status >= 400:
            told = anthropic.Error.model_validate_json(body)
            assert told.error.message
            assert told.error.details["error_code"]
        elif body.startswith(b"event: "):
            kinds = [EVENT.validate_json(event.split("data: ")[1]).type for event in body.decode().split("\n\n")[:-1]]
            assert kinds[0] == "message_start"
            assert kinds[-2:] == ["message_delta", "message_stop"]
    elif status >= 400:
        assert ollama.Error.model_validate_json(body).error
    elif path in ("/api/chat", "/api/generate"):
        lines = [json.loads(line) for line in body.splitlines()]
        assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]


def places(data: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value."""
    found = [at] if at else []
    for key, value in data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ():
        found += places(value, (*at, key))
    return found


def change(data: Any, at: tuple[Any, ...], value: Any, how: str) -> None:
    for step in at[:-1]:
        data = data[step]
    if how == "leave out":
        del data[at[-1]]
    elif how == "twice" and isinstance(data, list):
        data.insert(at[-1], copy.deepcopy(data[at[-1]]))
    else:
        data[at[-1]] = value


paths = st.sampled_from(sorted(SEEDS))
changes = st.sampled_from(["leave out", "twice", "replace", "replace"])
FIELDS = sorted({*MESSAGES, *CHAT, *anthropic.UNSERVED, *ollama.UNSERVED, "prompt", "input", "name", "thread"})


@given(paths, st.data())
def test_changed_bodies_are_answered_or_refused_in_the_protocols_form(path: str, data: st.DataObject) -> None:
    body = copy.deepcopy(data.draw(st.sampled_from(SEEDS[path])))
    for _ in range(data.draw(st.integers(0, 3))):
        if found := places(body):
            at = data.draw(st.sampled_from(found))
            change(
                body, at, data.draw(values), data.draw(st.sampled_from(["leave out", "twice", "replace", "replace"]))
            )
    check(path, *exchange("POST", path, encode(body), []))


@given(paths, st.dictionaries(st.sampled_from(FIELDS), values, max_size=5))
def test_any_fields_are_answered_or_refused(path: str, fields: dict[str, Any]) -> None:
    check(path, *exchange("POST", path, encode({"model": "tiny"} | fields), []))


@given(paths, st.binary(max_size=64) | values.map(encode))
def test_any_bytes_are_answered(path: str, body: bytes) -> None:
    check(path, *exchange("POST", path, body, []))


@given(
    st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD"]),
    st.sampled_from(["/v1/messages", "/v1/messages/", "/v1/messages/batches", "/api/", "/api/delete", "/api/blobs/"]),
    st.text(max_size=12),
)
def test_any_path_beneath_is_answered_in_the_protocols_form(method: str, path: str, more: str) -> None:
    status, body = exchange(method, path + more, b"", [(b"anthropic-version", b"2023-06-01")])
    assert status < 500
    if status >= 400 and body and method != "HEAD":
        assert anthropic.Error.model_validate_json(body).error.message


@given(
    st.dictionaries(
        st.sampled_from(["limit", "after_id", "before_id", "x"]),
        st.text(max_size=5) | st.sampled_from(["tiny", "5"]),
        max_size=3,
    )
)
def test_models_are_listed_or_the_query_is_refused(query: dict[str, str]) -> None:
    status, body = exchange("GET", "/v1/models", b"", [(b"anthropic-version", b"2023-06-01")], urlencode(query))
    if status == 200:
        anthropic.ModelPage.model_validate_json(body)
    else:
        assert status == 400
        assert anthropic.Error.model_validate_json(body).error.details["param"] in query
