"""How many tokens of a prompt the beginning of a chat is: as many as it has in common with the same chat that says
something else behind the mark.

No template says where in what it writes a message ends, and no tokenizer where a text ended that another one follows.
Everything behind the mark keeps its shape, so that templates that look ahead write the beginning as they did.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from thaloom.work.runtime.types import ChatMessage, GenerateRequest, Mark, Pin, Tool


def otherwise(request: GenerateRequest, mark: Mark) -> GenerateRequest:
    """The same up to the mark, and something else behind it, as short as its shape allows. `request` has messages."""
    messages = request.messages or ()
    begun = mark.num_messages
    others = [_other_message(message, mark if index == begun else Mark())
              for index, message in enumerate(messages[begun:], begun)]  # fmt: skip
    num_tools = len(request.tools) if mark.num_tools is None else mark.num_tools
    return dataclasses.replace(
        request,
        messages=(*messages[:begun], *others),
        tools=(*request.tools[:num_tools], *map(_other_tool, request.tools[num_tools:])),
        templating=dataclasses.replace(request.templating, continue_final_message=False),
    )


def that_count(request: GenerateRequest) -> list[Pin]:
    """Its pins without those that another one reaches beyond, for as long: of each token the longest time counts."""
    num_tools = len(request.tools)
    kept: list[Pin] = []
    for pin in request.pins:
        if not any(_includes(other, pin, num_tools) for other in kept):
            kept = [*(other for other in kept if not _includes(pin, other, num_tools)), pin]
    return kept


def num_in_common(one: Sequence[int], other: Sequence[int]) -> int:
    """Tokens that both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((index for index, (left, right) in pairs if left != right), min(len(one), len(other)))


def _includes(one: Pin, other: Pin, num_tools: int) -> bool:
    if one.seconds < other.seconds:
        return False
    return one.mark is None or (other.mark is not None and _reaches(one.mark, other.mark, num_tools))


def _reaches(one: Mark, other: Mark, num_tools: int) -> bool:
    tools, other_tools = (num_tools if mark.num_tools is None else mark.num_tools for mark in (one, other))
    if tools < other_tools:
        return False
    if one.num_messages != other.num_messages:
        return one.num_messages > other.num_messages
    return (
        one.num_characters >= other.num_characters
        and one.num_thought_characters >= other.num_thought_characters
        and one.num_calls >= other.num_calls
    )


def _other_message(message: ChatMessage, mark: Mark) -> ChatMessage:
    content = _other_end(message.content, mark.num_characters)
    extra = dict(message.extra)
    if thoughts := extra.get("reasoning_content"):
        extra["reasoning_content"] = _other_end(thoughts, mark.num_thought_characters)
    if calls := extra.get("tool_calls"):
        extra["tool_calls"] = [*calls[: mark.num_calls], *map(_other_call, calls[mark.num_calls :])]
    if not (content or thoughts or calls):
        content = _other("")  # a template may leave out a turn of nothing; beside calls it may refuse words
    return dataclasses.replace(message, content=content, extra=extra)


def _other_end(text: str, num_kept: int) -> str:
    rest = text[num_kept:]
    return text[:num_kept] + _other(rest) if rest else text


def _other_call(call: dict[str, Any]) -> dict[str, Any]:
    return call | {"function": {"name": _other(call["function"]["name"]), "arguments": {}}}


def _other_tool(tool: Tool) -> Tool:
    description = tool.description and _other(tool.description)  # some templates write it before the name
    return dataclasses.replace(tool, name=_other(tool.name), description=description)


def _other(text: str) -> str:
    return "1" if text.startswith("0") else "0"
