"""What form the answer's text must have, from whichever of many words a client has for it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json

from thaloom.base.errors import BadParameter
from thaloom.edge.api.errors import to_json
from thaloom.edge.api.openai.unserved import refuse_unserved
from thaloom.edge.wire.openai_formats import (
    UNSERVED_IN_STRUCTURED_OUTPUTS,
    JsonObjectFormat,
    JsonSchemaFormat,
    StructuredOutputs,
)
from thaloom.edge.wire.openai_requests import GenerationFields
from thaloom.work.runtime.types import Constraint

ANY_OBJECT = Constraint(kind="json_object")


def refuse_unserved_forms(data: Mapping[str, Any]) -> None:
    """Raises BadParameter."""
    refuse_unserved(data.get("structured_outputs"), UNSERVED_IN_STRUCTURED_OUTPUTS, "structured_outputs.")


def constraint(fields: GenerationFields) -> Constraint | None:
    """With the name of the field that asks for it. Raises BadParameter for two at once, or a schema that is no JSON."""
    wishes = _wishes(fields)
    if len(wishes) > 1:
        first, second = list(wishes)[:2]
        raise BadParameter(f"{second} and {first} both say what form the answer has; give one", param=second)
    return next((dataclasses.replace(wish, param=name) for name, wish in wishes.items()), None)


def _wishes(fields: GenerationFields) -> dict[str, Constraint]:
    """By the field that says it."""
    wishes: dict[str, Constraint] = {}
    wished = fields.response_format
    if isinstance(wished, JsonObjectFormat):
        wishes["response_format"] = ANY_OBJECT
    elif isinstance(wished, JsonSchemaFormat):
        schema = wished.json_schema.schema_
        wishes["response_format"] = ANY_OBJECT if schema is None else _schema(schema, "response_format")
    if fields.structured_outputs is not None:
        wishes |= _structured(fields.structured_outputs)
    if fields.guided_json is not None:
        wishes["guided_json"] = _schema(fields.guided_json, "guided_json")
    if fields.guided_regex is not None:
        wishes["guided_regex"] = Constraint(kind="regex", text=fields.guided_regex)
    if fields.guided_choice is not None:
        wishes["guided_choice"] = _choice(fields.guided_choice)
    if fields.guided_grammar:
        wishes["guided_grammar"] = _grammar(fields.guided_grammar)
    if fields.grammar:
        wishes["grammar"] = Constraint(kind="gbnf", text=fields.grammar)
    if fields.json_schema is not None:
        wishes["json_schema"] = _schema(fields.json_schema, "json_schema")
    return wishes


def _structured(outputs: StructuredOutputs) -> dict[str, Constraint]:
    wishes: dict[str, Constraint] = {}
    if outputs.json_ is not None:
        wishes["structured_outputs.json"] = _schema(outputs.json_, "structured_outputs.json")
    if outputs.regex is not None:
        wishes["structured_outputs.regex"] = Constraint(kind="regex", text=outputs.regex)
    if outputs.choice is not None:
        wishes["structured_outputs.choice"] = _choice(outputs.choice)
    if outputs.grammar:
        wishes["structured_outputs.grammar"] = _grammar(outputs.grammar)
    if outputs.json_object:
        wishes["structured_outputs.json_object"] = ANY_OBJECT
    return wishes


def _schema(schema: dict[str, Any] | str, param: str) -> Constraint:
    if isinstance(schema, str):
        try:
            told = from_json(schema, allow_inf_nan=False)
        except ValueError as error:
            raise BadParameter(f"{param}: the text is not JSON: {error}", param=param) from error
        if not isinstance(told, dict):
            raise BadParameter(f"{param}: a JSON schema is an object", param=param)
        schema = told
    return Constraint(kind="json_schema", text=to_json(schema).decode())


def _choice(texts: list[str]) -> Constraint:
    return Constraint(kind="choice", text=json.dumps(texts, ensure_ascii=False))


def _grammar(text: str) -> Constraint:
    """vLLM takes both kinds in one field, and so do the programs written for it."""
    return Constraint(kind="gbnf" if "::=" in text else "lark", text=text)
