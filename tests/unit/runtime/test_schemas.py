"""What is asked of the library is strict enough, or refused: held against texts that are valid, or only nearly."""

from __future__ import annotations

import json
from typing import Any

import llguidance
import pytest

from thaloom.base.errors import BadParameter
from thaloom.work.runtime.core.grammars import Grammars
from thaloom.work.runtime.core.schemas import tightened
from thaloom.work.runtime.messages import Grammar
from thaloom.work.runtime.text.tokenizer import Vocabulary

BYTES = llguidance.LLTokenizer("byte")
WORDS = Vocabulary(tokens=(b"a", b"b", b"<end>"), special=(2,), encode=lambda _: [])


def follows(schema: dict[str, Any], value: Any) -> bool:
    grammar = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(tightened(schema)))
    matcher = llguidance.LLMatcher(BYTES, grammar, log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    text = json.dumps(value).encode()
    return bool(matcher.try_consume_tokens(list(text)) == len(text) and matcher.is_accepting())


@pytest.mark.parametrize(
    ("form", "right", "wrong"),
    [
        ("date", "2024-02-29", "2023-02-29"),
        ("date", "2000-02-29", "1900-02-29"),
        ("date", "2023-12-31", "2023-02-30"),
        ("time", "23:59:59.5Z", "12:00:60Z"),
        ("date-time", "2024-02-29T00:00:59+01:00", "2023-02-29T00:00:59Z"),
        ("date-time", "2023-10-10T00:00:00Z", "2023-10-10T00:00:60Z"),
        ("email", "a.b@c.org", "a" * 65 + "@b.c"),
        ("email", "a@" + "b" * 63 + ".c", "a@" + "b" * 64 + ".c"),
    ],
)
def test_formats_are_followed_to_the_letter(form: str, right: str, wrong: str) -> None:
    schema = {"type": "object", "properties": {"format": {"type": "string", "format": form}}, "required": ["format"]}
    assert (follows(schema, {"format": right}), follows(schema, {"format": wrong})) == (True, False)


def test_what_is_said_of_a_text_beside_its_format_still_holds() -> None:
    schema = {"type": "string", "format": "date", "pattern": "^20", "allOf": [{"pattern": "1$"}]}
    assert [follows(schema, date) for date in ("2023-10-01", "1999-10-01", "2023-10-02")] == [True, False, False]


def test_data_that_looks_like_a_schema_stays_as_it_is() -> None:
    value = {"format": "date", "exclusiveMinimum": 2, "maximum": 2.5, "type": "number"}
    assert follows({"const": value}, value)
    assert follows({"enum": [value], "default": value}, value)
    names = {name: {"type": "null"} for name in ("format", "exclusiveMinimum", "maximum", "enum", "const")}
    assert follows({"type": "object", "properties": names}, dict.fromkeys(names))


@pytest.mark.parametrize(
    ("bounds", "refused"),
    [
        ({"exclusiveMinimum": 2, "maximum": 2.5}, True),
        ({"minimum": -100.5, "exclusiveMaximum": -100.0}, True),
        ({"type": ["number", "null"], "exclusiveMinimum": 0, "exclusiveMaximum": 0.5}, True),
        ({"exclusiveMinimum": 2, "maximum": 3}, False),
        ({"exclusiveMinimum": 2.25, "maximum": 2.5}, False),
        ({"type": "integer", "exclusiveMinimum": 2, "maximum": 3.5}, False),
        ({"minimum": 2, "maximum": 2.5}, False),
    ],
)
def test_bounds_that_would_not_be_kept_are_refused_by_name(bounds: dict[str, Any], refused: bool) -> None:
    schema = {"anyOf": [{"type": "null"}, {"type": "array", "items": {"type": "number"} | bounds, "minItems": 1}]}
    if refused:
        grammars = Grammars(lambda: WORDS, 3)
        with pytest.raises(BadParameter, match=r"response_format cannot be followed: exclusiveM"):
            grammars.matcher(Grammar(kind="json_schema", text=json.dumps(schema), param="response_format", ends=[2]))
    else:
        assert follows(schema, [3 if bounds.get("maximum", 0) == 3 or bounds.get("type") == "integer" else 2.3])
        excluded = bounds.get("exclusiveMinimum")
        assert excluded is None or not follows(schema, [excluded])
