"""Tools and calls told in plain text, to models whose chat template has no words of its own for them. Pure.

The form is the one most models were trained on: Hermes' (NousResearch/Hermes-Function-Calling), which Qwen took over.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Sequence
from typing import Any

from thaloom.work.runtime.abilities import Abilities
from thaloom.work.runtime.types import ChatMessage

_INTRODUCTION = """\
# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""


def as_told(
    messages: Sequence[ChatMessage], tools: Sequence[dict[str, Any]], abilities: Abilities, *, taught: bool
) -> tuple[list[ChatMessage], list[dict[str, Any]]]:
    """Messages and tools as the template takes them: what it has no words for is told as text.

    `taught`: the tools are told by us, in the form that the generic dialect reads.
    """
    turns = list(messages)
    if not abilities.calls or taught:
        turns = _without_calls(turns)
    else:
        turns = [_fitted(turn, abilities) for turn in (turns if abilities.many_calls else _one_by_one(turns))]
    if not tools or not taught:
        return turns, list(tools)
    told = _INTRODUCTION.format(tools="\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools))
    return _introduced(turns, told, abilities), []


def _introduced(turns: list[ChatMessage], told: str, abilities: Abilities) -> list[ChatMessage]:
    """With the tools in the first message: the system's, or where the template has none, the user's."""
    first = turns[0] if turns else None
    if first is not None and first.role == "system":
        return [dataclasses.replace(first, content=f"{first.content}\n\n{told}"), *turns[1:]]
    if abilities.system or first is None or first.role != "user":
        return [ChatMessage(role="system", content=told), *turns]
    return [dataclasses.replace(first, content=f"{told}\n\n{first.content}"), *turns[1:]]


def _without_calls(turns: Sequence[ChatMessage]) -> list[ChatMessage]:
    """Calls as the text that made them, results as the user's words. Templates often want user and assistant in turns,
    so what then stands side by side becomes one."""
    plain: list[ChatMessage] = []
    for turn in turns:
        told = _plain(turn)
        last = plain[-1] if plain else None
        if last is not None and last.role == told.role == "user" and "tool" in (turn.role, last.extra.get("thaloom")):
            plain[-1] = dataclasses.replace(last, content=f"{last.content}\n{told.content}")
        else:
            plain.append(told)
    return [dataclasses.replace(turn, extra=_without(turn.extra, "thaloom")) for turn in plain]


def _plain(turn: ChatMessage) -> ChatMessage:
    if turn.role == "tool":
        content = f"<tool_response>\n{turn.content}\n</tool_response>"
        return ChatMessage(role="user", content=content, extra={"thaloom": "tool"})
    calls = turn.extra.get("tool_calls")
    if not calls:
        return turn
    written = "\n".join(f"<tool_call>\n{_written(call)}\n</tool_call>" for call in calls)
    content = f"{turn.content}\n{written}" if turn.content else written
    return dataclasses.replace(turn, content=content, extra=_without(turn.extra, "tool_calls"))


def _written(call: dict[str, Any]) -> str:
    function = call.get("function", {})
    arguments = function.get("arguments") or {}
    return json.dumps({"name": function.get("name"), "arguments": _as_object(arguments)}, ensure_ascii=False)


def _one_by_one(turns: Sequence[ChatMessage]) -> list[ChatMessage]:
    """Several calls of one message in a message each, with its result behind it."""
    single: list[ChatMessage] = []
    for index, turn in enumerate(turns):
        calls = turn.extra.get("tool_calls") or ()
        if len(calls) < 2:
            if not (turn.role == "tool" and any(turn is told for told in single)):
                single.append(turn)
            continue
        results = list(itertools.takewhile(lambda later: later.role == "tool", turns[index + 1 :]))
        for number, call in enumerate(calls):
            content = "" if number else turn.content
            single.append(dataclasses.replace(turn, content=content, extra=turn.extra | {"tool_calls": [call]}))
            single += [result for result in results if result.extra.get("tool_call_id") == call.get("id")]
    return single


def _fitted(turn: ChatMessage, abilities: Abilities) -> ChatMessage:
    """With ids and arguments as the template wants them."""
    extra = dict(turn.extra)
    if abilities.short_ids and isinstance(extra.get("tool_call_id"), str):
        extra["tool_call_id"] = _short(extra["tool_call_id"])
    if calls := extra.get("tool_calls"):
        extra["tool_calls"] = [_fitted_call(call, abilities) for call in calls]
    return dataclasses.replace(turn, extra=extra)


def _fitted_call(call: dict[str, Any], abilities: Abilities) -> dict[str, Any]:
    function = dict(call.get("function", {}))
    arguments = _as_object(function.get("arguments") or {})
    if abilities.arguments_as_text and not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    function["arguments"] = arguments
    short = {"id": _short(call["id"])} if abilities.short_ids and isinstance(call.get("id"), str) else {}
    return call | {"function": function} | short


def _as_object(arguments: Any) -> Any:
    """As an object, where it is one; else as it is."""
    if not isinstance(arguments, str):
        return arguments
    try:
        parsed = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    return parsed if isinstance(parsed, dict) else arguments


def _short(call_id: str) -> str:
    return call_id if len(call_id) == 9 and call_id.isalnum() else hashlib.sha256(call_id.encode()).hexdigest()[:9]


def _without(extra: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in extra.items() if name != key}
