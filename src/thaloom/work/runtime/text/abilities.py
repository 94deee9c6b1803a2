"""What a model's chat template can do by itself, found out by letting it render small chats with known words in them.

Nothing else tells reliably: templates of the same family differ, and a variable that is named in a template may still
never come out of it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, Literal

from thaloom.base.errors import BadParameter
from thaloom.work.runtime.text.templates import ChatTemplate
from thaloom.work.runtime.types import ChatMessage, Templating

IdForm = Literal["any", "short", "named"]
"""Ids of calls: as they are; nine letters or digits, as Mistral wants them; `functions.name:0`, as Kimi's, whose
template writes nothing else of the name."""

_TOOL, _PARAMETER, _SYSTEM = "toolq", "parameterq", "systemq"
CALLED, _KEY, _VALUE, _RESULT = "calledq", "keyq", "valueq", "resultq"
ARGUMENTS = {_KEY: _VALUE}
_IDS: dict[IdForm, tuple[str, str]] = {
    "any": ("call_0123456789abcdef01234567", "call_76543210fedcba9876543210"),
    "short": ("abcdef012", "abcdef345"),
    "named": (f"functions.{CALLED}:0", f"functions.{CALLED}:1"),
}
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
_USER = ChatMessage(role="user", content="userq")


@dataclass(frozen=True, slots=True, kw_only=True)
class CallForm:
    """How a template takes an earlier message with calls."""

    many: bool = True
    """Several in one message."""
    without_content: bool = False
    """Only if the message has no content at all, not even an empty one."""
    arguments_as_text: bool = False
    """The arguments as JSON, and not as an object."""
    ids: IdForm = "any"


@dataclass(frozen=True, slots=True, kw_only=True)
class Abilities:
    tools: bool = False
    """Tells the model which tools there are."""
    system: bool = False
    """Writes a first message of the role `system`."""
    results: bool = False
    """Writes messages of the role `tool`."""
    calls: CallForm | None = None
    """How it takes earlier calls; None: it loses them."""
    samples: tuple[str, ...] = ()
    """What it writes for a call to `CALLED` with `ARGUMENTS`, without and with the words that begin the answer."""


def abilities_of(template: ChatTemplate) -> Abilities:
    """Renders up to some thirty small chats, in a few milliseconds."""
    told = _rendered(template, [_USER], _TOOLS)
    system = ChatMessage(role="system", content=_SYSTEM)
    taken = next((form for form in _FORMS if _takes(template, form)), None)
    answered = [_USER, ChatMessage(role="assistant", content="answerq"), _result(_IDS["short"][0])]
    return Abilities(
        tools=_TOOL in told and _PARAMETER in told,
        system=_SYSTEM in _rendered(template, [system, _USER], None)
        or _SYSTEM in _rendered(template, [system, _USER], _TOOLS),
        results=taken is not None or _RESULT in _rendered(template, answered, None),
        calls=taken,
        samples=() if taken is None else _samples(template, taken),
    )


_FORMS = tuple(
    CallForm(many=many, without_content=without_content, arguments_as_text=as_text, ids=ids)
    for many, without_content, ids, as_text in itertools.product((True, False), (False, True), _IDS, (False, True))
)


def _takes(template: ChatTemplate, form: CallForm) -> bool:
    rendered = _rendered(template, _chat(form, 2 if form.many else 1), _TOOLS)
    escaped = f'\\"{_KEY}' in rendered  # an object was wanted: the text was written as a text within JSON
    as_python = f"'{_KEY}':" in rendered  # text was wanted: the object was written as Python prints it
    return not (escaped or as_python) and all(
        rendered.count(word) >= 1 + form.many for word in (CALLED, _KEY, _VALUE, _RESULT)
    )


def _samples(template: ChatTemplate, form: CallForm) -> tuple[str, ...]:
    rendered = _rendered(template, _chat(form, 1), _TOOLS)
    prompts = [template.render([_USER], _TOOLS, Templating(add_generation_prompt=begun)) for begun in (True, False)]
    return tuple(rendered[_num_common(prompt, rendered) :] for prompt in prompts)


def _num_common(one: str, other: str) -> int:
    return next((at for at, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), len(one))


def _chat(form: CallForm, num_calls: int) -> list[ChatMessage]:
    arguments = f'{{"{_KEY}": "{_VALUE}"}}' if form.arguments_as_text else ARGUMENTS
    ids = _IDS[form.ids][:num_calls]
    function = {"name": CALLED, "arguments": arguments}
    extra: dict[str, Any] = {"content": None} if form.without_content else {}
    extra["tool_calls"] = [{"id": call_id, "type": "function", "function": function} for call_id in ids]
    return [_USER, ChatMessage(role="assistant", content="", extra=extra), *map(_result, ids)]


def _result(call_id: str) -> ChatMessage:
    return ChatMessage(role="tool", content=_RESULT, extra={"tool_call_id": call_id, "name": CALLED})


def _rendered(template: ChatTemplate, messages: list[ChatMessage], tools: list[dict[str, Any]] | None) -> str:
    try:
        return template.render(messages, tools)
    except BadParameter:
        return ""
