"""Whatever is sent to the routes of responses, files and batches, the answer has the door's form and is never a 500."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.contract.edge.rehearsed import Scripted
from tests.property.edge.asked import ask, encode
from thaloom.base.clock import SystemClock
from thaloom.base.events import Recorder
from thaloom.edge.api.app import door_app
from thaloom.edge.wire.files import BatchRequest
from thaloom.edge.wire.responses import ITEM_TYPES, ResponsesRequest
from thaloom.kernel.state.kept import open_kept

FOLDER = tempfile.TemporaryDirectory(prefix="t", dir="/tmp")
KEPT = open_kept(Path(FOLDER.name), SystemClock())
APP = door_app(Scripted(), control_socket=Path("/nonexistent"), clock=SystemClock(), emit=Recorder(), keeping=KEPT)

leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
KEYS = st.sampled_from(
    [
        "type",
        "role",
        "content",
        "text",
        "name",
        "schema",
        "format",
        "call_id",
        "arguments",
        "output",
        "mode",
        "tools",
        "x",
    ]
)
values = st.recursive(
    leaves | st.sampled_from([*ITEM_TYPES, "user", "function", "json_schema", "input_text", "allowed_tools", "auto"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=15,
)
items = st.lists(
    st.fixed_dictionaries(
        {"type": st.sampled_from(ITEM_TYPES)},
        optional={
            "role": st.sampled_from(["user", "assistant", "system", "developer"]) | values,
            "content": st.text(max_size=5) | st.lists(values, max_size=2),
            "call_id": st.text(max_size=3),
            "name": st.text(max_size=3),
            "arguments": st.text(max_size=5),
            "output": st.text(max_size=5) | values,
            "summary": values,
            "id": st.text(max_size=5) | values,
        },
    )
    | values,
    min_size=1,
    max_size=4,
)
NAMES = sorted(
    {*ResponsesRequest.model_fields, "conversation", "prompt", "moderation", "context_management"} - {"model"}
)


def exchange(
    method: str, path: str, body: bytes, *, query: bytes = b"", content_type: bytes = b"application/json"
) -> tuple[int, bytes]:
    return ask(APP, method, path, body, query=query, headers=[(b"content-type", content_type)])


def check(status: int, body: bytes) -> None:
    assert status < 500, body
    if status >= 400:
        error = json.loads(body)["error"]
        assert {"message", "type", "param", "code"} <= set(error)
        assert error["message"]


@given(st.text(max_size=5) | items, st.dictionaries(st.sampled_from(NAMES), values, max_size=3), st.booleans())
def test_any_response_is_made_or_refused_by_name(said: Any, fields: dict[str, Any], store: bool) -> None:
    body = {"model": "tiny", "store": store} | fields | {"input": said}
    check(*exchange("POST", "/v1/responses", encode(body)))
    check(*exchange("POST", "/v1/responses/input_tokens", encode(body)))


@given(st.sampled_from(NAMES), values)
def test_one_wrong_field_of_a_response_is_named(name: str, value: Any) -> None:
    status, body = exchange(
        "POST", "/v1/responses", encode({"model": "tiny", "input": "hi", "store": False, name: value})
    )
    check(status, body)
    if status == 400 and b"bad_parameter" in body:
        param = json.loads(body)["error"]["param"]
        assert param.split(".")[0].split("[")[0] in (name, "store")


@given(st.dictionaries(st.sampled_from(sorted(BatchRequest.model_fields)), values, max_size=5))
def test_any_batch_is_answered(fields: dict[str, Any]) -> None:
    check(*exchange("POST", "/v1/batches", encode(fields)))


parts = st.lists(
    st.builds(
        lambda name, filename, data: (
            b"--b1\r\nContent-Disposition: form-data; name=" + name + filename + b"\r\n\r\n" + data + b"\r\n"
        ),
        st.sampled_from([b'"file"', b'"purpose"', b'"expires_after[seconds]"', b"x", b'"']),
        st.sampled_from([b"", b'; filename="f"', b"; filename*=UTF-8''x", b'; filename="\xff"']),
        st.sampled_from([b"batch", b"3600", b"9" * 400, b"\xff"]) | st.binary(max_size=20),
    ),
    max_size=4,
)


@given(
    parts.map(b"".join) | st.binary(max_size=80),
    st.sampled_from([b"--b1--\r\n", b"--b1--", b""]),
    st.binary(max_size=9),
)
def test_any_form_is_a_file_or_refused(body: bytes, end: bytes, noise: bytes) -> None:
    for content_type in (b"multipart/form-data; boundary=b1", b"multipart/form-data; boundary=" + noise):
        check(*exchange("POST", "/v1/files", body + end, content_type=content_type))


ids = st.text(max_size=10) | st.sampled_from(["file-x", "../kept.db", "%2e%2e", "\x00"])


@given(
    st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD"]),
    st.sampled_from(["/v1/files", "/v1/batches", "/v1/responses"]),
    ids,
    st.sampled_from(["", "/content", "/cancel", "/input_items"]),
    st.binary(max_size=20)
    | st.sampled_from([b"limit=5", b"limit=%FF", b"after=x", b"order=asc&purpose=%00", b"stream=1"]),
)
def test_any_id_and_any_query_are_answered(method: str, path: str, name: str, below: str, query: bytes) -> None:
    for place in (path, f"{path}/{name}{below}"):
        status, body = exchange(method, place, b"", query=query)
        assert status < 500, body
