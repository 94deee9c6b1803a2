"""A call written as a JSON object: `{"name": ..., "arguments": {...}}`, or with `parameters`."""

from __future__ import annotations

import json
import re
from typing import Literal

from thaloom.work.runtime.dialects import json_text
from thaloom.work.runtime.dialects.tape import Reading, Tape
from thaloom.work.runtime.dialects.told import Told

Outcome = Literal["none", "whole", "spoilt"]
"""`none`: not a call, and nothing was told. `spoilt`: it was begun and told, and did not come to its end."""
_ARGUMENTS = ("arguments", "parameters")
_OTHERS = frozenset({"type", "id", "call_id", "index"})
"""What else models write into a call. An object with any other key before its arguments is an answer, not a call."""
_BEGINS_OBJECT = re.compile(r'\{\s*["}]')


def read_object(tape: Tape, told: Told) -> Reading[Outcome]:
    """The call that comes next, to a function that is offered. Its arguments are told as they come, if its name came
    before them. Where it is none, `at` is of no use."""
    call = _Call(tape, told)
    if not (yield from tape.literal("{")):
        return "none"
    while True:
        yield from tape.blanks()
        if not (yield from call.entry()):
            return call.broken()
        yield from tape.blanks()
        if (yield from tape.literal("}")):
            return call.finish()
        if not (yield from tape.literal(",")):
            return call.broken()


class _Call:
    def __init__(self, tape: Tape, told: Told) -> None:
        self._tape = tape
        self._told = told
        self._name: str | None = None
        self._arguments: str | None = None
        self._begun = False
        self._complete = False

    def entry(self) -> Reading[bool]:
        """One key and its value. False: this is not how calls look."""
        key = yield from json_text.string(self._tape)
        yield from self._tape.blanks()
        if key is None or not (self._begun or key == "name" or key in _ARGUMENTS or key in _OTHERS):
            return False
        if not (yield from self._tape.literal(":")):
            return False
        yield from self._tape.blanks()
        if key == "name" and self._name is None:
            self._name = yield from json_text.string(self._tape)
            return self._name is not None and self._name in self._told.tools
        if key in _ARGUMENTS and self._name is not None and not self._begun and (yield from self._begins_object()):
            self._begun = True
            self._told.begin_call(self._name)
            self._complete = yield from json_text.container(self._tape, self._told.arguments)
            return self._complete
        value = yield from json_text.value(self._tape)
        if key in _ARGUMENTS and self._arguments is None:
            self._arguments = value
        return value is not None

    def _begins_object(self) -> Reading[bool]:
        start = self._tape.at
        yield from self._tape.literal("{")
        yield from self._tape.blanks()
        yield from self._tape.peek()
        written = self._tape.between(start, self._tape.at + 1)
        self._tape.at = start
        return _BEGINS_OBJECT.fullmatch(written) is not None

    def finish(self) -> Outcome:
        if self._begun:
            return self.broken()
        arguments = _as_object(self._arguments)
        if self._name is None or arguments is None:
            return "none"
        self._told.whole_call(self._name, arguments)
        return "whole"

    def broken(self) -> Outcome:
        """Models forget the last bracket at times: what counts is that the arguments are there."""
        if self._complete:
            self._told.end_call()
            return "whole"
        return "spoilt" if self._begun else "none"


def _as_object(arguments: str | None) -> str | None:
    """Arguments that were left out, or written as a string that holds the object, as an object."""
    if arguments in (None, "null", "None"):
        return "{}"
    assert arguments is not None
    try:
        parsed = json.loads(arguments, strict=False)
        if isinstance(parsed, str):
            parsed = json.loads(parsed, strict=False)
            arguments = json_text.written(parsed)
    except (ValueError, RecursionError):
        return None
    return arguments if isinstance(parsed, dict) else None
