"""What an answer must be, as a grammar: calls that are demanded, calls that keep to their schema, room for thoughts.

Pure. The grammars are llguidance's; the worker compiles them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from thaloom.base.errors import BadParameter
from thaloom.work.runtime.dialects import CallGrammar, Dialect
from thaloom.work.runtime.dialects.lark import ANY_TEXT, Lark, pattern
from thaloom.work.runtime.dialects.thinking import Begun, Thinking
from thaloom.work.runtime.types import Constraint, Tool, ToolUse

_BLANKS = r"/[ \t\r\n]{0,4}/"
_ANSWER = "the-answer"
_NAME_OF_START = re.compile(
    r'"(?:\\.|[^"\\])*"|/(?![/])(?:\\.|[^/\\\n])+/|//[^\n]*|#[^\n]*|(?<![A-Za-z0-9_-])start(?![A-Za-z0-9_-])', re.DOTALL
)
"""The rule called `start`, and whatever may hold that word without meaning it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Speaker:
    """Of a model and a prompt, all that a grammar depends on."""

    dialect: Dialect
    special: Mapping[str, int]
    """The tokenizer's special tokens, by how they are written."""
    thinking: Thinking | None
    begun: Begun


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """What a request says of calls."""

    tools: tuple[Tool, ...]
    use: ToolUse
    forced: str | None
    parallel: bool

    @property
    def wanted(self) -> tuple[Tool, ...]:
        """Those that may be called."""
        if self.use == "none":
            return ()
        return tuple(tool for tool in self.tools if self.forced in (None, tool.name))

    @property
    def must_call(self) -> bool:
        return bool(self.wanted) and (self.use == "required" or self.forced is not None)


def constraint_of(calls: Calls, wished: Constraint | None, speaker: Speaker) -> Constraint | None:
    """The constraint on the whole answer: `wished` is what the caller said of its text. None: any answer will do.

    Raises BadParameter for a schema that the model's dialect cannot be held to.
    """
    thinks = speaker.thinking is not None and speaker.begun != "closed"
    chosen_strictly = any(tool.strict for tool in calls.wanted)
    if wished is None and not calls.must_call and not chosen_strictly:
        return None
    if not calls.wanted and not thinks:
        return wished
    lark = Lark(speaker.special)
    thoughts = _thoughts(lark, speaker) if thinks else ""
    if not calls.wanted:
        assert wished is not None
        return _finished(lark, f"{thoughts} {_wished(lark, wished)}", wished.param)
    tools = calls.wanted if calls.must_call else tuple(map(_as_chosen, calls.wanted))
    grammar = speaker.dialect.grammar(lark, tools, parallel=calls.parallel and calls.forced is None)
    if calls.must_call:
        return _finished(lark, f"{thoughts} {_demanded(lark, grammar)}", "tools")
    if wished is not None:
        return _finished(lark, f"{thoughts} ({_wished(lark, wished)} | {_demanded(lark, grammar)})", wished.param)
    if speaker.begun == "may":
        thoughts = ""  # they are any text too
    return _finished(lark, f"{thoughts} {_free(lark, grammar)}", "tools")


def _as_chosen(tool: Tool) -> Tool:
    """A tool the model may call by itself: only strict ones are held to their schema."""
    return tool if tool.strict else Tool(name=tool.name)


def _thoughts(lark: Lark, speaker: Speaker) -> str:
    thinking = speaker.thinking
    assert thinking is not None
    if lark.is_special(thinking.close):
        body = f"{lark.rule('thoughts', ANY_TEXT)} {lark.literal(thinking.close)}"
    else:
        text = lark.rule("THOUGHTS", rf"/(.|\n)*{pattern(thinking.close)}/")
        body = lark.rule("thoughts[lazy]", text)
    body += f" {lark.rule('break', _BLANKS)}"
    return body if speaker.begun == "open" else f"({lark.literal(thinking.open)} {body})?"


def _demanded(lark: Lark, grammar: CallGrammar) -> str:
    """Calls, and nothing else."""
    begin = f"{lark.literal(grammar.begin)} " if grammar.begin else ""
    block = lark.rule("block", grammar.block)
    more = "" if grammar.separator is None else f" ({grammar.separator} {block})*"
    return lark.rule("calls", f"{begin}{block}{more}")


def _free(lark: Lark, grammar: CallGrammar) -> str:
    """Any text, with calls in it; where calls have no mark, either text or calls."""
    block = lark.rule("block", grammar.block)
    if not grammar.begin:
        characters = pattern(grammar.bare_start)
        other = lark.rule("OTHER", rf"/[ \t\r\n]*([^ \t\r\n{characters}](.|\n)*)?/")
        return lark.rule("free", f"{other} | {block}")
    text = lark.rule("TEXT", ANY_TEXT)
    if lark.is_special(grammar.begin):
        head = lark.rule("head", f"{text} {lark.literal(grammar.begin)}")
    else:
        marked = lark.rule("MARKED", rf"/(.|\n)*{pattern(grammar.begin)}/")
        head = lark.rule("head[lazy]", marked)
    return lark.rule("free", f"({head} {block})* {text}")


def _wished(lark: Lark, wished: Constraint) -> str:
    """The caller's constraint on the text, as an expression. Raises BadParameter."""
    try:
        if wished.kind == "json_schema":
            return lark.json(json.loads(wished.text))
        if wished.kind == "choice":
            return f"({' | '.join(map(lark.literal, json.loads(wished.text)))})"
        if wished.kind == "gbnf":
            return _own_rules(lark, _gbnf_as_lark(wished.text))
    except (ValueError, TypeError, RecursionError) as error:
        raise BadParameter(f"{wished.param} cannot be followed: {error}", param=wished.param) from error
    if wished.kind == "json_object":
        return lark.json({"type": "object"})
    if wished.kind == "regex":
        return lark.rule("WISHED", f"/{_with_escaped_slashes(wished.text)}/")
    return _own_rules(lark, wished.text)


def _with_escaped_slashes(regex: str) -> str:
    return re.sub(r"\\.|/", lambda match: r"\/" if match[0] == "/" else match[0], regex, flags=re.DOTALL)


def _own_rules(lark: Lark, grammar: str) -> str:
    """The caller's rules beside ours, whose names they do not know; where they start, under another name."""
    lark.verbatim(_NAME_OF_START.sub(lambda match: _ANSWER if match[0] == "start" else match[0], grammar))
    return _ANSWER


def _gbnf_as_lark(text: str) -> str:
    from llguidance.gbnf_to_lark import GbnfToLarkError, gbnf_to_lark

    try:
        return gbnf_to_lark(text)
    except GbnfToLarkError as error:
        raise ValueError(str(error)) from error


def _finished(lark: Lark, start: str, param: str) -> Constraint:
    return Constraint(kind="lark", text=f"start: {start.strip()}\n{lark.text()}", param=param)
