"""How results reach the person or the program that asked: text, or exactly one JSON document on standard output."""

from __future__ import annotations

import os
import re
import sys
import time
import unicodedata
from collections.abc import Sequence
from typing import Any, Literal, TextIO

from thaloom.base.units import format_bytes, format_duration

Colour = Literal["bold", "dim", "red", "green", "yellow"]
_CODES: dict[Colour, str] = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}
_PARTS = r"[\u2e80-\u9fff\uff00-\uffef]\s*|[^\s\u2e80-\u9fff\uff00-\uffef]+\s*"
"""A Chinese character (or its punctuation) alone, or a word; with the space that follows."""
_NEVER_FIRST = "，。；：、！？）」』”"
ABSENT = "-"
"""What a table shows for a figure nobody has: never 0."""


class Output:
    """Where a verb puts what it has to say. With `as_json` only `document` prints; the rest keeps silent."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json

    def document(self, value: Any) -> None:
        """One JSON document, for programs."""
        if self.as_json:
            import json  # here: `thaloom version` must not pay for it

            print(json.dumps(value, indent=2, ensure_ascii=False), flush=True)

    def line(self, words: str = "") -> None:
        """A result, for people: standard output."""
        if not self.as_json:
            print(words, flush=True)

    def note(self, words: str) -> None:
        """What happens meanwhile, for people: standard error."""
        if not self.as_json:
            print(words, file=sys.stderr, flush=True)

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]], *, right: frozenset[int] = frozenset()) -> None:
        """Aligned columns; those in `right` end flush."""
        if not self.as_json:
            for line in align([[paint(word, "bold") for word in head], *rows], right=right):
                print(line)
            sys.stdout.flush()

    def facts(self, pairs: Sequence[tuple[str, str]]) -> None:
        """`name: value` lines, values below one another."""
        if not self.as_json:
            for line in align([[paint(name, "bold"), value] for name, value in pairs]):
                print(line)
            sys.stdout.flush()


def is_terminal(stream: TextIO) -> bool:
    """Whether a person looks at it and it can move its cursor."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def paint(words: str, colour: Colour, stream: TextIO | None = None) -> str:
    """In colour on a terminal, unless NO_COLOR is set (no-color.org)."""
    if os.environ.get("NO_COLOR") or not is_terminal(stream or sys.stdout):
        return words
    return f"\x1b[{_CODES[colour]}m{words}\x1b[0m"


def align(rows: Sequence[Sequence[str]], *, right: frozenset[int] = frozenset()) -> list[str]:
    """Rows as lines with two spaces between columns. Rows are of equal length."""
    widths = [max(width(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = []
        for index, (cell, wanted) in enumerate(zip(row, widths, strict=True)):
            gap = " " * (wanted - width(cell))
            cells.append(gap + cell if index in right else cell + gap)
        lines.append("  ".join(cells).rstrip())
    return lines


def width(words: str) -> int:
    """Columns a terminal needs: Chinese characters take two, marks that sit on others and colours none.

    Source: Unicode Standard Annex 11 (East Asian Width), classes W and F.
    """
    columns = 0
    escape = False
    for character in words:
        if escape or character == "\x1b":
            escape = not (escape and character.isalpha())
        elif not unicodedata.combining(character):
            columns += 2 if unicodedata.east_asian_width(character) in "WF" else 1
    return columns


def fold(words: str, columns: int) -> list[str]:
    """Lines of at most so many columns: broken at spaces, and between Chinese characters, but never before a mark
    that closes something: it takes the character before it along to the next line. Only a word without a place to
    break it may be longer."""
    lines: list[list[str]] = [[]]
    for part in re.findall(_PARTS, words):
        if not lines[-1] or width("".join(lines[-1]) + part.rstrip()) <= columns:
            lines[-1].append(part)
            continue
        moved = [part]
        while moved[0][0] in _NEVER_FIRST and len(lines[-1]) > 1:
            moved.insert(0, lines[-1].pop())
        lines.append(moved)
    return ["".join(line).strip() for line in lines]


def harmless(words: str) -> str:
    """Without control characters other than line end and tab: what a model or a log says must not steer a terminal."""
    return "".join(c for c in words if c in "\n\t" or unicodedata.category(c) != "Cc")


def size(num_bytes: int | None) -> str:
    return ABSENT if num_bytes is None else format_bytes(num_bytes)


def count(number: int | None) -> str:
    return ABSENT if number is None else f"{number:,}"


def amount(number: int) -> str:
    """A large number as people say it: 812, 4.2K, 7.6B."""
    for limit, unit in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if number >= limit:
            return f"{number / limit:.1f}{unit}"
    return str(number)


def age(moment: float) -> str:
    """How long ago, seconds since the epoch."""
    return format_duration(max(1.0, time.time() - moment))


def date(moment: float) -> str:
    """Local date and time, seconds since the epoch."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))
