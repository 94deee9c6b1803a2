"""What form an answer's text must have, in the words of every protocol family that has some.

Source: OpenAI's API reference (`response_format`); vLLM's documentation on structured outputs (`structured_outputs` and
the older `guided_*`); llama.cpp's server (`grammar`, `json_schema`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from thaloom.edge.wire.common import Ask

MAX_GRAMMAR_CHARACTERS = 256 * 1024
MAX_PATTERN_CHARACTERS = 32 * 1024
MAX_CHOICE_TEXTS = 1024

Grammar = Annotated[str, Field(max_length=MAX_GRAMMAR_CHARACTERS)]
"""GBNF if there is a `::=` in it, else Lark. Empty: none."""
Pattern = Annotated[str, Field(min_length=1, max_length=MAX_PATTERN_CHARACTERS)]
Choices = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=8192)]], Field(min_length=1, max_length=MAX_CHOICE_TEXTS)
]
Schema = dict[str, Any] | Annotated[str, Field(max_length=MAX_GRAMMAR_CHARACTERS)]
"""A JSON schema, also as JSON text."""


class TextFormat(Ask):
    type: Literal["text"]


class JsonObjectFormat(Ask):
    type: Literal["json_object"]


class NamedSchema(Ask):
    name: str = Field(min_length=1, max_length=64, pattern="^[a-zA-Z0-9_-]+$")
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    """Null: any JSON object."""
    strict: bool | None = None
    """The answer follows the schema either way."""


class JsonSchemaFormat(Ask):
    type: Literal["json_schema"]
    json_schema: NamedSchema


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]


class StructuredOutputs(Ask):
    """At most one of these; `json_object` false is none."""

    json_: Schema | None = Field(default=None, alias="json")
    regex: Pattern | None = None
    choice: Choices | None = None
    grammar: Grammar | None = None
    json_object: bool | None = None


UNSERVED_IN_STRUCTURED_OUTPUTS: dict[str, tuple[Any, ...]] = {
    # name: the values that ask for nothing (null always does)
    "structural_tag": (),
    "whitespace_pattern": (),
    "disable_any_whitespace": (False,),
    "disable_additional_properties": (False,),
}
