"""Grammars of calls: they compile, and a model that follows them says what its dialect hears, and nothing else."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import llguidance
import pytest
from llguidance import _tokenizer

from tests.unit.runtime_text.dialects_of_the_field import DIALECTS, NOW, TOOLS, WEATHER, hear, hearing
from thaloom.base.errors import BadParameter
from thaloom.work.runtime.dialects.forcing import Calls, Speaker, constraint_of
from thaloom.work.runtime.dialects.thinking import KNOWN, Begun, Thinking, Thoughts
from thaloom.work.runtime.types import Constraint, Tool, ToolUse

SPECIAL = ("<eos>", "[TOOL_CALLS]", "[ARGS]", "<|tool_call_start|>", "<|tool_call_end|>", "[/THINK]", "[THINK]")
IDS = {word: 256 + index for index, word in enumerate(SPECIAL)}
NAMES = DIALECTS.names()
THINK, MAGISTRAL = KNOWN[0], KNOWN[1]
PLAIN = {"city": "Paris", "days": 3}


class _Bytes:
    """A vocabulary of single bytes, special tokens, and some words that are added but not special."""

    bos_token_id = None
    eos_token_id = IDS["<eos>"]
    tokens = (*(bytes([byte]) for byte in range(256)), *(word.encode() for word in (*SPECIAL, "<think>", "</think>")))
    special_token_ids = tuple(IDS.values())

    def __call__(self, text: str) -> list[int]:
        return list(text.encode())


TOKENIZER = llguidance.LLTokenizer(_tokenizer.TokenizerWrapper(_Bytes()), eos_token=[IDS["<eos>"]])


def tokens_of(text: str) -> list[int]:
    tokens: list[int] = []
    for part in re.split(f"({'|'.join(map(re.escape, SPECIAL))})", text):
        tokens += [IDS[part]] if part in IDS else list(part.encode())
    return tokens


def verdict(constraint: Constraint | None, text: str) -> str:
    """`whole`: the answer may end here. `begun`: it may not yet. Else where it was refused."""
    assert constraint is not None
    assert constraint.kind == "lark"
    matcher = llguidance.LLMatcher(TOKENIZER, llguidance.LLMatcher.grammar_from_lark(constraint.text), log_level=0)
    assert not matcher.is_error(), (matcher.get_error(), constraint.text)
    taken = b""
    for token in tokens_of(text):
        if matcher.is_stopped() or matcher.validate_tokens([token]) != 1:
            return f"refused after {taken.decode(errors='replace')!r}"
        matcher.consume_token(token)
        taken += _Bytes.tokens[token]
    return "whole" if matcher.is_accepting() else "begun"


def forced(
    name: str,
    use: ToolUse = "required",
    *,
    tools: tuple[Tool, ...] = TOOLS,
    wished: Constraint | None = None,
    thinking: Thinking | None = None,
    begun: Begun = "may",
    one: str | None = None,
    parallel: bool = True,
) -> Constraint | None:
    calls = Calls(tools=tools, use=use, forced=one, parallel=parallel)
    speaker = Speaker(dialect=DIALECTS.create(name), special=IDS, thinking=thinking, begun=begun)
    return constraint_of(calls, wished, speaker)


def written(name: str, *calls: tuple[str, dict[str, Any]]) -> str:
    return DIALECTS.create(name).write(list(calls))


WEATHER_CALL, NOW_CALL = ("get_weather", PLAIN), ("now", dict[str, Any]())


@pytest.mark.parametrize("name", NAMES)
def test_demanded_calls_are_calls_as_the_dialect_writes_them(name: str) -> None:
    one, two = written(name, WEATHER_CALL), written(name, WEATHER_CALL, NOW_CALL)
    assert verdict(forced(name), one) == "whole"
    assert verdict(forced(name), two) == "whole"
    assert verdict(forced(name, parallel=False), one) == "whole"
    assert verdict(forced(name, parallel=False), two).startswith("refused")
    assert verdict(forced(name, one="get_weather"), one) == "whole"
    assert verdict(forced(name, one="now"), one).startswith("refused")
    assert verdict(forced(name), "Hello").startswith("refused")
    assert verdict(forced(name), one[: one.index("Paris")]) == "begun"


@pytest.mark.parametrize("name", NAMES)
def test_arguments_keep_to_their_schema(name: str) -> None:
    for wrong in ({"days": 3}, {"city": "Paris", "days": "three"}, {"town": "Paris"}):
        assert verdict(forced(name), written(name, ("get_weather", wrong))).startswith("refused")
        assert verdict(forced(name, "auto"), written(name, ("get_weather", wrong))).startswith("refused")
    assert verdict(forced(name), written(name, ("nothing_like_it", {}))).startswith("refused")


@pytest.mark.parametrize("name", NAMES)
def test_with_a_strict_tool_any_text_may_be_said_and_calls_keep_to_their_schema(name: str) -> None:
    constraint = forced(name, "auto")
    assert verdict(constraint, "It rains.\n") == "whole"
    assert verdict(constraint, written(name, WEATHER_CALL)) == "whole"
    if DIALECTS.create(name).marks and name != "llama":
        assert verdict(constraint, f"Let me see. {written(name, WEATHER_CALL, NOW_CALL)} So.") == "whole"


def test_where_nothing_is_demanded_and_nothing_strict_there_is_no_constraint() -> None:
    assert forced("hermes", "auto", tools=(NOW,)) is None
    assert forced("hermes", "none") is None
    wished = Constraint(kind="regex", text="a+")
    assert forced("hermes", "none", wished=wished) is wished


@pytest.mark.parametrize("name", ["hermes", "mistral", "llama"])
def test_thoughts_have_room_before_calls(name: str) -> None:
    call = written(name, WEATHER_CALL)
    for thinking, thoughts in ((THINK, "\nhm <tool_call> {</think>\n\n"), (MAGISTRAL, "hm {[/THINK]")):
        may, opened = (forced(name, thinking=thinking, begun=begun) for begun in ("may", "open"))
        assert verdict(may, call) == "whole"
        assert verdict(may, thinking.open + thoughts + call) == "whole"
        assert verdict(may, thinking.open + thoughts) == "begun"
        assert verdict(opened, thoughts + call) == "whole"
        assert verdict(opened, call) != "whole"
        assert verdict(forced(name, thinking=thinking, begun="closed"), thinking.open).startswith("refused")


WISHES = {
    "json_schema": ('{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}', '{"a": 1}'),
    "json_object": ("", '{"any": [1, "x"]}'),
    "regex": (r"a/b\/+", "a/b//"),
    "choice": ('["yes", "no"]', "no"),
    "lark": ('start: foo "start" /start/\nfoo: "f" // start\n', "fstartstart"),
    "gbnf": ('root ::= "a" tail\ntail ::= "b"+\n', "abb"),
}


@pytest.mark.parametrize("kind", sorted(WISHES))
def test_a_wish_about_the_text_goes_with_thoughts_and_with_calls(kind: Any) -> None:
    text, good = WISHES[kind]
    wished = Constraint(kind=kind, text=text)
    assert forced("hermes", tools=(), wished=wished) is wished
    thoughtful = forced("hermes", tools=(), wished=wished, thinking=THINK)
    assert verdict(thoughtful, good) == verdict(thoughtful, f"<think>\nhm</think>\n\n{good}") == "whole"
    assert verdict(thoughtful, f"{good}!").startswith("refused")
    either = forced("hermes", "auto", wished=wished, thinking=THINK, begun="open")
    assert verdict(either, f"hm</think>{good}") == "whole"
    assert verdict(either, f"hm</think>{written('hermes', WEATHER_CALL)}") == "whole"
    assert verdict(either, f"hm</think>{good}!").startswith("refused")
    assert verdict(either, good) == "begun"


def test_a_wish_that_is_none_is_refused_by_the_callers_own_word() -> None:
    for kind, text in (("json_schema", "{"), ("choice", "7"), ("gbnf", "root ::= (")):
        wished = Constraint(kind=kind, text=text, param="guided")  # type: ignore[arg-type]
        with pytest.raises(BadParameter) as caught:
            forced("hermes", tools=(), wished=wished, thinking=THINK)
        assert caught.value.param == "guided"


def test_what_a_dialect_cannot_hold_is_refused() -> None:
    tool = Tool(name="f", parameters={"type": "object", "properties": {"day": {"type": "string", "format": "date"}}})
    with pytest.raises(BadParameter, match="'day' cannot be held to format"):
        forced("qwen3-coder", tools=(tool,))
    assert verdict(forced("hermes", tools=(tool,)), written("hermes", ("f", {"day": "2026-01-31"}))) == "whole"
    assert verdict(forced("hermes", tools=(tool,)), written("hermes", ("f", {"day": "soon"}))).startswith("refused")


def test_definitions_of_a_schema_reach_its_arguments() -> None:
    parameters = {
        "type": "object",
        "properties": {"unit": {"$ref": "#/$defs/unit"}, "note": {"type": "string", "enum": ["a", "b c"]}},
        "required": ["unit", "note"],
        "$defs": {"unit": {"enum": [1, 2]}},
    }
    tool = Tool(name="f", parameters=parameters)
    for name in ("hermes", "pythonic", "qwen3-coder"):
        assert verdict(forced(name, tools=(tool,)), written(name, ("f", {"unit": 2, "note": "b c"}))) == "whole"
        assert verdict(forced(name, tools=(tool,)), written(name, ("f", {"unit": 3, "note": "a"}))).startswith(
            "refused"
        )
        assert verdict(forced(name, tools=(tool,)), written(name, ("f", {"unit": 2, "note": "c"}))).startswith(
            "refused"
        )


def test_optional_arguments_may_be_left_out_in_every_way() -> None:
    names = ("a", "b", "c")
    for required in ([], ["a"], ["b"], ["c"], ["a", "c"]):
        properties = {key: {"type": "integer"} for key in names}
        tool = Tool(name="f", parameters={"type": "object", "properties": properties, "required": required})
        for mask in range(8):
            chosen = {key: index for index, key in enumerate(names) if mask >> index & 1}
            for name in ("pythonic", "qwen3-coder"):
                accepted = verdict(forced(name, tools=(tool,)), written(name, ("f", chosen))) == "whole"
                assert accepted == (set(required) <= chosen.keys())


def test_thoughts_are_read_as_the_grammar_allows_them() -> None:
    text = "<think>\nhm</think>\n\n" + written("hermes", WEATHER_CALL)
    assert verdict(forced("hermes", thinking=THINK), text) == "whole"
    heard = hear(hearing("hermes", thoughts=Thoughts(THINK, begun=False, separate=True)), [text])
    assert heard[:2] == ("", "hm")
    assert [name for name, _ in heard[2]] == ["get_weather"]


def test_many_tools_with_hostile_names_and_schemas_still_compile() -> None:
    names = ["a-b", "a.b", "x" * 64, "start", "json", "tool_0"]
    tools = tuple(Tool(name=name, parameters={}, strict=True) for name in names)
    for name in NAMES:
        assert verdict(forced(name, tools=tools), "") == "begun"
        assert verdict(forced(name, "auto", tools=(*tools, WEATHER)), "") == "whole"


SWITCH = Tool(
    name="switch",
    parameters={
        "type": "object",
        "properties": {
            "unit": {"type": "string", "enum": ["c", "f"]},
            "on": {"type": "boolean"},
            "level": {"enum": [1, 2]},
        },
        "required": ["unit", "on"],
        "additionalProperties": False,
    },
)


@pytest.mark.parametrize("name", NAMES)
def test_whoever_follows_the_grammar_is_heard(name: str) -> None:
    """Answers of a model that knows nothing and picks any token the mask leaves it."""
    constraint = forced(name, tools=(SWITCH, NOW), parallel=False)
    assert constraint is not None
    grammar = llguidance.LLMatcher.grammar_from_lark(constraint.text)
    choose = random.Random(name)
    for _ in range(20):
        matcher = llguidance.LLMatcher(TOKENIZER, grammar, log_level=0)
        said = b""
        while not matcher.is_stopped():
            mask = matcher.compute_bitmask()
            allowed = [token for token in range(len(_Bytes.tokens)) if mask[token >> 3] >> (token & 7) & 1]
            token = choose.choice(allowed)
            matcher.consume_token(token)
            said += b"" if token == _Bytes.eos_token_id else _Bytes.tokens[token]
        text, _, calls = hear(hearing(name, tools=(SWITCH, NOW)), [said.decode()])
        assert (text, len(calls)) == ("", 1), said
        arguments = json.loads(calls[0][1])
        if calls[0][0] == "switch":
            assert arguments["unit"] in ("c", "f")
            assert isinstance(arguments["on"], bool)
            assert arguments.keys() <= {"unit", "on", "level"}
        else:
            assert calls[0] == ("now", "{}")
