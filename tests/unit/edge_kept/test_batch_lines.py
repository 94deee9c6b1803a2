"""A batch's file: what is wrong with it is told by line, and every line's end has the protocol's form."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from thaloom.edge.api.openai.kept.batches import lines
from thaloom.edge.api.openai.kept.batches.asking import Answer
from thaloom.edge.api.openai.kept.batches.lines import Asked, add_usage, answered, check, given_up, requests

CHAT = "/v1/chat/completions"


def line(custom_id: str = "a", **changes: Any) -> bytes:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "世"}]}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body} | changes).encode() + b"\n"


def problems(*texts: bytes) -> list[tuple[str, str | None, int | None]]:
    found = check(io.BytesIO(b"".join(texts)), CHAT).problems
    return [(problem.code, problem.param, problem.line) for problem in found]


def test_a_right_file_is_counted_and_read() -> None:
    data = b"\r\n" + line("a") + b"\n   \n" + line("b")[:-1]
    found = check(io.BytesIO(data), CHAT)
    assert (found.problems, found.total, found.model) == ((), 2, "tiny")
    read = list(requests(io.BytesIO(data), CHAT))
    assert [(asked.line, asked.custom_id) for asked in read] == [(2, "a"), (5, "b")]
    assert read[0].body["messages"][0]["content"] == "世"
    assert check(io.BytesIO(line("a") + line("b", body={"model": "x"})), CHAT).model is None


def test_what_is_wrong_is_told_by_its_line() -> None:
    assert problems(
        line("a"), b"{\n", b"[]\n", line("a"), line("b", url="/v1/completions"), line("c", method="GET"),
        line("d", body="x"), line("e", body={"model": "m", "stream": True}), line("", body={}),
        json.dumps({"method": "POST"}).encode() + b"\n", b"\xff\xfe\n",
    ) == [
        ("invalid_line", None, 2),
        ("invalid_line", None, 3),
        ("duplicate_custom_id", "custom_id", 4),
        ("invalid_line", "url", 5),
        ("invalid_line", "method", 6),
        ("invalid_line", "body", 7),
        ("invalid_line", "body.stream", 8),
        ("invalid_line", "custom_id", 9),
        ("invalid_line", "custom_id", 10),
        ("invalid_line", None, 11),
    ]  # fmt: skip
    assert problems() == [("empty_file", None, None)]
    assert problems(b"\n\n  \n") == [("empty_file", None, None)]


def test_its_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MAX_REQUESTS", 2)
    assert problems(line("a"), line("b"), line("c"), line("d")) == [("too_many_requests", None, 3)]
    assert len(problems(*[b"{\n"] * 500)) == 3
    monkeypatch.setattr(lines, "MAX_REQUESTS", 50_000)
    assert len(problems(*[b"{\n"] * 500)) == lines.MAX_PROBLEMS
    monkeypatch.setattr(lines, "_MAX_LINE_BYTES", 300)
    long = line("b", body={"model": "x" * 10_000})
    assert problems(line("a"), long, line("c")) == [("invalid_line", None, 2)]


def test_the_end_of_a_line_in_the_form_of_the_api() -> None:
    asked = Asked(line=3, custom_id="a", body={})
    good = answered(asked, Answer(status=200, request_id="req-1", body=b'{"id":"x"}'))
    assert (good.line, good.failed) == (3, False)
    told = json.loads(good.text)
    assert told.pop("id").startswith("batch_req_")
    response = {"status_code": 200, "request_id": "req-1", "body": {"id": "x"}}
    assert told == {"custom_id": "a", "response": response, "error": None}
    bad = answered(asked, Answer(status=400, request_id="req-2", body=b'{"error":{"code":"bad_parameter"}}'))
    assert bad.failed
    assert json.loads(bad.text)["response"]["status_code"] == 400
    late = given_up(asked, "batch_expired", "too late")
    assert late.failed
    told = json.loads(late.text)
    assert (told["response"], told["error"]) == (None, {"code": "batch_expired", "message": "too late"})


def test_usage_is_added_up_whatever_the_endpoint_calls_it() -> None:
    total: dict[str, int] = {}
    asked = Asked(line=1, custom_id="a", body={})
    for usage in (
        {"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 1}},
        {"input_tokens": 5, "output_tokens": 4, "output_tokens_details": {"reasoning_tokens": 2}},
        {"prompt_tokens": 7, "total_tokens": 7},
    ):
        body = json.dumps({"usage": usage}).encode()
        add_usage(total, answered(asked, Answer(status=200, request_id="r", body=body)))
    add_usage(total, answered(asked, Answer(status=400, request_id="r", body=b'{"error": {}}')))
    add_usage(total, given_up(asked, "c", "m"))
    assert total == {"input_tokens": 15, "output_tokens": 6, "cached_tokens": 1, "reasoning_tokens": 2}
