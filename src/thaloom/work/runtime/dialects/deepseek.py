"""DeepSeek V3, R1 and V3.1, and Kimi K2: every call between marks, its name before a mark, then its arguments.

V3 and R1 write `<｜tool▁call▁begin｜>function<｜tool▁sep｜>name` and the arguments in a fence of Markdown. V3.1 writes
the name before the mark and the arguments behind it; so does Kimi K2, which adds `functions.` and a number to the name.
Source: deepseek-ai/DeepSeek-V3-0324, DeepSeek-V3.1 and moonshotai/Kimi-K2-Instruct, chat templates.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from thaloom.base.plugins import Manifest, Plugin
from thaloom.work.runtime.dialects import CallGrammar, Dialect, json_text
from thaloom.work.runtime.dialects.blocks import Blocks
from thaloom.work.runtime.dialects.lark import Lark
from thaloom.work.runtime.dialects.tape import Reading, Tape
from thaloom.work.runtime.dialects.told import Told
from thaloom.work.runtime.types import Tool

MOST_NAME_CHARACTERS = 256
_FENCE, _FENCE_END = "```json\n", "\n```"
_KIMI_NAME = re.compile(r"functions\.(.+?)(?::\d+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    section: str
    section_end: str
    call: str
    arguments: str
    call_end: str

    @property
    def all(self) -> tuple[str, ...]:
        return self.section, self.section_end, self.call, self.arguments, self.call_end


DEEPSEEK = Marks(
    section="<｜tool▁calls▁begin｜>",
    section_end="<｜tool▁calls▁end｜>",
    call="<｜tool▁call▁begin｜>",
    arguments="<｜tool▁sep｜>",
    call_end="<｜tool▁call▁end｜>",
)
KIMI = Marks(
    section="<|tool_calls_section_begin|>",
    section_end="<|tool_calls_section_end|>",
    call="<|tool_call_begin|>",
    arguments="<|tool_call_argument_begin|>",
    call_end="<|tool_call_end|>",
)


class MarkedCalls(Blocks):
    def __init__(self, name: str, marks: Marks, *, fenced: bool = False, numbered: bool = False) -> None:
        self.name = name
        self.marks = marks.all
        self.begins = (marks.section, marks.call)
        self._marks = marks
        self._fenced = fenced
        self._numbered = numbered

    def block(self, tape: Tape, told: Told) -> Reading[bool]:
        marks = self._marks
        in_call = tape.between(tape.at - len(marks.call), tape.at) == marks.call
        if not in_call:
            yield from tape.blanks()
            if not (yield from tape.literal(marks.call)):
                return False
        if not (yield from self._call(tape, told)):
            return False
        while True:
            tape.settle()
            if (yield from tape.closing(marks.section_end)):
                tape.settle()
                return True
            yield from tape.blanks()
            if not (yield from tape.literal(marks.call)) or not (yield from self._call(tape, told)):
                tape.at = tape.settled
                return True

    def _call(self, tape: Tape, told: Told) -> Reading[bool]:
        marks, start = self._marks, tape.at
        if (yield from tape.until((marks.arguments,), MOST_NAME_CHARACTERS)) is None:
            return False
        name = tape.between(start, tape.at).strip()
        yield from tape.literal(marks.arguments)
        yield from tape.blanks()
        if (yield from tape.peek()) != "{":
            start = tape.at
            if (yield from tape.until((_FENCE,), MOST_NAME_CHARACTERS)) is None:
                return False
            name = tape.between(start, tape.at).strip()
            yield from tape.literal(_FENCE)
            yield from tape.blanks()
        if (match := _KIMI_NAME.fullmatch(name)) is not None and name not in told.tools:
            name = match[1]
        if name not in told.tools or (yield from tape.peek()) != "{":
            return False
        told.begin_call(name)
        if (yield from json_text.container(tape, told.arguments)):
            told.end_call()
        for mark in (_FENCE_END.strip(), marks.call_end):
            if (yield from tape.closing(mark)):
                tape.settle()
        return True

    def write(self, calls: Sequence[tuple[str, Any]]) -> str:
        marks = self._marks
        end = (_FENCE_END if self._fenced else "") + marks.call_end
        heads = {True: f"function{marks.arguments}{{}}\n{_FENCE}", False: f"{{}}{marks.arguments}"}[self._fenced]
        written = [
            f"{marks.call}{heads.format(f'functions.{name}:{index}' if self._numbered else name)}"
            f"{json.dumps(arguments, ensure_ascii=False)}{end}"
            for index, (name, arguments) in enumerate(calls)
        ]
        return f"{marks.section}{(chr(10) if self._fenced else '').join(written)}{marks.section_end}"

    def grammar(self, lark: Lark, tools: Sequence[Tool], *, parallel: bool) -> CallGrammar:
        marks = self._marks
        calls = [
            lark.rule(f"call_{index}", f"{self._head(lark, tool.name)} {lark.arguments(tool.parameters)}")
            for index, tool in enumerate(tools)
        ]
        end = lark.literal((_FENCE_END if self._fenced else "") + marks.call_end)
        call = lark.rule("call", f"{lark.literal(marks.call)} ({' | '.join(calls)}) {end}")
        between = lark.literal("\n") if self._fenced else ""
        more = f" ({between} {call})*" if parallel else ""
        return CallGrammar(begin=marks.section, block=f"{call}{more} {lark.literal(marks.section_end)}", separator=None)

    def _head(self, lark: Lark, name: str) -> str:
        mark = self._marks.arguments
        if self._numbered:
            return f"{lark.literal(f'functions.{name}:')} /[0-9]{{1,3}}/ {lark.literal(mark)}"
        return lark.literal(f"function{mark}{name}\n{_FENCE}" if self._fenced else f"{name}{mark}")


def _plugin(dialect: MarkedCalls, summary: str, provides: tuple[str, ...]) -> Plugin[Dialect]:
    manifest = Manifest(kind="dialect", name=dialect.name, version="1", summary=summary, provides=provides)
    return Plugin(manifest=manifest, factory=lambda: dialect)


DEEPSEEK_V3 = _plugin(
    MarkedCalls("deepseek", DEEPSEEK, fenced=True),
    "DeepSeek V3 and R1: arguments in a fence of Markdown",
    (DEEPSEEK.call, "```json"),
)
DEEPSEEK_V31 = _plugin(MarkedCalls("deepseek-v3.1", DEEPSEEK), "DeepSeek V3.1: name, mark, arguments", (DEEPSEEK.call,))
KIMI_K2 = _plugin(
    MarkedCalls("kimi-k2", KIMI, numbered=True),
    "Kimi K2: name and number, mark, arguments",
    (KIMI.call,),
)
