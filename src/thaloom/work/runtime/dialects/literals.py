"""Python's literals on a tape, as values: what models that call tools in Python write for arguments."""

from __future__ import annotations

import json
import re
from typing import Any

from thaloom.work.runtime.dialects.tape import Reading, Tape

MOST_NESTED = 64
_WORD = re.compile(r"[A-Za-z_]*")
_NUMBER = re.compile(r"[0-9A-Za-z+\-._]*")
_PLAIN = re.compile(r"[^\"'\\\n]*")
_WORDS = {"True": True, "False": False, "None": None, "true": True, "false": False, "null": None}
_ESCAPES = {
    "n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "a": "\a", "v": "\v", "0": "\0", "/": "/",
    "\\": "\\", "'": "'", '"': '"', "\n": "",
}  # fmt: skip
_CODES = {"x": 2, "u": 4, "U": 8}


class NotLiteral(ValueError):
    """What comes next is no literal, or only the beginning of one."""


def literal(tape: Tape, depth: int = 0) -> Reading[Any]:
    """The value that comes next. Raises NotLiteral."""
    if depth > MOST_NESTED:
        raise NotLiteral
    first = yield from tape.peek()
    if first in ("'", '"'):
        return (yield from _strings(tape))
    if first == "{":
        return (yield from _dict(tape, depth))
    if first in ("[", "("):
        return (yield from _items(tape, depth))
    if first.isalpha():
        word = yield from tape.over(_WORD)
        if word in _WORDS:
            return _WORDS[word]
        raise NotLiteral
    return _number((yield from tape.over(_NUMBER)))


def _number(text: str) -> int | float:
    try:
        value = json.loads(text.replace("_", "").removeprefix("+"))
    except ValueError:
        raise NotLiteral from None
    if isinstance(value, bool) or not isinstance(value, int | float) or value in (float("inf"), -float("inf")):
        raise NotLiteral
    return value


def _items(tape: Tape, depth: int) -> Reading[list[Any]]:
    closing = "]" if (yield from tape.literal("[")) else ")"
    if closing == ")":
        yield from tape.literal("(")
    items: list[Any] = []
    while not (yield from _closed(tape, closing)):
        items.append((yield from literal(tape, depth + 1)))
        yield from _comma(tape, closing)
    return items


def _dict(tape: Tape, depth: int) -> Reading[dict[str, Any]]:
    yield from tape.literal("{")
    entries: dict[str, Any] = {}
    while not (yield from _closed(tape, "}")):
        key = yield from literal(tape, depth + 1)
        yield from tape.blanks()
        if not isinstance(key, str) or not (yield from tape.literal(":")):
            raise NotLiteral
        yield from tape.blanks()
        entries[key] = yield from literal(tape, depth + 1)
        yield from _comma(tape, "}")
    return entries


def _closed(tape: Tape, closing: str) -> Reading[bool]:
    yield from tape.blanks()
    return (yield from tape.literal(closing))


def _comma(tape: Tape, closing: str) -> Reading[None]:
    """Read over the comma behind an entry. Raises NotLiteral unless there is one, or the end."""
    yield from tape.blanks()
    if not (yield from tape.literal(",")) and (yield from tape.peek()) != closing:
        raise NotLiteral


def _strings(tape: Tape) -> Reading[str]:
    """One string, or several that stand side by side and are one."""
    text = ""
    while True:
        text += yield from _string(tape)
        start = tape.at
        yield from tape.blanks()
        if (yield from tape.peek()) not in ("'", '"'):
            tape.at = start
            return text


def _string(tape: Tape) -> Reading[str]:
    quote = yield from tape.peek()
    tape.at += 1
    if (yield from tape.literal(quote * 2)):
        quote *= 3
    elif (yield from tape.literal(quote)):
        return ""
    parts: list[str] = []
    while True:
        parts.append((yield from tape.over(_PLAIN)))
        if (yield from tape.literal(quote)):
            return "".join(parts)
        character = yield from tape.peek()
        if not character or (character == "\n" and len(quote) == 1):
            raise NotLiteral
        tape.at += 1
        parts.append((yield from _escape(tape)) if character == "\\" else character)


def _escape(tape: Tape) -> Reading[str]:
    character = yield from tape.peek()
    tape.at += 1
    if character in _CODES:
        digits = yield from _digits(tape, _CODES[character])
        code = int(digits, 16)
        if code > 0x10FFFF or 0xD800 <= code < 0xE000:
            raise NotLiteral
        return chr(code)
    if not character:
        raise NotLiteral
    return _ESCAPES.get(character, "\\" + character)


def _digits(tape: Tape, count: int) -> Reading[str]:
    digits = ""
    for _ in range(count):
        digit = yield from tape.peek()
        if not digit or digit not in "0123456789abcdefABCDEF":
            raise NotLiteral
        digits += digit
        tape.at += 1
    return digits
