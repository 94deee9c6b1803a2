"""Schemas, expressions and grammars that would take a careless compiler for ever, and fields to send them in."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

Schema = dict[str, Any]


def constrain(body: dict[str, Any], path: str, chance: random.Random) -> dict[str, Any]:
    """The body with an explosive constraint, in a field that its route has for one."""
    if path.startswith("/api/"):
        return body | {"format": schema(chance)}
    if path == "/v1/messages":
        return body | {"output_config": {"format": {"type": "json_schema", "schema": schema(chance)}}}
    if path == "/v1/responses":
        if chance.random() < 0.3:
            tool = {"type": "function", "name": "f", "strict": True, "parameters": schema(chance)}
            return {**body, "tools": [tool], "tool_choice": "required", "text": None}
        return body | {"text": {"format": {"type": "json_schema", "name": "x", "schema": schema(chance)}}}
    kind = chance.randrange(8)
    if kind <= 2:
        return body | {
            "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema(chance)}}
        }
    if kind == 3 and path == "/v1/chat/completions":
        tool = {"type": "function", "function": {"name": "f", "strict": True, "parameters": schema(chance)}}
        return body | {"tools": [tool], "tool_choice": "required", "response_format": None}
    if kind == 4:
        return body | {
            "guided_choice": [chance.choice(("a", "ab", "é")) * i for i in range(1, chance.choice((3, 1000)))]
        }
    if kind == 5:
        return body | {"guided_grammar": grammar(chance)}
    if kind == 6:
        return body | {"grammar": chance.choice(_GBNF)}
    return body | {"guided_regex": expression(chance)}


def schema(chance: random.Random) -> Schema:
    return chance.choice(_SCHEMAS)(chance)


def expression(chance: random.Random) -> str:
    large = chance.choice((50, 1000, 100_000, 2**31, 10**20))
    return chance.choice((
        "(a*)*b", "(a+)+$", "(a|a)*b", "((a?){30}){30}a{30}", "(" * 500 + "a" + ")" * 500, f"(a|b)*a(a|b){{{large}}}",
        f"a{{{large}}}", f"(.{{1,{large}}}){{1,{large}}}", f"[\\w\\W]{{{large},}}", f"\\p{{L}}{{1,{large}}}",
        "(?=a)b", "(a)\\1", "(?<!a)b", "a{2,1}", "[", "(", "*", "\\", "(?i)" + "é" * 3000, "|" * 5000,
        "(x+x+)+y", ".*" * 200, f"(.*a){{{min(large, 1000)}}}", "^a$^b$", "\\b\\B", "[^\\x00-\\U0010ffff]", "\ud800",
        "(~a){9}", "a&b&~c", "(?P<x>a)(?P=x)", f"[a-z]{{0,{large}}}[0-9]{{0,{large}}}", "(((a{99}){99}){99}){99}",
    ))  # fmt: skip


def grammar(chance: random.Random) -> str:
    """In Lark's form, or in GBNF."""
    many = chance.choice((10, 2000))
    return chance.choice((
        "start: start start | \"a\"", "start: start", "start: a\na: b\nb: a", "start: (\"a\"?)~1000 (\"a\"?)~1000",
        "start: \"a\"~1..1000000000", "start: ((((\"a\"*)*)*)*)*", "start: /(a*)*b/", "start: missing", "start",
        "start: " + "(" * 3000 + "\"a\"" + ")" * 3000, "\n".join([f"r{i}: r{i + 1} r{i + 1}" for i in range(40)]
        + ["r40: \"a\"", "start: r0"]), "start: " + " | ".join(f'"{"a" * i}"' for i in range(1, many // 5)),
        "start: a | b\na: start \"x\" | \n b: start | \"y\"", "%import common.WORD\nstart: WORD",
        "%ignore /a*/\nstart: \"b\"",
        "start: @tool", "start: %json {\"$ref\": \"#\"}", "start: \"a\" \"\\ud800\"", "A: A \"x\"\nstart: A",
        "?start: expr\n?expr: expr \"+\" expr | expr expr | /[0-9]*/", "start: /.{0,100000}/ /.{0,100000}/ \"z\"",
        "\x00", *_GBNF,
    ))  # fmt: skip


_GBNF = (
    'root ::= root root | "a"', "root ::= root", 'root ::= "a"{1,1000000000}', "root ::= [^\\x00-\\xff]*",
    'root ::= ((("a"*)*)*)*', "root ::= missing", "root ::=", "::=", 'root ::= "a" | root "b" | root root root',
    "root ::= " + "(" * 2000 + '"a"' + ")" * 2000, "root ::= [a-", 'root ::= "\\xZZ"',
)  # fmt: skip


def _nested(width: int, depth: int) -> Schema:
    node: Schema = {"type": "integer"}
    for _ in range(depth):
        node = {
            "anyOf": [{"type": "object", "properties": {f"p{i}": node}, "required": [f"p{i}"]} for i in range(width)]
        }
    return node


def _deep(kind: str, depth: int) -> Schema:
    node: Schema = {"type": "boolean"}
    for _ in range(depth):
        node = {"type": "array", "items": node} if kind == "array" else {"type": "object", "properties": {"a": node}}
    return node


def _doubling(levels: int) -> Schema:
    """2**levels paths through few words."""
    both = {f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(levels)}
    twice = {f"d{i}": {"type": "array", "prefixItems": [{"$ref": f"#/$defs/d{i + 1}"}] * 2, "minItems": 2}
             for i in range(levels)}  # fmt: skip
    chosen = both if levels % 2 else twice
    return {"$ref": "#/$defs/d0", "$defs": chosen | {f"d{levels}": {"type": "null"}}}


_SCHEMAS: tuple[Callable[[random.Random], Schema], ...] = (
    lambda _: {"$ref": "#"},
    lambda _: {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
    lambda _: {"$ref": "#/$defs/a", "$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}, {"type": "object"}]}}},
    lambda _: {"type": "array", "items": {"$ref": "#"}, "minItems": 1},
    lambda _: {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
    lambda chance: {"enum": [f"{'x' * 20}{i}" for i in range(chance.choice((1000, 8000)))]},
    lambda chance: {"enum": list(range(chance.choice((1000, 20_000))))},
    lambda chance: _nested(chance.choice((3, 10)), chance.choice((3, 4))),
    lambda chance: _deep(chance.choice(("array", "object")), chance.choice((60, 90))),
    lambda chance: _doubling(chance.choice((9, 10, 20, 21, 40, 41))),
    lambda chance: {"type": "array", "items": {"type": "string"}, "minItems": chance.choice((2000, 10**6, 2**40,
        10**30))},
    lambda chance: {"type": "array", "items": {"type": "integer"}, "maxItems": chance.choice((5, 10**6, 2**63, -1))},
    lambda chance: {"type": "string", "maxLength": chance.choice((10**5, 10**9, 2**70, -5, 1.5))},
    lambda chance: {"type": "string", "minLength": chance.choice((10**4, 10**9)), "maxLength": chance.choice((1,
        10**9))},
    lambda chance: {"type": "string", "pattern": expression(chance)},
    lambda chance: {"type": "object", "patternProperties": {expression(chance): {"type": "null"}}},
    lambda chance: {"type": "object", "additionalProperties": {"$ref": "#"}, "minProperties": chance.choice((3,
        10**9))},
    lambda chance: {"type": "integer", "minimum": chance.choice((-(10**300), 1, 0.5)),
        "maximum": chance.choice((10**300, -1))},
    lambda chance: {"type": "number", "multipleOf": chance.choice((1e-300, 0, -1, 3, 0.1, 10**100))},
    lambda chance: {"type": "number", "exclusiveMinimum": 1e308, "maximum": chance.choice((1.7e308, "x", None, 1e308))},
    lambda chance: {"allOf": [{"anyOf": [{"minLength": i}, {"maxLength": i}]} for i in range(chance.choice((6, 60)))],
                    "type": "string"},
    lambda chance: {"oneOf": [{"type": "string", "pattern": expression(chance)} for _ in range(20)]},
    lambda chance: {"properties": {f"p{i}": {"type": "string"} for i in range(chance.choice((100, 3000)))},
        "type": "object",
                    "additionalProperties": False},
    lambda _: {"not": {"not": {"not": {}}}},
    lambda _: {"if": {"type": "string"}, "then": {"minLength": 2}, "else": False},
    lambda _: {"$ref": "http://127.0.0.1:1/schema.json"},
    lambda _: {"$ref": "file:///etc/passwd"},
    lambda _: {"$ref": "#/properties/" + "a/" * 5000},
    lambda _: {"type": ["object", "array", "string", "null", "x"]},
    lambda _: {"type": 5, "properties": [], "required": {}, "enum": {}, "items": 7},
    lambda chance: {"const": _deep("array", chance.choice((10, 90)))},
    lambda _: {"$dynamicRef": "#x", "$anchor": "x", "$id": "urn:x"},
    lambda chance: {"type": "string", "format": chance.choice(("date", "uuid", "ipv6", "uri", "regex", "x", "email"))},
    lambda _: {"type": "object", "dependentRequired": {"a": ["b"]}, "unevaluatedProperties": False},
    lambda _: {"type": "array", "contains": {"type": "null"}, "uniqueItems": True},
)  # fmt: skip
