"""From the turns of an OpenAI chat to those a chat template knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic_core import from_json

from thaloom.base.errors import BadParameter
from thaloom.edge.api.openai.unserved import refuse_unserved
from thaloom.edge.wire.openai_messages import (
    AssistantMessage,
    FunctionMessage,
    Message,
    RefusalPart,
    TextPart,
    ToolMessage,
)
from thaloom.edge.wire.openai_requests import UNSERVED_IN_MESSAGE
from thaloom.work.runtime.types import ChatMessage

_NOT_TEXT = {
    "image_url": "images",
    "input_image": "images",
    "input_audio": "sound",
    "audio_url": "sound",
    "video_url": "video",
    "file": "files",
    "input_file": "files",
}


def refuse_what_is_not_text(data: Any) -> None:
    """Raises BadParameter for parts that no model here takes, before anything else is said of them."""
    messages = data.get("messages") if isinstance(data, dict) else None
    for index, message in enumerate(messages if isinstance(messages, list) else []):
        refuse_unserved(message, UNSERVED_IN_MESSAGE, f"messages[{index}].")
        content = message.get("content") if isinstance(message, dict) else None
        for place, part in enumerate(content if isinstance(content, list) else []):
            kind = part.get("type") if isinstance(part, dict) else None
            if isinstance(kind, str) and kind in _NOT_TEXT:
                where = f"messages[{index}].content[{place}]"
                raise BadParameter(f"{where}: no model served here takes {_NOT_TEXT[kind]}", param=f"{where}.type")


def chat_messages(messages: Sequence[Message]) -> tuple[ChatMessage, ...]:
    """As templates want them: functions are tools there, and a call has its arguments as an object.

    Raises BadParameter for an assistant's turn without any content.
    """
    told: list[ChatMessage] = []
    for index, message in enumerate(messages):
        if isinstance(message, AssistantMessage):
            told.append(_assistant(message, index))
        elif isinstance(message, ToolMessage):
            extra = {"tool_call_id": message.tool_call_id} | _named(message.name)
            told.append(ChatMessage(role="tool", content=_text(message.content), extra=extra))
        elif isinstance(message, FunctionMessage):
            extra = {"tool_call_id": _last_call(told, message.name), "name": message.name}
            told.append(ChatMessage(role="tool", content=message.content or "", extra=extra))
        else:
            # `developer` is what newer clients call `system`; templates know only the old word
            role = "system" if message.role == "developer" else message.role
            told.append(ChatMessage(role=role, content=_text(message.content), extra=_named(message.name)))
    return tuple(told)


def _assistant(message: AssistantMessage, index: int) -> ChatMessage:
    calls = [
        {"id": call.id, "type": "function", "function": _called(call.function.name, call.function.arguments)}
        for call in message.tool_calls or ()
    ]
    if message.function_call is not None:
        function = _called(message.function_call.name, message.function_call.arguments)
        calls.append({"id": f"call_{index}", "type": "function", "function": function})
    content = message.content if message.content is not None else message.refusal
    if content is None and not calls:
        where = f"messages[{index}].content"
        raise BadParameter(f"{where}: an assistant's message has content or calls tools", param=where)
    extra = _named(message.name)
    if calls:
        extra["tool_calls"] = calls
    if thought := message.reasoning_content or message.reasoning:
        extra["reasoning_content"] = thought
    return ChatMessage(role="assistant", content=_text(content or ""), extra=extra)


def _called(name: str, arguments: str) -> dict[str, Any]:
    try:
        told = from_json(arguments, allow_inf_nan=False)
    except ValueError:
        told = None
    return {"name": name, "arguments": told if isinstance(told, dict) else arguments}


def _text(content: str | Sequence[TextPart | RefusalPart]) -> str:
    """Parts are joined by lines."""
    if isinstance(content, str):
        return content
    return "\n".join(part.text if isinstance(part, TextPart) else part.refusal for part in content)


def _named(name: str | None) -> dict[str, Any]:
    return {} if name is None else {"name": name}


def _last_call(told: Sequence[ChatMessage], name: str) -> str:
    """The id of the call that a function's answer belongs to: the last one of that name."""
    for message in reversed(told):
        for call in reversed(message.extra.get("tool_calls", ())):
            if call["function"]["name"] == name:
                return str(call["id"])
    return f"call_{name}"
