"""Calls as Python writes them, `[get_weather(city="Paris"), now()]`: Llama 3.2, LFM2, OLMo 3.

A call is told when it is whole: until then it may turn out to be a list of something else.
Source: meta-llama/llama-models, models/llama3_2/text_prompt_format.md; templates of LiquidAI/LFM2-1.2B and OLMo 3.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from thaloom.base.plugins import Manifest, Plugin
from thaloom.work.runtime.dialects import CallGrammar, Dialect, json_text
from thaloom.work.runtime.dialects.blocks import Blocks
from thaloom.work.runtime.dialects.lark import Lark, quoted
from thaloom.work.runtime.dialects.literals import NotLiteral, literal
from thaloom.work.runtime.dialects.tape import Reading, Tape
from thaloom.work.runtime.dialects.told import Told
from thaloom.work.runtime.types import Tool

_NAME = re.compile(r"[A-Za-z0-9_.\-]*")
_KEY = re.compile(r"[A-Za-z0-9_]*")


class Pythonic(Blocks):
    def __init__(self, name: str, *, begin: str = "", end: str = "", lines: bool = False) -> None:
        """`begin` and `end`: marks around the calls; without them calls are at the start of the answer. `lines`: one
        on each line, in no list."""
        self.name = name
        self.begins = (begin,) if begin else ()
        self.bare = not begin
        self.marks = (begin, end) if begin else ()
        self._end = end
        self._lines = lines

    def block(self, tape: Tape, told: Told) -> Reading[bool]:
        yield from tape.blanks()
        listed = yield from tape.literal("[")
        if not listed and not self._lines:
            return False
        found = False
        while (call := (yield from self._call(tape, told))) is not None:
            found = True
            told.whole_call(*call)
            yield from tape.blanks()
            yield from tape.literal("," if listed else "\n")
        tape.at = tape.settled if found else tape.at
        for mark in ("]" * listed, self._end):
            yield from tape.closing(mark) if mark else ()
        if found:
            tape.settle()
        return found

    def _call(self, tape: Tape, told: Told) -> Reading[tuple[str, str] | None]:
        """Name and arguments of the call that comes next, None if none does."""
        yield from tape.blanks()
        name = yield from tape.over(_NAME)
        if name not in told.tools or not (yield from tape.literal("(")):
            return None
        entries: list[str] = []
        try:
            while True:
                yield from tape.blanks()
                if (yield from tape.literal(")")):
                    return name, "{" + ", ".join(entries) + "}"
                key = yield from tape.over(_KEY)
                yield from tape.blanks()
                if not key or not (yield from tape.literal("=")):
                    return None
                yield from tape.blanks()
                value = yield from literal(tape)
                entries.append(f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}")
                yield from tape.blanks()
                if not (yield from tape.literal(",")) and (yield from tape.peek()) != ")":
                    return None
        except NotLiteral:
            return None

    def write(self, calls: Sequence[tuple[str, Any]]) -> str:
        written = [
            f"{name}({', '.join(f'{key}={_literal(value)}' for key, value in arguments.items())})"
            for name, arguments in calls
        ]
        begin, end = (self.begins[0], self._end) if self.begins else ("", "")
        return f"{begin}\n{chr(10).join(written)}\n{end}" if self._lines else f"{begin}[{', '.join(written)}]{end}"

    def grammar(self, lark: Lark, tools: Sequence[Tool], *, parallel: bool) -> CallGrammar:
        calls = [
            lark.rule(f"call_{index}", f"{quoted(tool.name + '(')} {self._arguments(lark, tool, index)} {quoted(')')}")
            for index, tool in enumerate(tools)
        ]
        call = lark.rule("call", " | ".join(calls))
        more = f" ({quoted(chr(10) if self._lines else ', ')} {call})*" if parallel else ""
        opening, closing = ("\n", "\n") if self._lines else ("[", "]")
        return CallGrammar(
            begin=self.begins[0] if self.begins else "",
            block=f"{lark.literal(opening)} {call}{more} {lark.literal(closing + self._end)}",
            separator=None,
            bare_start="[" if self.bare else "",
        )

    def _arguments(self, lark: Lark, tool: Tool, index: int) -> str:
        """In the order of the schema, optional ones only behind all that come before them or left out."""
        schema = tool.parameters
        properties = schema.get("properties")
        if not isinstance(properties, dict) or not properties:
            return ""
        shared = {word: schema[word] for word in ("$defs", "definitions") if word in schema}
        rules = []
        for number, (key, wanted) in enumerate(properties.items()):
            value = lark.json(shared | wanted if isinstance(wanted, dict) else wanted)
            rules.append((key, lark.rule(f"argument_{index}_{number}", f"{quoted(key + '=')} {value}")))
        required = schema.get("required") or ()
        return _with_commas([(rule, key in required) for key, rule in rules], lark, index)


def _literal(value: Any) -> str:
    """As Python writes it, but strings in double quotes, as models do."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_literal(key)}: {_literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return json_text.written(value) if isinstance(value, str) else repr(value)


def _with_commas(parts: Sequence[tuple[str, bool]], lark: Lark, index: int) -> str:
    """Any choice of these that has the required ones, in order, with commas between: built from the end."""
    comma = quoted(", ")
    first = behind = lark.rule(f"behind_{index}", quoted(""))
    for number, (rule, required) in reversed(list(enumerate(parts))):
        optional = "" if required else "?"
        first = lark.rule(f"first_{index}_{number}", f"{rule} {behind}" + ("" if required else f" | {first}"))
        behind = lark.rule(f"behind_{index}_{number}", f"({comma} {rule}){optional} {behind}")
    return first


def _plugin(dialect: Pythonic, summary: str, provides: tuple[str, ...]) -> Plugin[Dialect]:
    manifest = Manifest(kind="dialect", name=dialect.name, version="1", summary=summary, provides=provides)
    return Plugin(manifest=manifest, factory=lambda: dialect)


PYTHONIC = _plugin(Pythonic("pythonic"), "Llama 3.2 as its guide has it: the answer is a list", ("[func_name1(",))
LFM2 = _plugin(Pythonic("lfm2", begin="<|tool_call_start|>", end="<|tool_call_end|>"), "LFM2", ("<|tool_call_start|>",))
OLMO3 = _plugin(
    Pythonic("olmo3", begin="<function_calls>", end="</function_calls>", lines=True),
    "OLMo 3: one call on each line",
    ("<function_calls>", "<functions>"),
)
