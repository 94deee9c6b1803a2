"""Calls written as tags, each argument in one of its own.

What stands in a tag is text where the function's schema says that the argument is a string, and told as it comes; else
it is JSON, and told when its tag is closed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import starmap
from typing import Any

from thaloom.base.errors import BadParameter
from thaloom.work.runtime.dialects import CallGrammar, json_text
from thaloom.work.runtime.dialects.blocks import Blocks
from thaloom.work.runtime.dialects.lark import Lark, pattern
from thaloom.work.runtime.dialects.tape import Reading, Tape
from thaloom.work.runtime.dialects.told import Told
from thaloom.work.runtime.types import Tool

MOST_NAME_CHARACTERS = 256
_PYTHON = {"True": True, "False": False, "None": None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tags:
    """How a family writes `name` and its arguments; `\\n` where its templates break the line."""

    begin: str
    name: tuple[str, str]
    """Before and behind the function's name."""
    key: tuple[str, str]
    """Before and behind the name of an argument ..."""
    value_end: str
    """... and behind its value."""
    end: str
    bare_begin: str | None = None
    """With this a block may begin too: models forget the outer tag at times."""


class TaggedCalls(Blocks):
    def __init__(self, name: str, tags: Tags) -> None:
        self.name = name
        self._tags = tags
        self._begin = tags.begin.strip()
        self.begins = (self._begin,) if tags.bare_begin is None else (self._begin, tags.bare_begin)
        parts = (*self.begins, *tags.name, *tags.key, tags.value_end, tags.end)
        self.marks = tuple(dict.fromkeys(mark.strip() for part in parts for mark in part.split("\n") if mark.strip()))

    def block(self, tape: Tape, told: Told) -> Reading[bool]:
        before, behind = (mark.strip() for mark in self._tags.name)
        yield from tape.blanks()
        bare = self._tags.bare_begin
        in_head = bare is not None and tape.between(tape.at - len(bare), tape.at) == bare
        if before and not in_head and not (yield from tape.literal(before)):
            return False
        start = tape.at
        stops = (behind,) if behind else ("\n", self._tags.key[0].strip(), self._tags.end.strip())
        if (yield from tape.until(stops, MOST_NAME_CHARACTERS)) is None:
            return False
        name = tape.between(start, tape.at).strip()
        if behind:
            yield from tape.literal(behind)
        if name not in told.tools:
            return False
        told.begin_call(name)
        tape.settle()
        yield from self._arguments(tape, told, told.tools[name])
        return True

    def _arguments(self, tape: Tape, told: Told, tool: Tool) -> Reading[None]:
        """Tell them one by one, and whether the call came to its end."""
        begun = False
        while (key := (yield from self._key(tape))) is not None:
            told.arguments(f"{', ' if begun else '{'}{json.dumps(key)}: ")
            tape.settle()
            is_text = _is_text(_schema(tool, key))
            if not (yield from self._text(tape, told) if is_text else self._other(tape, told)):
                return
            begun = True
        tape.at = tape.settled
        # Cut off where it could go on with another argument as well as close: then it is not known to be whole.
        rest = tape.ahead().strip()
        may_go_on = tape.ended and bool(rest) and self._tags.key[0].strip().startswith(rest)
        closed = False
        for mark in self._tags.end.split("\n"):
            closed = (yield from tape.closing(mark)) or closed
        if closed and not may_go_on:
            told.arguments("}" if begun else "{}")
            told.end_call()

    def _key(self, tape: Tape) -> Reading[str | None]:
        """The name of the argument that comes next, None if none does."""
        before, behind = (mark.strip() for mark in self._tags.key)
        yield from tape.blanks()
        if not (yield from tape.literal(before)):
            return None
        start = tape.at
        marks = behind.split("\n")
        if (yield from tape.until(marks[:1], MOST_NAME_CHARACTERS)) is None:
            return None
        key = tape.between(start, tape.at).strip()
        for mark in marks:
            yield from tape.blanks()
            if not (yield from tape.literal(mark)):
                return None
        return key

    def _text(self, tape: Tape, told: Told) -> Reading[bool]:
        """Tell an argument that is text, as it comes; whether it came to its end. Line breaks belong to the tags."""
        told.arguments('"')
        closing = self._tags.value_end.strip()
        marks: tuple[str, ...] = (closing,)
        if self._tags.value_end.startswith("\n"):
            yield from tape.literal("\n")
            tape.settle()
            marks = ("\n" + closing, closing)
        while True:
            found = tape.first(marks, tape.at)
            tape.at = tape.end - tape.num_doubtful(marks, tape.at) if found is None else found[0]
            told.arguments(json_text.written(tape.settle())[1:-1])
            if found is not None:
                tape.at += len(found[1])
                tape.settle()
                told.arguments('"')
                return True
            if tape.ended:
                return False
            yield

    def _other(self, tape: Tape, told: Told) -> Reading[bool]:
        """Tell an argument that is not text, when it is whole; of one that was cut off what there is."""
        start = tape.at
        closing = self._tags.value_end.strip()
        found = yield from tape.until((closing,))
        value = tape.between(start, tape.at).strip()
        told.arguments(value if found is None else _as_json(value))
        if found is not None:
            yield from tape.literal(closing)
        tape.settle()
        return found is not None

    def write(self, calls: Sequence[tuple[str, Any]]) -> str:
        tags = self._tags
        return "\n".join(
            f"{tags.begin}{name.join(tags.name)}{''.join(starmap(self._written, arguments.items()))}{tags.end}"
            for name, arguments in calls
        )

    def _written(self, key: str, value: Any) -> str:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        return f"{key.join(self._tags.key)}{text}{self._tags.value_end}"

    def grammar(self, lark: Lark, tools: Sequence[Tool], *, parallel: bool) -> CallGrammar:
        tags = self._tags
        calls = [
            f"{lark.literal(tags.name[0] + tool.name + tags.name[1])} {self._all_arguments(lark, tool, index)}".strip()
            for index, tool in enumerate(tools)
        ]
        rules = [lark.rule(f"call_{index}", call) for index, call in enumerate(calls)]
        opening = tags.begin.removeprefix(self._begin)
        block = f"{lark.literal(opening)} ({' | '.join(rules)}) {lark.literal(tags.end)}"
        return CallGrammar(
            begin=self._begin, block=block, separator=lark.literal("\n" + self._begin) if parallel else None
        )

    def _all_arguments(self, lark: Lark, tool: Tool, index: int) -> str:
        """In the order of the schema; optional ones may be left out."""
        schema = tool.parameters
        properties = schema.get("properties")
        if not isinstance(properties, dict):
            return ""
        required = schema.get("required") or ()
        parts: list[str] = []
        for number, (key, wanted) in enumerate(properties.items()):
            name = f"argument_{index}_{number}"
            head = lark.literal(self._tags.key[0] + key + self._tags.key[1])
            rule = lark.rule(name, f"{head} {self._value(lark, name, wanted, schema, key)}")
            parts.append(rule if key in required else f"{rule}?")
        return " ".join(parts)

    def _value(self, lark: Lark, name: str, wanted: Any, root: Mapping[str, Any], key: str) -> str:
        end = self._tags.value_end
        if not _is_text(wanted):
            shared = {word: root[word] for word in ("$defs", "definitions") if word in root}
            return f"{lark.json(shared | wanted if isinstance(wanted, dict) else wanted)} {lark.literal(end)}"
        words = wanted.get("enum", [wanted["const"]] if "const" in wanted else None)
        if words is not None:
            return f"({' | '.join(lark.literal(str(word)) for word in words)}) {lark.literal(end)}"
        if unheld := sorted({"pattern", "format", "minLength", "maxLength"} & wanted.keys()):
            raise BadParameter(
                f"this model writes text arguments as they are: {key!r} cannot be held to {', '.join(unheld)}",
                param="tools",
            )
        text = lark.rule(f"TEXT_{name.upper()}", rf"/(.|\n)*{pattern(end)}/")
        return lark.rule(f"text_{name}[lazy]", text)


def _schema(tool: Tool, key: str) -> Any:
    properties = tool.parameters.get("properties")
    return properties.get(key) if isinstance(properties, dict) else None


def _is_text(schema: Any) -> bool:
    return isinstance(schema, dict) and schema.get("type") == "string"


def _as_json(text: str) -> str:
    try:
        return json_text.written(json.loads(text, parse_constant=_refuse))
    except (ValueError, RecursionError):
        return json.dumps(_PYTHON.get(text.strip(), text), ensure_ascii=False)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")
