"""A text that was cut, brought to an end that its schema allows, and a short one. The parser is that of the mask; who
judges what comes out is another."""

from __future__ import annotations

import json
from typing import Any

import llguidance

from thaloom.work.runtime.core.schemas import tightened

MOST_BYTES = 4000
"""No end that is short is longer than this."""
_CLOSING = b'"}]nulltruefalse'
_DIGITS = b"1234567890"
"""Last: of them there can always be one more."""
_OTHERS = bytes(byte for byte in range(256) if byte not in _CLOSING + _DIGITS)
_ORDER = [*dict.fromkeys(_CLOSING), *_OTHERS, *_DIGITS]
"""What ends something first."""
_BYTES = llguidance.LLTokenizer("byte")


def finish(schema: dict[str, Any], text: str) -> str | None:
    """None: no text of this schema begins so, or the end was not found."""
    options: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    grammar = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(tightened(schema)), overrides=options)
    matcher = llguidance.LLMatcher(_BYTES, grammar, log_level=0)
    said = text.encode()
    if matcher.is_error() or matcher.try_consume_tokens(list(said)) != len(said):
        return None
    more = bytearray()
    while not matcher.is_accepting():
        found = next((byte for byte in _ORDER if matcher.try_consume_tokens([byte]) == 1), None)
        if found is None or len(more) > MOST_BYTES:
            return None
        more.append(found)
    return (said + more).decode(errors="replace")
