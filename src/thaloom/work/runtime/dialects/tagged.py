"""Calls written as tags, each argument in one of its own: Qwen3-Coder, GLM 4.5, MiniMax M2.

What stands in a tag is not JSON: it is text where the function's schema says that the argument is a string, else JSON.
An argument is told when its tag is closed.
Source: Qwen/Qwen3-Coder-480B-A35B-Instruct, zai-org/GLM-4.5 and MiniMaxAI/MiniMax-M2, chat templates.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import starmap
from typing import Any

from thaloom.base.errors import BadParameter
from thaloom.base.plugins import Manifest, Plugin
from thaloom.work.runtime.dialects import CallGrammar, Dialect, json_text
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
        self.marks = self.begins

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
        begun = False
        while True:
            pair = yield from self._argument(tape)
            if pair is None:
                break
            key, value = pair
            told.arguments(f"{', ' if begun else '{'}{json.dumps(key)}: {_as_json(value, _schema(tool, key))}")
            begun = True
            tape.settle()
        tape.at = tape.settled
        if not begun:
            told.arguments("{")
        told.arguments("}")
        for closing in self._tags.end.split("\n"):
            yield from tape.blanks()
            if (yield from tape.literal(closing)):
                tape.settle()
        tape.at = tape.settled
        told.end_call()

    def _argument(self, tape: Tape) -> Reading[tuple[str, str] | None]:
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
        start = tape.at
        closing = self._tags.value_end.strip()
        if (yield from tape.until((closing,))) is None:
            return None
        value = tape.between(start, tape.at)
        yield from tape.literal(closing)
        return key, value.removeprefix("\n").removesuffix("\n") if self._tags.value_end[0] == "\n" else value

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


def _as_json(text: str, schema: Any) -> str:
    if _is_text(schema):
        return json.dumps(text, ensure_ascii=False)
    try:
        return json_text.written(json.loads(text, parse_constant=_refuse))
    except (ValueError, RecursionError):
        return json.dumps(_PYTHON.get(text.strip(), text), ensure_ascii=False)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _plugin(name: str, tags: Tags, summary: str, provides: tuple[str, ...]) -> Plugin[Dialect]:
    manifest = Manifest(kind="dialect", name=name, version="1", summary=summary, provides=provides)
    return Plugin(manifest=manifest, factory=lambda: TaggedCalls(name, tags))


QWEN3_CODER = _plugin(
    "qwen3-coder",
    Tags(
        begin="<tool_call>\n",
        name=("<function=", ">\n"),
        key=("<parameter=", ">\n"),
        value_end="\n</parameter>\n",
        end="</function>\n</tool_call>",
        bare_begin="<function=",
    ),
    "Qwen3-Coder: <function=name><parameter=key>value</parameter></function>",
    ("<tool_call>", "<function=", "<parameter="),
)
GLM = _plugin(
    "glm",
    Tags(
        begin="<tool_call>",
        name=("", "\n"),
        key=("<arg_key>", "</arg_key>\n<arg_value>"),
        value_end="</arg_value>\n",
        end="</tool_call>",
    ),
    "GLM 4.5 and 4.6: <arg_key> and <arg_value> in turn",
    ("<tool_call>", "<arg_key>"),
)
SEED = _plugin(
    "seed-oss",
    Tags(
        begin="<seed:tool_call>\n",
        name=("<function=", ">\n"),
        key=("<parameter=", ">"),
        value_end="</parameter>\n",
        end="</function>\n</seed:tool_call>",
    ),
    "Seed-OSS: as Qwen3-Coder, in <seed:tool_call>",
    ("<seed:tool_call>", "<function=", "<parameter="),
)
MINIMAX = _plugin(
    "minimax",
    Tags(
        begin="<minimax:tool_call>\n",
        name=('<invoke name="', '">\n'),
        key=('<parameter name="', '">'),
        value_end="</parameter>\n",
        end="</invoke>\n</minimax:tool_call>",
    ),
    "MiniMax M2: <invoke name=...><parameter name=...>",
    ("<minimax:tool_call>", "<invoke name="),
)
