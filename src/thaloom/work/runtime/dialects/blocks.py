"""What most dialects share: calls stand in blocks behind a mark, and the rest is text."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from thaloom.work.runtime.dialects import CallGrammar
from thaloom.work.runtime.dialects.lark import Lark, quoted
from thaloom.work.runtime.dialects.objects import read_object
from thaloom.work.runtime.dialects.tape import Reading, Tape
from thaloom.work.runtime.dialects.told import Told
from thaloom.work.runtime.types import Tool


class Blocks(ABC):
    """A dialect's frame. Its families say how a block looks."""

    begins: tuple[str, ...] = ()
    """Marks, any of which begins a block."""
    bare = False
    """Whether a block may begin without a mark, at the start of the answer."""

    def read(self, tape: Tape, told: Told) -> Reading[None]:
        if self.bare:
            start = tape.at
            yield from tape.blanks()
            if not (yield from self.block(tape, told)):
                tape.at = start
        while (yield from told.text_until(self.begins)) is not None:
            behind = tape.at
            if not (yield from self.block(tape, told)):
                tape.at = behind
                told.text_here()

    @abstractmethod
    def block(self, tape: Tape, told: Told) -> Reading[bool]:
        """Read what follows a mark. False, with nothing told, if there is no call in it; `at` is of no use then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectForm:
    """How a family writes calls as JSON objects."""

    name: str
    begins: tuple[str, ...]
    end: str = ""
    """Behind the calls, if the model does not forget it."""
    arguments: str = "arguments"
    listed: bool = False
    """In a list, even if there is only one."""
    before: str = ""
    """Between the mark and the first call."""
    after: str = ""
    between: str = ", "
    bare: bool = False
    blocks_between: str | None = None
    """Between two blocks of one call; None: one block has all calls."""


class ObjectBlocks(Blocks):
    """Calls as JSON objects, one or a list of them. Reads more forms than it writes: what a family's models write
    differs from version to version."""

    def __init__(self, form: ObjectForm) -> None:
        self._form = form
        self.name = form.name
        self.begins = form.begins
        self.bare = form.bare
        self.marks = (*form.begins, form.end) if form.end else form.begins

    def block(self, tape: Tape, told: Told) -> Reading[bool]:
        yield from tape.blanks()
        listed = yield from tape.literal("[")
        yield from tape.blanks()
        if (yield from read_object(tape, told)) == "none":
            return False
        while (yield from self._goes_on(tape)):
            start = tape.at
            if (yield from read_object(tape, told)) == "none":
                tape.at = start
                break
        tape.at = tape.settled
        for mark in ("]" * listed, self._form.end):
            yield from tape.closing(mark) if mark else ()
        tape.settle()
        return True

    def _goes_on(self, tape: Tape) -> Reading[bool]:
        yield from tape.blanks()
        for separator in (",", ";"):
            if (yield from tape.literal(separator)):
                yield from tape.blanks()
                return (yield from tape.peek()) == "{"
        return (yield from tape.peek()) == "{"

    def write(self, calls: Sequence[tuple[str, Any]]) -> str:
        form = self._form
        written = [
            f"{_head(name, form.arguments)}{json.dumps(arguments, ensure_ascii=False)}}}" for name, arguments in calls
        ]
        opening, closing = form.before + "[" * form.listed, "]" * form.listed + form.after + form.end
        opening = opening if form.bare else form.begins[0] + opening
        if form.blocks_between is None:
            return f"{opening}{form.between.join(written)}{closing}"
        return form.blocks_between.removesuffix(form.begins[0]).join(f"{opening}{one}{closing}" for one in written)

    def grammar(self, lark: Lark, tools: Sequence[Tool], *, parallel: bool) -> CallGrammar:
        form = self._form
        calls = [
            lark.rule(
                f"call_{index}",
                f"{quoted(_head(tool.name, form.arguments))} {lark.arguments(tool.parameters)} {quoted('}')}",
            )
            for index, tool in enumerate(tools)
        ]
        call = lark.rule("call", " | ".join(calls))
        one_block = form.blocks_between is None
        more = f" ({quoted(form.between)} {call})*" if parallel and one_block else ""
        opening, closing = form.before + "[" * form.listed, "]" * form.listed + form.after + form.end
        block = f"{lark.literal(opening)} {call}{more} {lark.literal(closing)}"
        separator = None if one_block or form.blocks_between is None else lark.literal(form.blocks_between)
        return CallGrammar(
            begin="" if form.bare else form.begins[0],
            block=block,
            separator=separator if parallel else None,
            bare_start="{" if form.bare else "",
        )


def _head(name: str, arguments: str) -> str:
    return f'{{"name": {quoted(name)}, "{arguments}": '
