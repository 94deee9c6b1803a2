"""What an answer turned out to say: text, thoughts, and calls, as far as it is certain."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from thaloom.work.runtime.dialects.tape import Reading, Tape
from thaloom.work.runtime.types import Tool, ToolCallPiece

NewId = Callable[[], str]
"""A fresh id for a call: `call_` and 24 letters or digits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """Some of an answer, sorted."""

    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCallPiece, ...] = ()


class Told:
    """Collects what a parser finds on its tape. White space alone, at the start of an answer or behind a call, waits
    for what follows: between a model's calls it means nothing, and is dropped."""

    def __init__(self, tape: Tape, tools: Mapping[str, Tool], new_id: NewId) -> None:
        self._tape = tape
        self.tools = tools
        """What may be called, by name."""
        self._new_id = new_id
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._pieces: list[ToolCallPiece] = []
        self._blank = ""
        self._begun = False
        self.num_calls = 0
        self.num_whole = 0
        """Calls that came to their end."""

    @property
    def num_waiting(self) -> int:
        """Characters that are read, and told only when more is known."""
        return len(self._blank)

    def take(self) -> Heard:
        heard = Heard(
            text="".join(self._text), reasoning="".join(self._reasoning), tool_calls=tuple(_merged(self._pieces))
        )
        self._text, self._reasoning, self._pieces = [], [], []
        return heard

    def text(self, text: str) -> None:
        if not text:
            return
        if not self._begun:
            text = self._blank + text
            if not text.strip():
                self._blank = text
                return
            self._blank, self._begun = "", True
        self._text.append(text)

    def reasoning(self, text: str) -> None:
        if text:
            self._reasoning.append(text)

    def finish(self) -> None:
        if self._blank and not self.num_calls:
            self._text.append(self._blank)
        self._blank = ""

    def text_here(self) -> None:
        """What was read is text."""
        self.text(self._tape.settle())

    def text_until(self, marks: Sequence[str]) -> Reading[str | None]:
        """Let text through up to the first of these, and read over that; None if the text ends without one."""
        tape = self._tape
        while True:
            found = tape.first(marks, tape.at)
            if found is not None:
                tape.at, mark = found
                self.text_here()
                tape.at += len(mark)
                return mark
            tape.at = tape.end - tape.num_doubtful(marks, tape.at)
            self.text_here()
            if tape.ended:
                return None
            yield

    def begin_call(self, name: str) -> None:
        self._blank, self._begun = "", False
        self._pieces.append(ToolCallPiece(index=self.num_calls, id=self._new_id(), name=name))
        self.num_calls += 1

    def arguments(self, text: str) -> None:
        if text:
            self._pieces.append(ToolCallPiece(index=self.num_calls - 1, arguments=text))

    def end_call(self) -> None:
        self.num_whole += 1
        self._tape.settle()

    def whole_call(self, name: str, arguments: str) -> None:
        self.begin_call(name)
        self.arguments(arguments)
        self.end_call()


def _merged(pieces: Sequence[ToolCallPiece]) -> list[ToolCallPiece]:
    """One piece for each call."""
    merged: list[ToolCallPiece] = []
    for piece in pieces:
        if merged and merged[-1].index == piece.index:
            last = merged[-1]
            merged[-1] = ToolCallPiece(
                index=last.index, id=last.id, name=last.name, arguments=last.arguments + piece.arguments
            )
        else:
            merged.append(piece)
    return merged
