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

from thaloom.work.runtime.dialects import GENERIC, Dialect
from thaloom.work.runtime.text.abilities import Abilities, CallForm
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
    messages: Sequence[ChatMessage], tools: Sequence[dict[str, Any]], abilities: Abilities, dialect: Dialect
) -> tuple[list[ChatMessage], list[dict[str, Any]]]:
    """Messages and tools as the template takes them: what it has no words for is told as text.

    To the generic dialect the tools are always told by us.
    """
    turns = _named(messages)
    taught = dialect.name == GENERIC
    form = abilities.calls
    if form is None or taught:
        turns = _without_calls(turns, dialect, results=abilities.results and not taught)
    else:
        turns = [_fitted(turn, form, turns) for turn in (turns if form.many else _one_by_one(turns))]
    if not tools or not taught:
        return turns, list(tools)
    told = _INTRODUCTION.format(tools="\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools))
    return _introduced(turns, told, abilities), []


def _named(turns: Sequence[ChatMessage]) -> list[ChatMessage]:
    """Results with the name of the function that gave them: some templates write it, clients seldom send it."""
    names: dict[Any, Any] = {}
    named: list[ChatMessage] = []
    for turn in turns:
        for call in turn.extra.get("tool_calls") or ():
            names[call.get("id")] = call.get("function", {}).get("name")
        name = names.get(turn.extra.get("tool_call_id"))
        if turn.role == "tool" and name is not None:
            turn = dataclasses.replace(turn, extra={"name": name} | turn.extra)
        named.append(turn)
    return named


def _introduced(turns: list[ChatMessage], told: str, abilities: Abilities) -> list[ChatMessage]:
    """With the tools in the first message: the system's, or where the template has none, the user's."""
    first = turns[0] if turns else None
    if first is not None and first.role == "system":
        return [dataclasses.replace(first, content=f"{first.content}\n\n{told}"), *turns[1:]]
    if abilities.system or first is None or first.role != "user":
        return [ChatMessage(role="system", content=told), *turns]
    return [dataclasses.replace(first, content=f"{told}\n\n{first.content}"), *turns[1:]]


def _without_calls(turns: Sequence[ChatMessage], dialect: Dialect, *, results: bool) -> list[ChatMessage]:
    """Calls as the text that made them, and unless the template writes `results`, these as the user's words. Templates
    often want user and assistant in turns, so what then stands side by side becomes one."""
    plain: list[ChatMessage] = []
    for turn in turns:
        told = turn if results and turn.role == "tool" else _plain(turn, dialect)
        last = plain[-1] if plain else None
        if last is not None and last.role == told.role == "user" and "tool" in (turn.role, last.extra.get("thaloom")):
            plain[-1] = dataclasses.replace(last, content=f"{last.content}\n{told.content}")
        else:
            plain.append(told)
    return [dataclasses.replace(turn, extra=_without(turn.extra, "thaloom")) for turn in plain]


def _plain(turn: ChatMessage, dialect: Dialect) -> ChatMessage:
    if turn.role == "tool":
        content = f"<tool_response>\n{turn.content}\n</tool_response>"
        return ChatMessage(role="user", content=content, extra={"thaloom": "tool"})
    calls = turn.extra.get("tool_calls")
    if not calls:
        return turn
    functions = [call.get("function", {}) for call in calls]
    written = dialect.write([(str(one.get("name")), _as_object(one.get("arguments") or {})) for one in functions])
    content = f"{turn.content}\n{written}" if turn.content else written
    return dataclasses.replace(turn, content=content, extra=_without(turn.extra, "tool_calls"))


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


def _fitted(turn: ChatMessage, form: CallForm, turns: Sequence[ChatMessage]) -> ChatMessage:
    """With content, ids and arguments as the template wants them."""
    extra = dict(turn.extra)
    if turn.role == "tool":
        extra["tool_call_id"] = _fitted_id(extra.get("tool_call_id"), form, turns)
    if calls := extra.get("tool_calls"):
        extra["tool_calls"] = [_fitted_call(call, form, turns) for call in calls]
        if form.without_content and not turn.content:
            extra["content"] = None
    return dataclasses.replace(turn, extra=extra)


def _fitted_call(call: dict[str, Any], form: CallForm, turns: Sequence[ChatMessage]) -> dict[str, Any]:
    function = dict(call.get("function", {}))
    arguments = _as_object(function.get("arguments") or {})
    if form.arguments_as_text and not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    function["arguments"] = arguments
    return call | {"function": function, "id": _fitted_id(call.get("id"), form, turns)}


def _fitted_id(call_id: Any, form: CallForm, turns: Sequence[ChatMessage]) -> Any:
    if form.ids == "any" or not isinstance(call_id, str):
        return call_id
    if form.ids == "short":
        short = len(call_id) == 9 and call_id.isalnum()
        return call_id if short else hashlib.sha256(call_id.encode()).hexdigest()[:9]
    calls = [call for turn in turns for call in turn.extra.get("tool_calls") or ()]
    place = next((index for index, call in enumerate(calls) if call.get("id") == call_id), None)
    return call_id if place is None else f"functions.{calls[place].get('function', {}).get('name')}:{place}"


def _as_object(arguments: Any) -> Any:
    """As an object, where it is one; else as it is."""
    if not isinstance(arguments, str):
        return arguments
    try:
        parsed = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    return parsed if isinstance(parsed, dict) else arguments


def _without(extra: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in extra.items() if name != key}
