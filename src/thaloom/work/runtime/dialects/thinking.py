"""How models mark what they think aloud, and where the text of an answer begins."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from thaloom.base.errors import NotServable
from thaloom.work.runtime.dialects.tape import Reading, Tape
from thaloom.work.runtime.dialects.told import Told

_LINE_BREAKS = re.compile(r"[\r\n]*")
CONFIG_KEY = "thaloom_thinking"
Begun = Literal["may", "open", "closed"]
"""Before the answer's first token: thoughts may follow, have been begun by the prompt, or were ruled out by it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thinking:
    """The marks around a model's thoughts."""

    open: str
    close: str


KNOWN = (
    Thinking(open="<think>", close="</think>"),
    Thinking(open="[THINK]", close="[/THINK]"),
    Thinking(open="<seed:think>", close="</seed:think>"),
    Thinking(open="<|START_THINKING|>", close="<|END_THINKING|>"),
    Thinking(open="◁think▷", close="◁/think▷"),
    Thinking(open="<reasoning>", close="</reasoning>"),
)
"""DeepSeek R1, Qwen 3 and most others; Magistral; Seed-OSS; Command A; Kimi-VL."""


def thinking_of(
    *, template: str | None, tokens: Sequence[str], configs: Sequence[Mapping[str, Any]]
) -> Thinking | None:
    """The marks of a model, if its chat template or added tokens have any, or what its config files say:
    `thaloom_thinking` is [open, close], or false. Raises NotServable."""
    for config in configs:
        if (stated := config.get(CONFIG_KEY)) is not None:
            match stated:
                case False:
                    return None
                case [str(opening), str(closing)] if opening and closing:
                    return Thinking(open=opening, close=closing)
            raise NotServable(f"{CONFIG_KEY} is two marks or false, not {stated!r}")
    known = "\n".join([template or "", *tokens])
    return next((pair for pair in KNOWN if pair.close in known), None)


def begun_by(thinking: Thinking, prompt_end: str) -> Begun:
    """What the end of a prompt means for the answer."""
    prompt_end = prompt_end.rstrip()
    if prompt_end.endswith(thinking.open):
        return "open"
    return "closed" if prompt_end.endswith(thinking.close) else "may"


class Thoughts:
    """Reads the thoughts at the start of an answer, if there are any. Line breaks around the marks belong to them."""

    def __init__(self, thinking: Thinking, *, begun: bool, separate: bool) -> None:
        self._thinking = thinking
        self._begun = begun
        self._separate = separate
        self.open = begun
        """Whether the answer is in the middle of its thoughts."""

    def read(self, tape: Tape, told: Told) -> Reading[None]:
        """Read the thoughts and their mark. Where they are not kept apart, all of it is text as it is."""
        start = tape.at
        if not self._begun:
            yield from tape.blanks()
            if not (yield from tape.literal(self._thinking.open)):
                tape.at = start
                return
        self.open = True
        if self._separate:
            yield from self._apart(tape, told)
        else:
            closing = yield from told.text_until((self._thinking.close,))
            if closing is not None:
                told.text_here()
        self.open = False

    def _apart(self, tape: Tape, told: Told) -> Reading[None]:
        tape.settle()
        yield from self._line_breaks(tape)
        marks = tuple("\n" * number + self._thinking.close for number in range(3))
        while True:
            found = tape.first(marks, tape.at)
            if found is not None:
                tape.at, mark = found
                told.reasoning(tape.settle())
                tape.at += len(mark)
                tape.settle()
                self.open = False
                yield from self._line_breaks(tape)
                return
            tape.at = tape.end - tape.num_doubtful(marks, tape.at)
            told.reasoning(tape.settle())
            if tape.ended:
                return
            yield

    @staticmethod
    def _line_breaks(tape: Tape) -> Reading[None]:
        yield from tape.over(_LINE_BREAKS)
        tape.settle()
