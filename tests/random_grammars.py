"""Random small languages, each said in several ways: as an expression for Python's `re`, which is the judge, and as an
expression, a Lark grammar or a GBNF grammar for the model's mask."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["regex", "lark", "gbnf"]
KINDS: tuple[Kind, ...] = ("regex", "lark", "gbnf")
FIELDS: dict[Kind, str] = {"regex": "guided_regex", "lark": "guided_grammar", "gbnf": "grammar"}
"""Where a chat request has them."""
_LETTERS = ("a", "bc", "yes", "no", "x1", "-", ", ", ".", "+", "(", "]", "{}", "é", "😀", "0", "::", "|", "\\", "/")
_CLASSES = ("a-z", "0-9", "A-F0-9", "a-cx-z", "é-ü", "_")


@dataclass(frozen=True, slots=True)
class Language:
    judge: str
    """For `re.fullmatch`."""
    texts: dict[Kind, str]


def random_language(chance: random.Random) -> Language:
    """The first rule is made of those after it, so that no text is without an end."""
    num_rules = chance.randrange(1, 5)
    judges: list[str] = []
    lark: list[str] = []
    gbnf: list[str] = []
    for number in range(num_rules):
        pattern, in_lark, in_gbnf = _alternatives(chance, judges)
        judges.append(pattern)
        last = number == num_rules - 1
        lark.append(f"{'start' if last else f'r{number}'}: {in_lark}")
        gbnf.append(f"{'root' if last else f'r{number}'} ::= {in_gbnf}")
    return Language(
        judge=judges[-1],
        texts={"regex": judges[-1], "lark": "\n".join(lark[::-1]) + "\n", "gbnf": "\n".join(gbnf[::-1]) + "\n"},
    )


Said = tuple[str, str, str]
"""In each of the three ways."""


def _alternatives(chance: random.Random, rules: list[str]) -> Said:
    several = [_sequence(chance, rules) for _ in range(chance.choice((1, 1, 2, 3)))]
    patterns, lark, gbnf = zip(*several, strict=True)
    return f"(?:{'|'.join(patterns)})", " | ".join(lark), " | ".join(gbnf)


def _sequence(chance: random.Random, rules: list[str], least: int = 1) -> Said:
    parts = [_repeated(_atom(chance, rules), chance) for _ in range(chance.randrange(least, 4))]
    patterns, lark, gbnf = zip(*parts, strict=True)
    return "".join(patterns), " ".join(lark), " ".join(gbnf)


def _atom(chance: random.Random, rules: list[str]) -> Said:
    kind = chance.randrange(4)
    if kind == 0 and rules:
        number = chance.randrange(len(rules))
        return rules[number], f"r{number}", f"r{number}"
    if kind == 1:
        letters = chance.choice(_CLASSES)
        return f"[{letters}]", f"/[{letters}]/", f"[{letters}]"
    if kind == 2:
        # of two or more: the library loses brackets around one, and then cannot read ("a"{2}){1,3} of GBNF
        pattern, lark, gbnf = _sequence(chance, rules, 2)
        return f"(?:{pattern})", f"({lark})", f"({gbnf})"
    text = chance.choice(_LETTERS)
    quoted = '"' + text.replace("\\", "\\\\") + '"'
    return f"(?:{re.escape(text)})", quoted, quoted


def _repeated(said: Said, chance: random.Random) -> Said:
    pattern, lark, gbnf = said
    how = chance.randrange(8)
    if how == 0:
        return f"{pattern}?", f"{lark}?", f"{gbnf}?"
    if how == 1:
        return f"{pattern}{{1,3}}", f"{lark}{{1,3}}", f"{gbnf}{{1,3}}"
    if how == 2:
        return f"{pattern}{{2}}", f"{lark}{{2}}", f"{gbnf}{{2}}"
    if how == 3 and chance.random() < 0.3:
        return f"{pattern}+", f"{lark}+", f"{gbnf}+"
    return said
