"""A batch's file, line by line: what is wrong with it, what each line asks, and how its end is written."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

from pydantic_core import from_json

from thaloom.base.errors import BadParameter
from thaloom.edge.api.errors import to_json
from thaloom.edge.api.openai.kept.batches.asking import Answer
from thaloom.edge.api.routes.body import MAX_BODY_BYTES
from thaloom.edge.api.routes.fields import validate
from thaloom.edge.wire.files import BatchInputLine
from thaloom.kernel.state.types import BatchLine, BatchProblem

MAX_REQUESTS = 50_000
"""Source: OpenAI's API reference, `batches`."""
MAX_PROBLEMS = 100
"""Told of one file; where the hundredth is wrong, so is whatever made it."""
_MAX_LINE_BYTES = MAX_BODY_BYTES + 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request of a batch. `line`: of the file, from 1."""

    line: int
    custom_id: str
    body: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    problems: tuple[BatchProblem, ...]
    total: int
    model: str | None
    """The one all requests name, if they do."""


def check(file: IO[bytes], endpoint: str) -> Checked:
    """All of the file, before any of it is worked on."""
    problems: list[BatchProblem] = []
    models: set[str | None] = set()
    seen: set[str] = set()
    total = 0
    for number, text in _texts(file):
        total += 1
        if total > MAX_REQUESTS:
            problems.append(_problem("too_many_requests", f"a batch may have {MAX_REQUESTS} requests", number))
            break
        try:
            asked = read_line(number, text, endpoint)
        except BadParameter as error:
            problems.append(_problem("invalid_line", error.message, number, error.param))
        else:
            if asked.custom_id in seen:
                said = f"custom_id {asked.custom_id!r} was there before"
                problems.append(_problem("duplicate_custom_id", said, number, "custom_id"))
            seen.add(asked.custom_id)
            model = asked.body.get("model")
            models.add(model if isinstance(model, str) else None)
        if len(problems) >= MAX_PROBLEMS:
            break
    if not total:
        problems.append(BatchProblem(code="empty_file", message="the file has no requests"))
    return Checked(problems=tuple(problems), total=total, model=models.pop() if len(models) == 1 else None)


def requests(file: IO[bytes], endpoint: str) -> Iterator[Asked]:
    """Of a file that was checked."""
    for number, text in _texts(file):
        yield read_line(number, text, endpoint)


def read_line(number: int, text: bytes, endpoint: str) -> Asked:
    """Raises BadParameter."""
    if len(text) > _MAX_LINE_BYTES:
        raise BadParameter(f"the line has more than {_MAX_LINE_BYTES} bytes")
    try:
        data = from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise BadParameter(f"the line is not JSON: {error}") from error
    asked = validate(BatchInputLine, data)
    if asked.url != endpoint:
        raise BadParameter(f"url: the batch is for {endpoint}, not for {asked.url[:200]!r}", param="url")
    if asked.body.get("stream"):
        raise BadParameter("body.stream: the answers of a batch do not stream", param="body.stream")
    return Asked(line=number, custom_id=asked.custom_id, body=asked.body)


def answered(asked: Asked, answer: Answer) -> BatchLine:
    """The line of the output (or error) file for an answer of the door."""
    response = {"status_code": answer.status, "request_id": answer.request_id, "body": json.loads(answer.body)}
    return _line(asked, response=response, error=None, failed=answer.status != 200)


def given_up(asked: Asked, code: str, message: str) -> BatchLine:
    """The line of the error file for a request that has no answer."""
    return _line(asked, response=None, error={"code": code, "message": message}, failed=True)


def _line(asked: Asked, *, response: Any, error: Any, failed: bool) -> BatchLine:
    told = {
        "id": f"batch_req_{secrets.token_hex(12)}",
        "custom_id": asked.custom_id,
        "response": response,
        "error": error,
    }
    return BatchLine(line=asked.line, failed=failed, text=to_json(told).decode())


def _texts(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """(number, text) of every line that is not empty. One that is too long is cut: no such line is ever right."""
    number = 0
    while text := file.readline(_MAX_LINE_BYTES + 1):
        number += 1
        cut = text
        while not cut.endswith(b"\n") and (cut := file.readline(_MAX_LINE_BYTES)):
            pass
        if text.strip():
            yield number, text


def _problem(code: str, message: str, line: int, param: str | None = None) -> BatchProblem:
    return BatchProblem(code=code, message=message, param=param, line=line)


def add_usage(total: dict[str, int], line: BatchLine) -> None:
    """Count the tokens an answer tells of, under the names batches have for them."""
    response = json.loads(line.text)["response"]
    usage = response["body"].get("usage") if response is not None else None
    if not isinstance(usage, dict):
        return
    given = usage.get("input_tokens", usage.get("prompt_tokens", 0))
    made = usage.get("output_tokens", usage.get("completion_tokens", 0))
    before = usage.get("input_tokens_details") or usage.get("prompt_tokens_details") or {}
    after = usage.get("output_tokens_details") or usage.get("completion_tokens_details") or {}
    for name, value in (
        ("input_tokens", given),
        ("output_tokens", made),
        ("cached_tokens", before.get("cached_tokens", 0)),
        ("reasoning_tokens", after.get("reasoning_tokens", 0)),
    ):
        total[name] = total.get(name, 0) + int(value or 0)
