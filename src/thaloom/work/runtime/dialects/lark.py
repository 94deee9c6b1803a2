"""Grammars in llguidance's dialect of Lark, put together rule by rule.

Source: guidance-ai/llguidance, docs/syntax.md and docs/json_schema.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_RULE_PREFIX, _TERMINAL_PREFIX = "our-", "OUR_"
ANY_TEXT = r"/(.|\n)*/"
_SEPARATORS = {"x-guidance": {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}}
"""JSON as models are used to write it. With free white space a small model could go on for ever."""


class Lark:
    """Rules as they are added. `special`: the tokenizer's special tokens, which no text can match, by how they are
    written."""

    def __init__(self, special: Mapping[str, int]) -> None:
        self._special = special
        self._rules: dict[str, str] = {}
        self._verbatim = ""
        longest_first = sorted(special, key=len, reverse=True)
        self._special_pattern = re.compile("|".join(map(re.escape, longest_first))) if special else None

    def rule(self, name: str, body: str) -> str:
        """Add a rule (upper case: a terminal); returns its name. `name[lazy]` is how Lark writes its options."""
        name, options = name.partition("[")[::2]
        prefixed = (_TERMINAL_PREFIX if name[0].isupper() else _RULE_PREFIX) + name
        self._rules[prefixed + (f"[{options}" if options else "")] = body
        return prefixed

    def literal(self, text: str) -> str:
        """Exactly this, special tokens as themselves."""
        parts: list[str] = []
        at = 0
        for match in self._special_pattern.finditer(text) if self._special_pattern else ():
            parts += [quoted(text[at : match.start()])] if match.start() > at else []
            parts.append(f"<[{self._special[match[0]]}]>")
            at = match.end()
        parts += [quoted(text[at:])] if at < len(text) else []
        return " ".join(parts)

    def is_special(self, text: str) -> bool:
        return text in self._special

    def json(self, schema: Any) -> str:
        """Any JSON that follows the schema."""
        if schema is True:
            schema = {}
        if isinstance(schema, dict):
            schema = _SEPARATORS | schema
        return f"%json {json.dumps(schema)}"

    def arguments(self, schema: Mapping[str, Any]) -> str:
        """A call's arguments: an object in any case."""
        return self.json({"type": "object"} | dict(schema))

    def verbatim(self, rules: str) -> None:
        """Rules that somebody else wrote. Ours have names with a prefix, so none is there twice."""
        self._verbatim = rules

    def text(self) -> str:
        return "\n".join([*(f"{name}: {body}" for name, body in self._rules.items()), self._verbatim]) + "\n"


def quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def pattern(text: str) -> str:
    """Exactly this, within a regular expression between slashes."""
    return r"\n".join(re.escape(line).replace("/", r"\/") for line in text.split("\n"))
