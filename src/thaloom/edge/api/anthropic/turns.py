"""Anthropic's messages, whose blocks mix speech, thoughts, calls and results, as the turns that chat templates know.

A tool's result is a turn of its own there, and stands in the user's message here. Neighbours of one role are one
turn, as the protocol says.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from thaloom.base.errors import BadParameter
from thaloom.edge.wire.anthropic import (
    Block,
    CacheControl,
    Message,
    RedactedThinkingBlock,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from thaloom.work.runtime.types import ChatMessage, Mark

Marked = tuple[CacheControl, Mark]


@dataclass(frozen=True, slots=True)
class Conversation:
    turns: list[ChatMessage]
    goes_on: bool
    """The answer goes on with the last one."""
    marks: list[Marked]


def conversation(messages: Sequence[Message]) -> Conversation:
    """Raises BadParameter."""
    turns = _Turns()
    for index, message in enumerate(messages):
        if not message.content and message.role != "assistant":
            raise BadParameter(f"messages[{index}].content: must not be empty", param=f"messages[{index}].content")
        turns.add(index, message)
    if not turns.made:
        raise BadParameter("messages: there is nothing in them to answer", param="messages")
    return Conversation(turns.made, _goes_on(messages, turns.made), turns.marks)


def system_text(system: str | Sequence[TextBlock]) -> str:
    return system if isinstance(system, str) else "\n".join(block.text for block in system)


def _is_empty(message: Message) -> bool:
    return not message.content or all(isinstance(block, TextBlock) and not block.text for block in message.content)


def _goes_on(messages: Sequence[Message], turns: Sequence[ChatMessage]) -> bool:
    """Whether the client has begun the answer. An empty beginning is none."""
    if messages[-1].role != "assistant" or _is_empty(messages[-1]) or turns[-1].role != "assistant":
        return False
    name = f"messages[{len(messages) - 1}]"
    if "tool_calls" in turns[-1].extra:
        raise BadParameter(f"{name}: what its tools gave must follow a message that uses tools", param=name)
    begun = turns[-1].content
    if not begun:
        raise BadParameter(f"{name}: a thought alone cannot be continued", param=name)
    if begun != begun.rstrip():
        raise BadParameter(f"{name}: the beginning of an answer must not end in white space", param=name)
    return True


class _Turns:
    def __init__(self) -> None:
        self.made: list[ChatMessage] = []
        self._called: dict[str, str] = {}
        """The tool of each call so far, by the call's id."""
        self.marks: list[Marked] = []

    def add(self, index: int, message: Message) -> None:
        if isinstance(message.content, str):
            if message.content:
                self._say(message.role, message.content)
            return
        for place, block in enumerate(message.content):
            where = f"messages[{index}].content[{place}]"
            if isinstance(block, TextBlock):
                if block.text or message.role == "user":
                    self._say(message.role, block.text)
            elif isinstance(block, ToolResultBlock):
                self._require(message.role, "user", where)
                self._result(block, where)
            else:
                self._require(message.role, "assistant", where)
                if isinstance(block, ToolUseBlock):
                    self._call(block)
                elif isinstance(block, ThinkingBlock) and block.thinking:
                    self._extend("assistant", reasoning_content=block.thinking)
            self._mark(block)

    def _mark(self, block: Block) -> None:
        """What has been said so far is to stay, if the block says so, or a text within it."""
        if isinstance(block, ThinkingBlock | RedactedThinkingBlock):
            return
        within = block.content if isinstance(block, ToolResultBlock) else None
        texts = () if within is None or isinstance(within, str) else within
        marks = [part.cache_control for part in (*texts, block) if part.cache_control is not None]
        self.marks += [(mark, self._here()) for mark in marks]

    def _here(self) -> Mark:
        if not self.made:
            return Mark()
        turn = self.made[-1]
        return Mark(
            num_messages=len(self.made) - 1,
            num_characters=len(turn.content),
            num_thought_characters=len(turn.extra.get("reasoning_content", "")),
            num_calls=len(turn.extra.get("tool_calls", ())),
        )

    @staticmethod
    def _require(role: str, expected: str, where: str) -> None:
        if role != expected:
            raise BadParameter(f"{where}: such a block belongs to the {expected}'s messages", param=where)

    def _say(self, role: str, text: str) -> None:
        self._extend(role, text)

    def _call(self, block: ToolUseBlock) -> None:
        self._called[block.id] = block.name
        function = {"name": block.name, "arguments": block.input}
        self._extend("assistant", tool_calls=[{"id": block.id, "type": "function", "function": function}])

    def _result(self, block: ToolResultBlock, where: str) -> None:
        name = self._called.get(block.tool_use_id)
        if name is None:
            raise BadParameter(
                f"{where}.tool_use_id: no message before uses a tool as {block.tool_use_id!r}",
                param=f"{where}.tool_use_id",
            )
        content = system_text(block.content or "")
        if block.is_error:
            content = f"Error: {content}"  # templates know no other way to say so
        self.made.append(
            ChatMessage(role="tool", content=content, extra={"tool_call_id": block.tool_use_id, "name": name})
        )

    def _extend(self, role: str, text: str = "", **extra: Any) -> None:
        """Of the turn that is being made, if it is the same speaker's, else of a new one."""
        if not self.made or self.made[-1].role != role:
            self.made.append(ChatMessage(role=role, content="", extra={}))
        turn = self.made[-1]
        content = "\n".join(_filled((turn.content, text)))
        merged = turn.extra | {name: turn.extra[name] + more if name in turn.extra else more
                               for name, more in extra.items()}  # fmt: skip
        self.made[-1] = dataclasses.replace(turn, content=content, extra=merged)


def _filled(texts: Iterable[str]) -> list[str]:
    return [text for text in texts if text]
