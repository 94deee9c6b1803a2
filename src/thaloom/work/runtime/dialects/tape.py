"""Text that is still coming, read by straight-line code that waits where it must.

A parser is a generator: it yields when it needs to see more than there is, and goes on when more was added or the text
has ended. So it reads as if all the text were there, and how the text was cut makes no difference to it.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from typing import TypeAlias, TypeVar

T = TypeVar("T")
Reading: TypeAlias = Generator[None, None, T]
BLANKS = re.compile(r"[ \t\r\n]*")
"""White space as JSON has it."""


class Tape:
    """Positions count from the beginning of the whole text. What lies before `settled` is forgotten; a parser may set
    `at` back to any position after it, which is how it changes its mind."""

    def __init__(self) -> None:
        self._text = ""
        self._base = 0
        self.at = 0
        self.settled = 0
        self.ended = False

    @property
    def end(self) -> int:
        return self._base + len(self._text)

    def add(self, text: str) -> None:
        self._text = self._text[self.settled - self._base :] + text
        self._base = self.settled

    def ahead(self) -> str:
        """What there is from `at` on."""
        return self._text[self.at - self._base :]

    def between(self, start: int, end: int) -> str:
        return self._text[start - self._base : end - self._base]

    def settle(self) -> str:
        """What lies between `settled` and `at`, which is read for good now."""
        text = self.between(self.settled, self.at)
        self.settled = self.at
        return text

    def literal(self, wanted: str) -> Reading[bool]:
        """Whether this comes next; if so it is read over."""
        while True:
            there = self.between(self.at, self.at + len(wanted))
            if there == wanted:
                self.at += len(wanted)
                return True
            if self.ended or not wanted.startswith(there):
                return False
            yield

    def peek(self) -> Reading[str]:
        """The next character; empty at the end."""
        while self.at == self.end and not self.ended:
            yield
        return self.between(self.at, self.at + 1)

    def over(self, pattern: re.Pattern[str]) -> Reading[str]:
        """Read over as much as matches; of a pattern that may match nothing and goes on character by character."""
        start = self.at
        while True:
            match = pattern.match(self._text, self.at - self._base)
            if match is not None:
                self.at = self._base + match.end()
            if self.at < self.end or self.ended:
                return self.between(start, self.at)
            yield

    def blanks(self) -> Reading[str]:
        return (yield from self.over(BLANKS))

    def closing(self, mark: str) -> Reading[bool]:
        """Read over this, and white space before it, if it comes: also if the text was cut off in the middle of it."""
        start = self.at
        yield from self.blanks()
        if (yield from self.literal(mark)):
            return True
        if self.ended and self.at < self.end and mark.startswith(self.ahead()):
            self.at = self.end
            return True
        self.at = start
        return False

    def until(self, marks: Sequence[str], limit: int | None = None) -> Reading[str | None]:
        """Read up to the first of these, and not over it. None at the end, or after `limit` characters without one;
        then `at` is of no use."""
        start = looked = self.at
        while True:
            found = self.first(marks, looked)
            if found is not None:
                self.at, mark = found
                if limit is None or self.at - start <= limit:
                    return mark
            looked = self.end - self.num_doubtful(marks, looked)
            if found is not None or self.ended or (limit is not None and looked - start > limit):
                self.at = self.end
                return None
            yield

    def first(self, marks: Sequence[str], start: int) -> tuple[int, str] | None:
        """Which of these begins first after `start`, and where; of several the longest."""
        found = [(at, -len(mark), mark) for mark in marks if (at := self._text.find(mark, start - self._base)) >= 0]
        if not found:
            return None
        at, _, mark = min(found)
        return self._base + at, mark

    def num_doubtful(self, marks: Sequence[str], start: int) -> int:
        """How many characters at the end, after `start`, may be the beginning of one of these."""
        if self.ended:
            return 0
        longest = min(self.end - start, max(map(len, marks), default=1) - 1)
        for length in range(longest, 0, -1):
            tail = self._text[-length:]
            if any(mark.startswith(tail) for mark in marks):
                return length
        return 0
