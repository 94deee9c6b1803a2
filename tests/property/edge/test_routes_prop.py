"""Every route that takes a JSON object: whatever is in it, an answer or a refusal with a known code, and no 500."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from starlette.types import ASGIApp

from tests.contract.edge.scripted_door import Scripted
from tests.property.edge.asked import ask, encode
from thaloom.base.clock import ManualClock
from thaloom.base.errors import ERRORS
from thaloom.base.events import Recorder
from thaloom.edge.api.app import door_app
from thaloom.edge.api.openai.speaking import EXCHANGES, GENERATIONS
from thaloom.edge.wire import embeddings, ranking, tokens
from thaloom.edge.wire.openai_requests import UNSERVED_IN_CHAT, UNSERVED_IN_COMPLETION, ChatRequest, CompletionRequest

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "strict": True}}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": [1]}'}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
CHAT: dict[str, Any] = {
    "model": "tiny",
    "messages": [
        {"role": "system", "content": "s"},
        {"role": "user", "content": [{"type": "text", "text": "u"}]},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c", "content": "t"},
        {"role": "function", "name": "f", "content": "t"},
    ],
    "tools": [TOOL],
    "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [TOOL]}},
    "response_format": FORMAT,
    "logit_bias": {"5": 1.5},
    "stop": ["a"],
    "stream": False,
    "logprobs": True,
    "top_logprobs": 2,
    "chat_template_kwargs": {"a": {"b": 1}},
}
RIGHT: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"model": "tiny", "prompt": ["a", "b"], "n": 2, "best_of": 3, "echo": True, "logprobs": 1},
    "/v1/embeddings": {"model": "tiny", "input": ["a", "b"], "encoding_format": "base64", "dimensions": 2},
    "/v1/rerank": {"model": "tiny", "query": "a", "documents": ["a", {"text": "b"}], "top_n": 1},
    "/v2/rerank": {"model": "tiny", "query": "a", "documents": ["a"], "return_documents": True},
    "/rerank": {"model": "tiny", "query": "a", "documents": ["a"], "instruction": "i"},
    "/score": {"model": "tiny", "text_1": ["a", "b"], "text_2": ["c", "d"]},
    "/v1/score": {"model": "tiny", "text_1": "a", "text_2": "b"},
    "/tokenize": {"model": "tiny", "messages": CHAT["messages"], "tools": [TOOL], "return_token_strs": True},
    "/detokenize": {"model": "tiny", "tokens": [1, 2]},
}
NAMES = sorted(
    {
        *(name for kind in (ChatRequest, CompletionRequest, embeddings.EmbeddingRequest, ranking.RerankRequest,
                            ranking.ScoreRequest, tokens.TokenizeChat, tokens.TokenizePrompt)
          for name in kind.model_fields),
        *UNSERVED_IN_CHAT, *UNSERVED_IN_COMPLETION, *ranking.UNSERVED_IN_RERANK, *embeddings.UNSERVED_IN_EMBEDDING,
    }
)  # fmt: skip
WORDS = ["tiny", "user", "tool", "function", "text", "type", "name", "content", "auto", "required", "json_schema", "f"]
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(0, 5).map(float)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6)
    | st.sampled_from(WORDS)
)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=3),
    max_leaves=10,
)
paths = st.sampled_from(sorted(RIGHT))


def make_app() -> ASGIApp:
    return door_app(Scripted(), control_socket=Path("/nonexistent"), clock=ManualClock(), emit=Recorder())


APP = make_app()


def check(status: int, body: bytes) -> None:
    if status == 200:
        assert body.startswith((b"data: ", b"{"))
        return
    error = json.loads(body)["error"]
    assert {"message", "type", "param", "code"} <= set(error)
    assert error["message"]
    assert ERRORS[error["code"]].http_status == status
    assert status < 500, body


def test_every_route_is_tried_and_what_is_right_is_answered() -> None:
    assert set(RIGHT) == {*GENERATIONS, *EXCHANGES}
    for path, body in RIGHT.items():
        assert ask(APP, "POST", path, encode(body))[0] == 200, path


@given(paths, st.dictionaries(st.sampled_from(NAMES), values, max_size=4))
def test_any_fields_beside_right_ones(path: str, fields: dict[str, Any]) -> None:
    check(*ask(APP, "POST", path, encode(RIGHT[path] | fields)))


@given(paths, st.data())
def test_any_value_anywhere_in_what_is_right(path: str, data: st.DataObject) -> None:
    body = copy.deepcopy(RIGHT[path])
    place: Any = body
    for _ in range(data.draw(st.integers(1, 6))):
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            break
        key = data.draw(st.sampled_from(keys))
        if not isinstance(place[key], dict | list) or data.draw(st.booleans()):
            break
        place = place[key]
    else:
        return
    if not keys:
        return
    if data.draw(st.booleans()) and isinstance(place, dict):
        del place[key]
    else:
        place[key] = data.draw(values)
    check(*ask(APP, "POST", path, encode(body)))


@given(paths, st.data())
def test_any_bytes_changed_in_what_is_right(path: str, data: st.DataObject) -> None:
    body = bytearray(encode(RIGHT[path]))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    check(*ask(APP, "POST", path, bytes(body[: data.draw(st.integers(0, len(body)))])))
    check(*ask(APP, "POST", path, bytes(body)))
