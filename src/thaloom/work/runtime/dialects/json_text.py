"""JSON on a tape: read over without being parsed, so that a call's arguments can be told while they are written."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from thaloom.work.runtime.dialects.tape import Reading, Tape

_CLOSING = {"{": "}", "[": "]"}
_PLAIN = re.compile(r"[ \t\r\n0-9A-Za-z+\-.,:]*")
"""What may stand in JSON outside of strings, but for the brackets."""
_QUOTED = re.compile(r'[^"\\]*')
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
_SCALAR = re.compile(r"[0-9A-Za-z+\-.]*")


def string(tape: Tape) -> Reading[str | None]:
    """The string that comes next, decoded; None if there is none, or only the beginning of one."""
    start = tape.at
    if (yield from tape.peek()) != '"' or not (yield from container(tape)):
        return None
    try:
        value = json.loads(tape.between(start, tape.at), strict=False)
    except ValueError:
        return None
    return value if isinstance(value, str) else None


def value(tape: Tape) -> Reading[str | None]:
    """Any value that comes next, as it is written; None if there is none, or only the beginning of one."""
    start = tape.at
    if (yield from tape.peek()) in ('"', "{", "["):
        return tape.between(start, tape.at) if (yield from container(tape)) else None
    return (yield from tape.over(_SCALAR)) or None


def written(value: Any) -> str:
    """A parsed value as JSON again. Half characters, which JSON can name and text cannot hold, stay named."""
    text = json.dumps(value, ensure_ascii=False)
    return json.dumps(value) if _HALF_CHARACTER.search(text) else text


def container(tape: Tape, give: Callable[[str], None] | None = None) -> Reading[bool]:
    """Read over the object, list or string that comes next; whether it came to its end. It is told to `give`, as it is
    written, as it comes. Only the brackets and quotes are looked at: what they hold is the model's own business."""
    reader = _Brackets()
    while True:
        text = tape.ahead()
        length, state = reader.read(text)
        tape.at += length
        if give is not None:
            give(text[:length])
            tape.settle()
        if state is not None:
            return state
        if tape.ended:
            return False
        yield


class _Brackets:
    """Where a value ends, character by character."""

    def __init__(self) -> None:
        self._closers: list[str] = []
        self._quoted = False
        self._escaped = False

    def read(self, text: str) -> tuple[int, bool | None]:
        """How much of `text` belongs to the value, and whether it is whole (True), spoilt (False), or goes on."""
        at = 0
        while at < len(text):
            if self._escaped:
                self._escaped = False
                at += 1
                continue
            match = (_QUOTED if self._quoted else _PLAIN).match(text, at)
            at = match.end() if match is not None and (self._closers or self._quoted) else at
            if at == len(text):
                break
            if not self._take(text[at]):
                return at, False
            at += 1
            if not self._closers and not self._quoted:
                return at, True
        return at, None

    def _take(self, character: str) -> bool:
        if self._quoted:
            self._escaped = character == "\\"
            self._quoted = self._escaped
        elif character == '"':
            self._quoted = True
        elif character in _CLOSING:
            self._closers.append(_CLOSING[character])
        else:
            return bool(self._closers) and self._closers.pop() == character
        return True
