"""Answers in Anthropic's form: whole messages, and the events of a stream with what stays the same written once.

An answer is a list of blocks: thoughts, text, calls. In a stream each is opened, filled and closed before the next
one: message_start, (content_block_start, content_block_delta ..., content_block_stop) ..., message_delta,
message_stop. Source: Anthropic's API reference, "Streaming messages".
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from typing import Any, Literal

from pydantic_core import from_json

from thaloom.base.errors import ThaloomError
from thaloom.edge.api.anthropic.errors import body as error_body
from thaloom.edge.api.anthropic.requests import AnthropicWanted
from thaloom.edge.api.errors import to_json
from thaloom.edge.api.routes.generation import Choice
from thaloom.work.runtime.types import Done, ToolCallPiece

_Kind = Literal["thinking", "text", "tool_use"]
PING = b'event: ping\ndata: {"type":"ping"}\n\n'
STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'


class AnthropicForm:
    """generation.Form for one message. Belongs to one request: it knows which block of its stream is open."""

    def __init__(self, wanted: AnthropicWanted) -> None:
        self._head = {"id": wanted.id, "type": "message", "role": "assistant", "model": wanted.model}
        self._max_tokens = wanted.requests[0].max_tokens
        self._thinking = wanted.thinking
        self._thinking_text = wanted.thinking_text
        self._started = False
        self._index = -1
        self._open: _Kind | None = None
        self._before_text = self._after_text = b""
        self._thought = hashlib.sha256()

    def whole(self, choices: Sequence[Choice]) -> bytes:
        (choice,) = choices
        assert choice.done is not None
        content: list[dict[str, Any]] = []
        if choice.reasoning and self._thinking:
            text = choice.reasoning if self._thinking_text else ""
            signature = _signature(hashlib.sha256(choice.reasoning.encode(errors="replace")))
            content.append({"type": "thinking", "thinking": text, "signature": signature})
        if choice.text:
            content.append({"type": "text", "text": choice.text})
        content += _calls(choice.tool_calls)
        return to_json(self._head | {"content": content} | self._stopped(choice.done) | {"usage": _usage(choice.done)})

    def opening(self) -> bytes:
        """Nothing yet: `message_start` tells the prompt's tokens, which are known with the first of the answer."""
        return b""

    def chunk(self, choice: Choice) -> bytes:
        """What has come since the last chunk; the caller empties it afterwards."""
        if self._open == "text" and choice.text and not choice.tool_calls and choice.done is None:  # as nearly all are
            return self._before_text + to_json(choice.text) + self._after_text
        events: list[bytes] = []
        if not self._started:
            self._started = True
            events.append(self._start(choice))
        if choice.reasoning and self._thinking:
            self._think(choice.reasoning, events)
        if choice.text:
            if self._open != "text":
                self._begin("text", {"text": ""}, events)
            events.append(self._before_text + to_json(choice.text) + self._after_text)
        for piece in choice.tool_calls:
            self._call(piece, events)
        if choice.done is not None:
            self._end(events)
            told = {"delta": self._stopped(choice.done), "usage": _usage(choice.done)}
            events.append(_event("message_delta", told))
        return b"".join(events)

    def closing(self, choices: Sequence[Choice]) -> bytes:  # noqa: ARG002 - all of them ended in their chunks
        return STOP

    def error_event(self, error: ThaloomError) -> bytes:
        return b"event: error\ndata: " + to_json(error_body(error)) + b"\n\n"

    def _start(self, choice: Choice) -> bytes:
        """Which of the prompt's tokens were cached comes with the end."""
        known = choice.prompt_tokens if choice.done is None else choice.done.prompt_tokens
        usage = _EMPTY_USAGE | {"input_tokens": known or 0}
        message: dict[str, Any] = {"content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}
        return _event("message_start", {"message": self._head | message}) + PING

    def _think(self, thought: str, events: list[bytes]) -> None:
        if self._open != "thinking":
            self._begin("thinking", {"thinking": "", "signature": ""}, events)
            self._thought = hashlib.sha256()
        self._thought.update(thought.encode(errors="replace"))
        if self._thinking_text:
            events.append(self._delta({"type": "thinking_delta", "thinking": thought}))

    def _call(self, piece: ToolCallPiece, events: list[bytes]) -> None:
        if piece.id is not None:
            self._begin("tool_use", {"id": piece.id, "name": piece.name, "input": {}}, events)
        if piece.arguments:
            events.append(self._delta({"type": "input_json_delta", "partial_json": piece.arguments}))

    def _begin(self, kind: _Kind, block: dict[str, Any], events: list[bytes]) -> None:
        self._end(events)
        self._index += 1
        self._open = kind
        started = {"index": self._index, "content_block": {"type": kind} | block}
        events.append(_event("content_block_start", started))
        if kind == "text":
            self._before_text, self._after_text = self._delta({"type": "text_delta", "text": ""}).split(b'""')

    def _end(self, events: list[bytes]) -> None:
        if self._open is None:
            return
        if self._open == "thinking":
            events.append(self._delta({"type": "signature_delta", "signature": _signature(self._thought)}))
        events.append(_event("content_block_stop", {"index": self._index}))
        self._open = None

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return _event("content_block_delta", {"index": self._index, "delta": delta})

    def _stopped(self, done: Done) -> dict[str, Any]:
        stop = done.stop if isinstance(done.stop, str) else None
        return {"stop_reason": self._reason(done, stop), "stop_sequence": stop}

    def _reason(self, done: Done, stop: str | None) -> str:
        if done.reason == "length":
            whole = self._max_tokens is not None and done.completion_tokens >= self._max_tokens
            return "max_tokens" if whole else "model_context_window_exceeded"
        if done.reason == "tool_calls":
            return "tool_use"
        return "end_turn" if stop is None else "stop_sequence"


_EMPTY_USAGE: dict[str, Any] = {
    "input_tokens": 0, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 0,
    "service_tier": "standard",
}  # fmt: skip


def _usage(done: Done) -> dict[str, Any]:
    created = max(0, done.pinned_tokens - done.cached_tokens)
    return _EMPTY_USAGE | {
        "input_tokens": done.prompt_tokens - done.cached_tokens - created,
        "cache_creation_input_tokens": created,
        "cache_read_input_tokens": done.cached_tokens,
        "output_tokens": done.completion_tokens,
        "output_tokens_details": {"thinking_tokens": done.reasoning_tokens},
    }


def _calls(pieces: Sequence[ToolCallPiece]) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = []
    arguments: list[str] = []
    for piece in pieces:
        if piece.id is not None:
            calls.append({"type": "tool_use", "id": piece.id, "name": piece.name, "input": {}})
            arguments.append("")
        if arguments:
            arguments[-1] += piece.arguments
    for call, text in zip(calls, arguments, strict=True):
        call["input"] = _input(text)
    return calls


def _input(text: str) -> dict[str, Any]:
    """Of arguments that the answer's end has cut off, as much as there is: the same that clients make of a stream."""
    try:
        found = from_json(text, allow_partial="trailing-strings")
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {}


def _signature(thought: Any) -> str:
    """Clients hand it back with the thought, and refuse a thought without one. Nobody here needs it proved."""
    return base64.b64encode(thought.digest()).decode()


def _event(kind: str, data: dict[str, Any]) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + to_json({"type": kind} | data) + b"\n\n"
