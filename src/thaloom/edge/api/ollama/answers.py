"""Answers in Ollama's form: one JSON object, or one a line, the last of which says `done` and what it cost.

A call a model makes is told whole, when the next thing begins: the protocol knows no pieces of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from pydantic_core import from_json

from thaloom.base.errors import ThaloomError
from thaloom.edge.api.errors import to_json
from thaloom.edge.api.ollama.errors import body as error_body
from thaloom.edge.api.ollama.requests import OllamaWanted
from thaloom.edge.api.routes.generation import Choice
from thaloom.edge.api.routes.logprobs import finite
from thaloom.work.runtime.types import Done, PositionLogprobs, TokenLogprob, ToolCallPiece


class OllamaForm:
    """generation.Form for one answer. Belongs to one request: it keeps calls until they are whole."""

    def __init__(self, wanted: OllamaWanted, *, now: float) -> None:
        self._chat = wanted.kind == "chat"
        self._load_s = wanted.load_s
        self._head = {"model": wanted.asked, "created_at": moment(now)}
        self._calls: list[_Call] = []
        self._num_told = 0
        self._before_text, self._after_text = to_json(self._line("")).split(b'""')
        self._after_text += b"\n"

    def whole(self, choices: Sequence[Choice]) -> bytes:
        (choice,) = choices
        assert choice.done is not None
        self._take(choice.tool_calls)
        line = self._line(choice.text, choice.reasoning, self._told_calls(), choice.logprobs)
        return to_json(line | self._end(choice.done))

    def opening(self) -> bytes:
        return b""

    def chunk(self, choice: Choice) -> bytes:
        """What has come since the last chunk; the caller empties it afterwards."""
        if not (choice.reasoning or choice.tool_calls or choice.logprobs or choice.done):  # as nearly all are
            return self._before_text + to_json(choice.text) + self._after_text
        self._take(choice.tool_calls)
        lines = []
        calls = self._told_calls(all_of_them=choice.done is not None)
        if choice.text or choice.reasoning or choice.logprobs or calls:
            lines.append(to_json(self._line(choice.text, choice.reasoning, calls, choice.logprobs)) + b"\n")
        if choice.done is not None:
            lines.append(to_json(self._line("") | self._end(choice.done)) + b"\n")
        return b"".join(lines)

    def closing(self, choices: Sequence[Choice]) -> bytes:  # noqa: ARG002 - the last chunk said it
        return b""

    def error_event(self, error: ThaloomError) -> bytes:
        return to_json(error_body(error)) + b"\n"

    def _line(
        self,
        text: str,
        thinking: str = "",
        calls: Sequence[dict[str, Any]] = (),
        logprobs: Sequence[PositionLogprobs] = (),
    ) -> dict[str, Any]:
        said: dict[str, Any] = {"role": "assistant", "content": text} if self._chat else {"response": text}
        if thinking:
            said["thinking"] = thinking
        if calls:
            said["tool_calls"] = list(calls)
        line: dict[str, Any] = self._head | ({"message": said} if self._chat else said) | {"done": False}
        if logprobs:
            line["logprobs"] = [_position(position) for position in logprobs]
        return line

    def _end(self, done: Done) -> dict[str, Any]:
        parts = {"load": self._load_s, "prompt_eval": done.prefill_s, "eval": done.decode_s}
        return {
            "done": True,
            "done_reason": "length" if done.reason == "length" else "stop",
            "total_duration": nanoseconds(sum(parts.values()) + done.queue_s),
            **{f"{name}_duration": nanoseconds(seconds) for name, seconds in parts.items()},
            "prompt_eval_count": done.prompt_tokens,
            "eval_count": done.completion_tokens,
        }

    def _take(self, pieces: Sequence[ToolCallPiece]) -> None:
        for piece in pieces:
            if piece.id is not None:
                self._calls.append(_Call(piece.id, piece.name or "", len(self._calls)))
            if self._calls:
                self._calls[-1].arguments += piece.arguments

    def _told_calls(self, *, all_of_them: bool = True) -> list[dict[str, Any]]:
        """Those that are whole by now: all but the last one, until the end."""
        end = len(self._calls) if all_of_them else max(self._num_told, len(self._calls) - 1)
        told = [call.told() for call in self._calls[self._num_told : end]]
        self._num_told = end
        return told


class _Call:
    def __init__(self, call_id: str, name: str, index: int) -> None:
        self._id = call_id
        self._name = name
        self._index = index
        self.arguments = ""

    def told(self) -> dict[str, Any]:
        return {
            "id": self._id,
            "function": {"index": self._index, "name": self._name, "arguments": self._read()},
        }

    def _read(self) -> dict[str, Any]:
        """Of arguments that the answer's end has cut off, as much as there is."""
        try:
            found = from_json(self.arguments, allow_partial="trailing-strings")
        except ValueError:
            found = None
        return found if isinstance(found, dict) else {}


def moment(seconds: float) -> str:
    """RFC 3339, as Go writes it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)


def _position(position: PositionLogprobs) -> dict[str, Any]:
    chosen = _logprob(position.chosen)
    return chosen | {"top_logprobs": [_logprob(top) for top in position.top]} if position.top else chosen


def _logprob(token: TokenLogprob) -> dict[str, Any]:
    return {"token": token.text, "logprob": finite(token.logprob), "bytes": list(token.data)}
