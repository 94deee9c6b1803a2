"""Random JSON schemas of the kinds that programs send with a request: nested, bounded, with references and choices.

Texts and lists nearly always have a bound, as what follows them is a model that need not find an end by itself.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

Schema = dict[str, Any]
NAMES = (
    "name",
    "age",
    "kind",
    "tags",
    "items",
    "next",
    "a b",
    "é",
    "value",
    "x-y",
    'quote"d',
    "0",
    "",
    "deep",
    "\\",
    "n",
)
CONSTANTS: tuple[Any, ...] = (
    None, True, False, 0, -1, 17, 2.5, -0.125, 10**15, "", "yes", "a \"quoted\" one", "tab\tand\nline", "é😀", "\\",
    "/", [], [1, "two", None], {}, {"k": [True]},
)  # fmt: skip
FORMATS = ("date", "time", "date-time", "uuid", "ipv4", "ipv6", "duration", "email")
UNSERVED: tuple[Schema, ...] = (
    {"type": "array", "items": {"type": "null"}, "uniqueItems": True, "maxItems": 1},
    {"type": "object", "dependentRequired": {"a": ["b"]}, "additionalProperties": False},
    {"type": "string", "not": {"const": "a"}},
    {"oneOf": [{"type": "string", "maxLength": 3}, {"type": "string", "minLength": 2, "maxLength": 5}]},
    {"type": "array", "contains": {"type": "null"}, "maxItems": 2},
    {"type": "object", "propertyNames": {"maxLength": 3}, "maxProperties": 1},
)
"""Kinds of schema that no automaton of tokens follows, or none that we know: refused, and never taken lightly."""


def random_schema(chance: random.Random, *, unserved: float = 0.02) -> Schema:
    """`unserved`: how often one is made that must be refused."""
    schema = _any(chance, 3)
    if chance.random() < 0.3:
        schema = _object(chance, 3)
    if chance.random() < 0.1:
        schema = _with_definitions(schema, chance)
    if chance.random() < unserved:
        schema = {"type": "object", "properties": {"odd": chance.choice(UNSERVED)}, "required": ["odd"]}
    return schema


def keywords(schema: Any) -> set[str]:
    """Every keyword in it (and the names of properties, which nobody can tell from them by the look)."""
    if isinstance(schema, dict):
        return set(schema).union(*(keywords(value) for value in schema.values()))
    if isinstance(schema, list):
        return set[str]().union(*(keywords(value) for value in schema))
    return set()


def _any(chance: random.Random, depth: int) -> Schema:
    flat = (_integer, _number, _string, _string, _word, _enum, _const, _simple)
    nested = (_object, _object, _array, _array, _tuple, _any_of, _one_of, _all_of, _types)
    make: Callable[[random.Random, int], Schema] = chance.choice(
        flat if depth == 0 or chance.random() < 0.35 else nested
    )
    return _annotated(make(chance, depth), chance)


def _annotated(schema: Schema, chance: random.Random) -> Schema:
    if chance.random() < 0.1:
        return schema | {"title": "T", "description": 'what it "means"', "examples": [1], "default": None}
    return schema


def _object(chance: random.Random, depth: int) -> Schema:
    names = chance.sample(NAMES, chance.randrange(1, 5))
    properties = {name: _any(chance, depth - 1) for name in names}
    schema: Schema = {"type": "object", "properties": properties}
    schema["required"] = [name for name in names if chance.random() < 0.7]
    more = chance.randrange(6)
    if more <= 3:
        schema["additionalProperties"] = False
    elif more == 4:
        more_allowed = {"additionalProperties": _any(chance, 0), "maxProperties": len(names) + chance.randrange(2)}
        schema |= more_allowed | {"required": names}
    else:
        schema = {"type": "object", "patternProperties": {"^k[0-9]$": _any(chance, 0)}, "additionalProperties": False,
                  "minProperties": 1, "maxProperties": 2}  # fmt: skip
    return schema


def _array(chance: random.Random, depth: int) -> Schema:
    least = chance.choice((0, 0, 1, 2))
    schema: Schema = {"type": "array", "items": _any(chance, depth - 1), "maxItems": least + chance.randrange(4)}
    return schema | ({"minItems": least} if least else {})


def _tuple(chance: random.Random, depth: int) -> Schema:
    count = chance.randrange(1, 4)
    first = [_any(chance, depth - 1) for _ in range(count)]
    rest = chance.choice((False, False, _any(chance, 0)))
    return {"type": "array", "prefixItems": first, "items": rest, "minItems": chance.choice((0, count)),
            "maxItems": count + (0 if rest is False else 2)}  # fmt: skip


def _any_of(chance: random.Random, depth: int) -> Schema:
    return {"anyOf": [_any(chance, depth - 1) for _ in range(chance.randrange(2, 4))]}


def _one_of(chance: random.Random, depth: int) -> Schema:
    """Of kinds that exclude each other."""
    kinds = [_string(chance, 0), _integer(chance, 0), {"type": "boolean"}, {"type": "null"}, _array(chance, depth)]
    return {"oneOf": chance.sample(kinds, chance.randrange(2, 4))}


def _all_of(chance: random.Random, depth: int) -> Schema:
    """A part of what is true of an object is said elsewhere."""
    names = chance.sample(NAMES, 2)
    first = {"properties": {names[0]: _any(chance, depth - 1)}, "required": chance.choice(([], names))}
    second = {"type": "object", "properties": {names[1]: _any(chance, depth - 1)}, "required": names[1:]}
    closed = {"properties": {name: {} for name in names}, "additionalProperties": False}
    return {"type": "object", "allOf": [first, second], **closed}


def _types(chance: random.Random, depth: int) -> Schema:
    kinds = chance.sample(("string", "integer", "null", "boolean"), chance.randrange(2, 4))
    return (
        {"type": kinds}
        | ({"maxLength": 9} if "string" in kinds else {})
        | ({"minimum": 0, "maximum": 999} if "integer" in kinds else {})
    )


def _integer(chance: random.Random, depth: int) -> Schema:
    low = chance.choice((-(10**6), -17, -1, 0, 1, 5, 99, 10**9))
    high = low + chance.choice((0, 1, 7, 100, 10**6))
    kind = chance.randrange(5)
    if kind == 0:
        return {"type": "integer", "exclusiveMinimum": low - 1, "exclusiveMaximum": high + 1}
    if kind == 1:
        return {"type": "integer", "minimum": low, "maximum": high + 60, "multipleOf": chance.choice((2, 3, 5, 10))}
    return {"type": "integer", "minimum": low, "maximum": high}


def _number(chance: random.Random, depth: int) -> Schema:
    low = chance.choice((-100.5, -1, 0, 0.25, 3))
    high = low + chance.choice((0.5, 1, 100, 12345.75))
    kind = chance.randrange(4)
    if kind == 0:
        return {"type": "number", "exclusiveMinimum": low, "exclusiveMaximum": high, "multipleOf": 0.125}
    if kind == 1:
        return {"type": "number"} if chance.random() < 0.1 else {"type": "number", "minimum": low, "maximum": high}
    return {"type": "number", "minimum": low, "maximum": high, "multipleOf": chance.choice((0.25, 0.5, 1))}


def _string(chance: random.Random, depth: int) -> Schema:
    kind = chance.randrange(8)
    if kind == 0:
        form = chance.choice(FORMATS)
        return {"type": "string", "format": form} | ({"maxLength": 40} if form == "email" else {})
    if kind <= 3:
        return {"type": "string", "pattern": random_pattern(chance)}
    least = chance.choice((0, 0, 1, 3))
    return {"type": "string", "minLength": least, "maxLength": least + chance.choice((0, 1, 5, 30))}


def _word(chance: random.Random, depth: int) -> Schema:
    """Without a bound, for once."""
    return {"type": "string"} if chance.random() < 0.2 else {"type": "string", "maxLength": 20}


def _enum(chance: random.Random, depth: int) -> Schema:
    return {"enum": chance.sample(CONSTANTS, chance.randrange(1, 6))}


def _const(chance: random.Random, depth: int) -> Schema:
    return {"const": chance.choice(CONSTANTS)}


def _simple(chance: random.Random, depth: int) -> Schema:
    return {"type": chance.choice(("boolean", "null"))}


def random_pattern(chance: random.Random) -> str:
    """An expression that matches something, and nothing very long."""
    atoms = (
        "[a-z]",
        "[A-Z0-9]",
        "\\d",
        "\\w",
        "a",
        "é",
        "(foo|bar|b)",
        '[^"\\\\\\x00-\\x1f]',
        "\\.",
        "-",
        "( x)?",
        "\\s",
    )
    counts = ("", "", "?", "{2}", "{1,3}", "{0,2}")
    chosen = [chance.choice(atoms) for _ in range(chance.randrange(1, 5))]
    body = "".join(atom if atom.endswith("?") else atom + chance.choice(counts) for atom in chosen)
    return f"^{body}$"


def _with_definitions(schema: Schema, chance: random.Random) -> Schema:
    """References to what is defined once, some of them to itself."""
    leaf = _any(chance, 1)
    ends: list[Schema] = [{"type": "null"}, {"type": "boolean"}, {"type": "integer", "minimum": 0, "maximum": 99},
                          {"type": "string", "maxLength": 5}]  # fmt: skip
    node = {
        "type": "object",
        "properties": {"value": {"$ref": "#/$defs/leaf"}, "next": {"anyOf": [*ends, {"$ref": "#/$defs/node"}]}},
        "required": chance.choice((["value"], ["value", "next"])),
        "additionalProperties": False,
    }
    children = {"type": "array", "items": {"anyOf": [*ends, {"$ref": "#/$defs/tree"}]}, "maxItems": 2}
    tree = {
        "type": "object",
        "properties": {"leaf": {"$ref": "#/$defs/leaf"}, "children": children},
        "required": chance.choice((["leaf"], ["leaf", "children"])),
        "additionalProperties": False,
    }
    properties = {"here": schema, "there": {"$ref": chance.choice(("#/$defs/node", "#/$defs/tree", "#/$defs/leaf"))}}
    return {"type": "object", "properties": properties, "required": ["here", "there"], "additionalProperties": False,
            "$defs": {"leaf": leaf, "node": node, "tree": tree}}  # fmt: skip
