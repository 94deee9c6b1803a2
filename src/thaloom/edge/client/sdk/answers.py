"""From what a node answers back to messages and to the leaves of the errors' tree."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import httpx2
from pydantic import BaseModel, TypeAdapter, ValidationError

from thaloom.base.errors import (
    BadParameter,
    DeadlineExceeded,
    InternalError,
    NodeNotRunning,
    ThaloomError,
    WorkerLost,
)
from thaloom.edge.client.sdk.calls import Call
from thaloom.edge.client.sdk.settings import Settings
from thaloom.edge.client.trust import raise_if_not_trusted
from thaloom.edge.wire import control as wire

A = TypeVar("A", bound=BaseModel)
_LINE: TypeAdapter[wire.Progress | wire.PullDone | wire.VerifyDone | wire.StreamError] = TypeAdapter(
    wire.Progress | wire.PullDone | wire.VerifyDone | wire.StreamError
)


def understood(kind: type[A], call: Call, content: bytes) -> A:
    """Raises InternalError for what is no such message. Fields we do not know are let pass: the node may be newer."""
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        raise InternalError(f"the answer to {call.method} {call.target} is not understood: {error}") from error


def understood_object(call: Call, content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError as error:
        raise InternalError(f"the answer to {call.method} {call.target} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise InternalError(f"the answer to {call.method} {call.target} is no JSON object")
    return found


def refusal(status: int, headers: Mapping[str, str], content: bytes) -> ThaloomError:
    """The leaf that was refused with. What is no answer of ours is an InternalError that tells what came."""
    try:
        told = json.loads(content)["error"]
        error = ThaloomError.from_dict(told)
        known = error.code == told["code"]
    except (ValueError, KeyError, TypeError, AttributeError):
        return InternalError(f"the node answered {status}: {content[:200]!r}", status=status)
    if not known:  # of a newer node
        error = InternalError(f"{error.message} [{told['code']}]", status=status, code=told["code"])
    if error.retry_after_s is None:
        error.retry_after_s = _seconds(headers.get("retry-after"))
    return error


def _seconds(told: str | None) -> float | None:
    return float(told) if told is not None and told.isascii() and told.isdecimal() else None


def understood_line(call: Call, line: bytes) -> wire.Progress | wire.PullDone | wire.VerifyDone | wire.StreamError:
    """A line of an answer that tells of its progress."""
    try:
        return _LINE.validate_json(line)
    except ValidationError as error:
        raise InternalError(f"the answer to {call.method} {call.target} is not understood: {error}") from error


def piece(kind: type[A], call: Call, data: bytes) -> A:
    """One event of a stream. Raises the leaf that ended it."""
    if b'"error"' in data[:16]:
        try:
            told = json.loads(data)["error"]
        except (ValueError, KeyError, TypeError):
            pass
        else:
            raise ThaloomError.from_dict(told)
    return understood(kind, call, data)


@contextlib.contextmanager
def translated(settings: Settings, call: Call) -> Iterator[None]:
    """Errors of the connection, as leaves."""
    place = settings.socket if call.is_control and settings.socket is not None else settings.url
    try:
        yield
    except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
        raise_if_not_trusted(error, settings.url)
        raise NodeNotRunning(f"no node listens at {str(place)!r} (start one: thaloom up)") from error
    except httpx2.TimeoutException as error:
        raise DeadlineExceeded(f"the node fell silent for {settings.timeout_s:g} s") from error
    except httpx2.TransportError as error:
        lost = NodeNotRunning if call.is_control else WorkerLost
        hint = " (a door that speaks TLS is asked by https://)" if settings.url.startswith("http:") else ""
        raise lost(f"the connection to the node broke: {error}{hint}") from error
    except (httpx2.InvalidURL, httpx2.DecodingError) as error:
        raise BadParameter(f"{call.method} {call.target}: {error}") from error


def was_sent(error: ThaloomError) -> bool:
    """Whether anything of the call can have reached the node."""
    return not isinstance(error.__cause__, (httpx2.ConnectError, httpx2.ConnectTimeout))
