"""What a model's chat template can do by itself, found out by letting it render small chats with known words in them.

Nothing else tells reliably: templates of the same family differ, and a variable that is named in a template may still
never come out of it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

from thaloom.base.errors import BadParameter
from thaloom.work.runtime.templates import ChatTemplate
from thaloom.work.runtime.types import ChatMessage

_TOOL, _PARAMETER, _SYSTEM = "toolq", "parameterq", "systemq"
_CALLED, _KEY, _VALUE, _RESULT = "calledq", "keyq", "valueq", "resultq"
_IDS = ("call_0123456789abcdef01234567", "call_76543210fedcba9876543210")
_TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": _TOOL,
            "description": "a tool",
            "parameters": {"type": "object", "properties": {_PARAMETER: {"type": "string", "description": "a key"}}},
        },
    }
]
_FORMS = tuple(itertools.product((True, False), (False, True), (False, True)))
"""Many calls, arguments as text, short ids: in the order they are tried."""
_USER = ChatMessage(role="user", content="userq")


@dataclass(frozen=True, slots=True, kw_only=True)
class Abilities:
    tools: bool
    """Tells the model which tools there are."""
    calls: bool
    """Writes earlier calls and their results."""
    many_calls: bool = True
    """Several in one message."""
    arguments_as_text: bool = False
    """Of earlier calls, wants the arguments as JSON and not as an object."""
    short_ids: bool = False
    """Takes ids of calls with nine letters or digits only, as Mistral's do."""
    system: bool
    """Writes a first message of the role `system`."""


NO_ABILITIES = Abilities(tools=False, calls=False, system=False)
"""Of a model without a template."""


def abilities_of(template: ChatTemplate) -> Abilities:
    """Renders up to ten small chats."""
    told = _rendered(template, [_USER], _TOOLS)
    system = ChatMessage(role="system", content=_SYSTEM)
    taken = next((form for form in _FORMS if _takes_calls(template, *form)), None)
    many, as_text, short_ids = taken or (True, False, False)
    return Abilities(
        tools=_TOOL in told and _PARAMETER in told,
        calls=taken is not None,
        many_calls=many,
        arguments_as_text=as_text,
        short_ids=short_ids,
        system=_SYSTEM in _rendered(template, [system, _USER], None),
    )


def _takes_calls(template: ChatTemplate, many: bool, as_text: bool, short_ids: bool) -> bool:
    arguments = f'{{"{_KEY}": "{_VALUE}"}}' if as_text else {_KEY: _VALUE}
    ids = [call_id[-9:] if short_ids else call_id for call_id in _IDS[: 1 + many]]
    function = {"name": _CALLED, "arguments": arguments}
    calls = [{"id": call_id, "type": "function", "function": function} for call_id in ids]
    chat = [_USER, ChatMessage(role="assistant", content="", extra={"tool_calls": calls})]
    chat += [
        ChatMessage(role="tool", content=_RESULT, extra={"tool_call_id": call_id, "name": _CALLED}) for call_id in ids
    ]
    rendered = _rendered(template, chat, _TOOLS)
    escaped = f'\\"{_KEY}' in rendered  # an object was wanted: the text was written as a text within JSON
    return all(rendered.count(word) >= len(ids) for word in (_CALLED, _KEY, _VALUE, _RESULT)) and not escaped


def _rendered(template: ChatTemplate, messages: list[ChatMessage], tools: list[dict[str, Any]] | None) -> str:
    try:
        return template.render(messages, tools)
    except BadParameter:
        return ""
