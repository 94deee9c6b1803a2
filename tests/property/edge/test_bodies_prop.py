"""Whatever a client sends, the door answers in its own form, in time, and never with a 500."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from starlette.types import ASGIApp

from tests.property.edge.asked import ask, encode
from thaloom.base.clock import ManualClock
from thaloom.base.events import Recorder
from thaloom.edge.api.app import door_app
from thaloom.edge.wire.openai_requests import UNSERVED_IN_CHAT, UNSERVED_IN_COMPLETION, ChatRequest, CompletionRequest
from thaloom.work.runtime.types import Delta, Done, GenerateRequest, ServedModel

DONE = Done(reason="stop", prompt_tokens=1, completion_tokens=1, cached_tokens=0, queue_s=0, prefill_s=0, decode_s=0)
FIELDS = {*ChatRequest.model_fields, *CompletionRequest.model_fields, *UNSERVED_IN_CHAT, *UNSERVED_IN_COMPLETION}
NAMES = sorted({*FIELDS, "metadata", "x"})
leaves = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["tiny", "user"])
)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["role", "content", "type", "text", "include_usage", "x"]), inner, max_size=4)
    ),
    max_leaves=12,
)
messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "system", "assistant", "robot"]), "content": st.text(max_size=8) | values}
    ),
    min_size=1,
    max_size=3,
)
right = st.fixed_dictionaries({"model": st.just("tiny"), "messages": messages, "prompt": st.text(max_size=8) | values})


class Echo:
    """Answers everything at once."""

    def models(self) -> list[ServedModel]:
        return [ServedModel(name="tiny", ready=True, context_length=8, created_at=0.0)]

    async def start(self, request: GenerateRequest) -> AsyncIterator[Delta | Done]:
        async def answer() -> AsyncIterator[Delta | Done]:
            yield Delta(text="x", num_tokens=1)
            yield DONE

        return answer()

    async def worker_metrics(self) -> list[dict[str, Any]]:
        return []


def make_app() -> ASGIApp:
    return door_app(Echo(), control_socket=Path("/nonexistent"), clock=ManualClock(), emit=Recorder())


APP = make_app()


def check(status: int, body: bytes) -> None:
    assert status < 500, body
    if status >= 400:
        error = json.loads(body)["error"]
        assert {"message", "type", "param", "code"} <= set(error)
        assert error["message"]
    elif body.startswith(b"data: "):
        assert body.endswith(b"data: [DONE]\n\n")


paths = st.sampled_from(["/v1/chat/completions", "/v1/completions"])


@given(paths, st.dictionaries(st.sampled_from(NAMES), values, max_size=6), right)
def test_any_fields_are_answered_or_refused_by_name(path: str, fields: dict[str, Any], rest: dict[str, Any]) -> None:
    check(*ask(APP, "POST", path, encode(rest | fields)))


@given(paths, right, st.sampled_from(NAMES), values)
def test_one_wrong_field_in_a_right_request(path: str, rest: dict[str, Any], name: str, value: Any) -> None:
    asked = rest | {"messages": [{"role": "user", "content": "x"}], "prompt": "x"} | {name: value}
    status, body = ask(APP, "POST", path, encode(asked))
    check(status, body)
    if status == 400 and b"bad_parameter" in body:
        param = json.loads(body)["error"]["param"]
        assert param.split(".")[0].split("[")[0] in (name, "n", "stream_options", "top_logprobs")


@given(paths, st.binary(max_size=64) | values.map(encode))
def test_any_bytes_are_answered(path: str, body: bytes) -> None:
    check(*ask(APP, "POST", path, body))


@given(st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"]), st.text(max_size=20))
def test_any_path_is_answered(method: str, path: str) -> None:
    if not path.startswith("thaloom/v1"):
        status, _ = ask(APP, method, "/" + path, b"")
        assert status < 500
