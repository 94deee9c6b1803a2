"""What all messages of the control API have in common: bases, conditions, errors, how far a long request is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

NDJSON = "application/x-ndjson"
"""Content type of the streams: one JSON message a line, the last one `done` or `error`."""
MAX_TAIL_LINES = 10_000
VIA = "1.1 thaloom-door"
"""What came over TCP, or is asked by the door for whoever came so, bears this header: not by the hand of who can open
the node's own socket."""


class Ask(BaseModel):
    """Base of what callers send."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, defer_build=True)


class Answer(BaseModel):
    """Base of what a node answers."""

    model_config = ConfigDict(extra="ignore", frozen=True, defer_build=True)


class Noted(Answer):
    """It is written down."""


class Condition(Answer):
    kind: str
    status: bool
    reason: str
    message: str
    since: float


class Removed(Answer):
    """What is gone, by name."""

    name: str


class ErrorBody(Answer):
    """A ThaloomError: `ThaloomError.from_dict` gives the same leaf back."""

    code: str
    message: str
    param: str | None = None
    retry_after_s: float | None = None
    details: dict[str, Any] = Field(default_factory=dict)
    help_page: str = ""


class ErrorReply(Answer):
    """The body of every answer with a status of 400 or more."""

    error: ErrorBody


class Progress(Answer):
    """How far a long request is. `total_bytes` is null while it is not known."""

    kind: Literal["progress"] = "progress"
    stage: str
    done_bytes: int
    total_bytes: int | None


class StreamError(Answer):
    """The last line of a stream that could not be ended well."""

    kind: Literal["error"] = "error"
    error: ErrorBody


def complete() -> None:
    """Make every message's validator now: for a node, which needs them all."""
    for model in (*_below(Ask), *_below(Answer)):
        model.model_config["defer_build"] = False
        model.model_rebuild()


def _below(kind: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for model in kind.__subclasses__():
        yield model
        yield from _below(model)
