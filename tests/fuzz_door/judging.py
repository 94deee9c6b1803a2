"""Whether an answer may be one: a success in its media type, or an error of the tree in the form of its protocol."""

from __future__ import annotations

import json
from typing import Any

from tests.fuzz_door.cases import Case
from tests.fuzz_door.talking import Answer, Talk
from thaloom.base.errors import ERRORS

TEMPORARY = frozenset({503, 504})
SHORT_OF = frozenset({507})
"""Only of the control API, and Ollama's, which starts services: this machine has not what was wished for."""
BROKEN = frozenset({"internal_error", "worker_lost"})
PLAIN = frozenset({304, 416})
"""Of the hub: the headers say it all."""


class NotRight(Exception):
    """Nobody should get this answer."""


def judge(case: Case, talk: Talk) -> list[str]:
    """Each answer in a word (`200`, `400 bad_parameter` ...), for counting. Raises NotRight."""
    told = [_judge(case, answer) for answer in talk.answers if answer.status >= 200]
    if told:
        return told
    return ["closed" if talk.ended else "left" if case.sent.manner == "left" else "silent"]


def _judge(case: Case, answer: Answer) -> str:
    if answer.status >= 400:
        return _judge_error(case, answer)
    if answer.status >= 300 and answer.status not in PLAIN:
        raise NotRight(f"a redirect: {answer}")
    if answer.status == 200 and "content-type" not in answer.headers and answer.body:
        raise NotRight(f"of what type? {answer}")
    for document in _documents(answer) if not case.is_head and answer.status == 200 else ():
        code = _error_code(document)
        if code in BROKEN:
            raise NotRight(f"{code} in {answer}")
        if code is not None:
            return f"{answer.status} and then {code}"
    return str(answer.status)


def _judge_error(case: Case, answer: Answer) -> str:
    if case.is_head or (answer.status in PLAIN and not answer.body):
        if answer.status == 500:
            raise NotRight(f"{answer}")
        return str(answer.status)
    document = _json(answer.body)
    code = _error_code(document)
    if code not in ERRORS or code in BROKEN:
        raise NotRight(f"code {code!r}: {answer}")
    if answer.status >= 500:
        allowed = TEMPORARY | SHORT_OF if _is_of_node(case) else TEMPORARY
        if answer.status not in allowed:
            raise NotRight(f"{answer}")
    if ERRORS[code].http_status != answer.status:
        raise NotRight(f"{code} is {ERRORS[code].http_status}: {answer}")
    if (asked := case.path) is not None and not _has_form(asked, document):
        raise NotRight(f"not in the form of {asked}: {answer}")
    return f"{answer.status} {code}"


def _is_of_node(case: Case) -> bool:
    return case.operation.split(" ")[1].startswith(("/thaloom/v1/", "/api/"))


def _has_form(path: str, document: Any) -> bool:
    error = document.get("error")
    if path.startswith("/v1/messages"):
        return document.get("type") == "error" and isinstance(error.get("message"), str) and bool(error.get("type"))
    if path.startswith(("/api/", "/v2/models", "/v2/health")) or "/resolve/" in path:
        return isinstance(error, str) and error != ""
    if path.startswith("/thaloom/v1/"):
        return isinstance(error, dict) and bool(error["message"]) and ({"help_page"} <= set(error) or "type" in error)
    return isinstance(error, dict) and {"message", "type", "param", "code"} <= set(error) and bool(error["message"])


def _error_code(document: Any) -> str | None:
    """Wherever a form puts it: beside the text, in the error, or in its details."""
    if not isinstance(document, dict):
        return None
    error = document.get("error")
    if document.get("type") == "response.failed":
        error = document["response"]["error"]
    if isinstance(error, str):
        return document.get("code")
    if not isinstance(error, dict):
        return None
    details = error.get("details")
    if isinstance(details, dict) and "error_code" in details:
        return str(details["error_code"])
    code = error.get("type") if document.get("type") == "response.failed" else error.get("code")
    return None if code is None else str(code)


def _documents(answer: Answer) -> list[Any]:
    """Every JSON document of an answer."""
    media_type = answer.headers.get("content-type", "").partition(";")[0]
    if media_type == "application/json":
        return [_json(answer.body)]
    if media_type == "application/x-ndjson":
        return [_json(line) for line in answer.body.splitlines()]
    if media_type == "text/event-stream":
        lines = answer.body.decode().split("\n")
        if not answer.body.endswith(b"\n\n"):
            raise NotRight(f"a stream without an end: {answer.body[-300:]!r}")
        return [_json(line[6:].encode()) for line in lines if line.startswith("data: ") and line != "data: [DONE]"]
    return []


def _json(body: bytes) -> Any:
    try:
        return json.loads(body.decode(), parse_constant=_refuse)
    except ValueError as error:
        raise NotRight(f"no JSON ({error}): {body[:500]!r}") from error


def _refuse(word: str) -> None:
    raise ValueError(word)
