"""What one request means to one model's way of thinking and calling: pure, from its speech and the prompt in tokens."""

from __future__ import annotations

import secrets
import string
from collections.abc import Sequence

from thaloom.base.errors import BadParameter
from thaloom.work.runtime.dialects.forcing import Calls, Speaker, constraint_of
from thaloom.work.runtime.dialects.hearing import Hearing
from thaloom.work.runtime.dialects.thinking import Begun, Thoughts, begun_by
from thaloom.work.runtime.dialects.told import NewId
from thaloom.work.runtime.frontend.answers import AnswerText
from thaloom.work.runtime.frontend.prompting import Speech
from thaloom.work.runtime.types import Constraint, GenerateRequest, Tool

_ID_CHARACTERS = string.ascii_letters + string.digits
_TAIL_TOKENS = 16
"""Enough for a mark and the line breaks behind it, spelled letter by letter."""


def new_call_id() -> str:
    return "call_" + "".join(secrets.choice(_ID_CHARACTERS) for _ in range(24))


def callable_tools(request: GenerateRequest) -> tuple[Tool, ...]:
    """What the model is told of, and may call."""
    return () if request.tool_use == "none" else request.tools


def begun(request: GenerateRequest, prompt: Sequence[int], speech: Speech) -> Begun:
    """Whether the answer begins within thoughts. Only a chat has any."""
    thinking = speech.thinking
    if thinking is None or request.messages is None:
        return "closed"
    if request.templating.continue_final_message:
        last = request.messages[-1].content
        return "open" if last.rfind(thinking.open) > last.rfind(thinking.close) else "closed"
    return begun_by(thinking, speech.tokenizer.decode(prompt[-_TAIL_TOKENS:], at_start=False, special=True))


def constraint_for(request: GenerateRequest, prompt: Sequence[int], speech: Speech) -> Constraint | None:
    """What the whole answer must be, thoughts and calls included. Raises BadParameter."""
    tools = callable_tools(request)
    _check_choice(request, tools)
    if request.constraint is None and not tools:
        return None
    calls = Calls(tools=tools, use=request.tool_use, forced=request.forced_tool, parallel=request.parallel_tool_calls)
    speaker = Speaker(
        dialect=speech.dialect,
        special=speech.tokenizer.special,
        thinking=speech.thinking if request.messages is not None else None,
        begun=begun(request, prompt, speech),
    )
    return constraint_of(calls, request.constraint, speaker)


def _check_choice(request: GenerateRequest, tools: Sequence[Tool]) -> None:
    names = [tool.name for tool in tools]
    if request.forced_tool is not None and request.forced_tool not in names:
        there_are = ", ".join(names) or "none"
        raise BadParameter(
            f"tool_choice asks for {request.forced_tool!r}, which is not among the tools (there are: {there_are})",
            param="tool_choice",
        )
    if request.tool_use == "required" and not tools:
        raise BadParameter("tool_choice asks for a call, and there are no tools", param="tool_choice")


def answer_text(
    request: GenerateRequest, prompt: Sequence[int], speech: Speech, *, new_id: NewId = new_call_id
) -> AnswerText:
    """How this request's answer is to be read."""
    tools = {tool.name: tool for tool in callable_tools(request)}
    thinking = None if request.messages is None else speech.thinking
    marks = [] if thinking is None else [thinking.open, thinking.close]
    hearing = None
    if tools or thinking is not None:
        thoughts = None
        if thinking is not None:
            state = begun(request, prompt, speech)
            thoughts = Thoughts(thinking, begun=state == "open", separate=request.separate_reasoning)
        marks += speech.dialect.marks if tools else ()
        hearing = Hearing(dialect=speech.dialect if tools else None, tools=tools, thoughts=thoughts, new_id=new_id)
    special = speech.tokenizer.special
    return AnswerText(
        speech.tokenizer,
        stop=request.stop,
        stop_tokens=frozenset(request.stop_tokens),
        at_start=request.messages is not None,
        include_stop=request.include_stop,
        special=request.show_special_tokens,
        shown=frozenset(special[mark] for mark in marks if mark in special),
        hearing=hearing,
        one_call=bool(tools) and not request.parallel_tool_calls,
        echoed=prompt if request.echo else (),
        with_logprobs=request.logprobs is not None,
    )
