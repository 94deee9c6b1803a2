"""Mistral's: `[TOOL_CALLS] [{"name": ..., "arguments": ...}]`, and since tokenizer version 11
`[TOOL_CALLS]name[ARGS]{...}`, once for each call, in between with `[CALL_ID]`.

Source: mistralai/mistral-common, tokens/tokenizers/instruct.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from thaloom.base.plugins import Manifest, Plugin
from thaloom.work.runtime.dialects import CallGrammar, Dialect, json_text
from thaloom.work.runtime.dialects.blocks import ObjectBlocks, ObjectForm
from thaloom.work.runtime.dialects.lark import Lark
from thaloom.work.runtime.dialects.tape import Reading, Tape
from thaloom.work.runtime.dialects.told import Told
from thaloom.work.runtime.types import Tool

_CALLS, _ARGS, _ID = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"
_NAME = re.compile(r"[^\s\[\]{}()\"]*")
_CALL_ID = re.compile(r"[A-Za-z0-9_-]*")


class Mistral(ObjectBlocks):
    def __init__(self, name: str, *, by_name: bool) -> None:
        super().__init__(ObjectForm(name=name, begins=(_CALLS,), listed=True, before=" "))
        self.marks = (_CALLS, _ARGS, _ID)
        self._by_name = by_name

    def block(self, tape: Tape, told: Told) -> Reading[bool]:
        yield from tape.blanks()
        if (yield from tape.peek()) in ("[", "{"):
            return (yield from super().block(tape, told))
        name = yield from tape.over(_NAME)
        if name not in told.tools:
            return False
        if (yield from tape.literal(_ID)):
            yield from tape.over(_CALL_ID)
        yield from tape.literal(_ARGS)
        yield from tape.blanks()
        if (yield from tape.peek()) != "{":
            return False
        told.begin_call(name)
        if (yield from json_text.container(tape, told.arguments)):
            told.end_call()
        return True

    def write(self, calls: Sequence[tuple[str, Any]]) -> str:
        if not self._by_name:
            return super().write(calls)
        return "".join(f"{_CALLS}{name}{_ARGS}{json.dumps(one, ensure_ascii=False)}" for name, one in calls)

    def grammar(self, lark: Lark, tools: Sequence[Tool], *, parallel: bool) -> CallGrammar:
        if not self._by_name:
            return super().grammar(lark, tools, parallel=parallel)
        calls = [
            lark.rule(f"call_{index}", f"{lark.literal(tool.name + _ARGS)} {lark.arguments(tool.parameters)}")
            for index, tool in enumerate(tools)
        ]
        return CallGrammar(
            begin=_CALLS,
            block=lark.rule("call", " | ".join(calls)),
            separator=lark.literal(_CALLS) if parallel else None,
        )


MISTRAL: Plugin[Dialect] = Plugin(
    manifest=Manifest(
        kind="dialect", name="mistral", version="1", summary="a JSON list behind [TOOL_CALLS]", provides=(_CALLS,)
    ),
    factory=lambda: Mistral("mistral", by_name=False),
)
MISTRAL_NAMED: Plugin[Dialect] = Plugin(
    manifest=Manifest(
        kind="dialect",
        name="mistral-named",
        version="1",
        summary="[TOOL_CALLS]name[ARGS]{...}, as Mistral's models of 2025 on",
        provides=(_CALLS, _ARGS),
    ),
    factory=lambda: Mistral("mistral-named", by_name=True),
)
