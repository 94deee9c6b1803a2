"""The items of a conversation as the Responses API has them, and the turns of a chat they are for a model: pure."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from thaloom.edge.wire.responses import (
    FunctionCall,
    FunctionCallOutput,
    InputItem,
    InputMessage,
    InputText,
    Refusal,
)
from thaloom.work.runtime.types import ChatMessage

Item = dict[str, Any]
_PREFIXES = {"message": "msg", "function_call": "fc", "function_call_output": "fco", "reasoning": "rs"}


def new_id(prefix: str) -> str:
    """`<prefix>_` and 192 random bits, as long as OpenAI's own."""
    return f"{prefix}_{secrets.token_hex(24)}"


def kept_items(asked: str | Sequence[InputItem]) -> list[Item]:
    """What was said, in the one form it is kept and listed in: every item with an id, every text in a part."""
    if isinstance(asked, str):
        asked = [InputMessage(role="user", content=asked)]
    return [_kept(item) | {"id": item.id or new_id(_PREFIXES[item.type])} for item in asked]


def _kept(item: InputItem) -> Item:
    if isinstance(item, InputMessage):
        kind: Literal["output_text", "input_text"] = "output_text" if item.role == "assistant" else "input_text"
        content = [InputText(type=kind, text=item.content)] if isinstance(item.content, str) else item.content
        parts = [_part(part, kind) for part in content]
        return {"type": "message", "role": item.role, "status": item.status or "completed", "content": parts}
    if isinstance(item, FunctionCall):
        call = {"type": "function_call", "call_id": item.call_id, "name": item.name, "arguments": item.arguments}
        return call | {"status": item.status or "completed"}
    if isinstance(item, FunctionCallOutput):
        output: Any = item.output
        if not isinstance(output, str):
            output = [{"type": "input_text", "text": part.text} for part in output]
        return {"type": item.type, "call_id": item.call_id, "output": output, "status": item.status or "completed"}
    return {
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": part.text} for part in item.summary],
        "content": [{"type": "reasoning_text", "text": part.text} for part in item.content or []],
    }


def _part(part: InputText | Refusal, kind: str) -> dict[str, Any]:
    if isinstance(part, Refusal):
        return {"type": "refusal", "refusal": part.refusal}
    return {"type": kind, "text": part.text} | ({"annotations": []} if kind == "output_text" else {})


def messages(instructions: str | None, items: Iterable[Item]) -> tuple[ChatMessage, ...]:
    """The turns. What a model did in one go (thought, said, called) is several items, and one turn of it."""
    turns: list[ChatMessage] = []
    if instructions:
        turns.append(ChatMessage(role="system", content=instructions))
    names: dict[str, str] = {}
    own = _Turn()
    for item in items:
        if item["type"] == "function_call":
            names[item["call_id"]] = item["name"]
        of_the_model = item["type"] in ("function_call", "reasoning") or item.get("role") == "assistant"
        if not of_the_model or own.is_over_before(item):
            turns += own.messages()
            own = _Turn()
        if of_the_model:
            own.add(item)
        else:
            turns.append(_tool_turn(item, names) if item["type"] == "function_call_output" else _said(item))
    return (*turns, *own.messages())


class _Turn:
    """A turn of the model, as its items come."""

    def __init__(self) -> None:
        self._text: str | None = None
        self._reasoning = ""
        self._calls: list[dict[str, Any]] = []

    def is_over_before(self, item: Item) -> bool:
        """A second message, or a thought after something was said or done, begins another turn."""
        if item["type"] == "function_call":
            return False
        said = self._text is not None or bool(self._calls)
        return said if item["type"] == "message" else said or bool(self._reasoning)

    def add(self, item: Item) -> None:
        if item["type"] == "message":
            self._text = _text(item["content"])
        elif item["type"] == "reasoning":
            self._reasoning = "\n".join(part["text"] for part in item.get("content") or item.get("summary") or [])
        else:
            function = {"name": item["name"], "arguments": _arguments(item["arguments"])}
            self._calls.append({"id": item["call_id"], "type": "function", "function": function})

    def messages(self) -> list[ChatMessage]:
        if self._text is None and not self._calls and not self._reasoning:
            return []
        extra: dict[str, Any] = {}
        if self._reasoning:
            extra["reasoning_content"] = self._reasoning
        if self._calls:
            extra["tool_calls"] = self._calls
        return [ChatMessage(role="assistant", content=self._text or "", extra=extra)]


def _said(item: Item) -> ChatMessage:
    """`developer` is what newer clients call `system`; templates know only the old word."""
    role = "system" if item["role"] == "developer" else item["role"]
    return ChatMessage(role=role, content=_text(item["content"]))


def _tool_turn(item: Item, names: dict[str, str]) -> ChatMessage:
    output = item["output"]
    extra = {"tool_call_id": item["call_id"]}
    if (name := names.get(item["call_id"])) is not None:
        extra["name"] = name
    return ChatMessage(role="tool", content=output if isinstance(output, str) else _text(output), extra=extra)


def _text(parts: Iterable[dict[str, Any]]) -> str:
    """Parts are joined by lines, as in a chat."""
    return "\n".join(part["refusal"] if part["type"] == "refusal" else part["text"] for part in parts)


def _arguments(text: str) -> Any:
    """As an object where they are one, which is how templates want them."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return found if isinstance(found, dict) else text
