"""A worker's seat at a board: how it takes, gives back, and hears that it should. The whole: kernel.memory.board."""

from __future__ import annotations

import os
import time

from thaloom.base import futex
from thaloom.kernel.memory.board_books import Books
from thaloom.kernel.memory.board_file import (
    BELL,
    FLOOR,
    HELD,
    OWED_AT,
    SECURED,
    TAKEN_AT,
    TARGET,
    UNSETTLED_AT,
    WANTED,
    base_of,
)  # fmt: skip

SWEEP_S = 1.0
"""How often who sleeps looks for the dead: until then pages of one who was killed may lie there, if nobody is refused
any meanwhile."""


class Seat:
    """What one worker does at a board. It lives as long as the process, or until `leave`, which comes when no thread
    uses it any more."""

    def __init__(self, books: Books, owner: str, number: int, descriptor: int) -> None:
        self.owner = owner
        self._books = books
        self._words = books.words
        self._begin = base_of(number)
        self._number = number
        self._descriptor = descriptor
        self._heard: int = self._words[self._begin + BELL]
        self._swept = time.monotonic()
        self._target_at, self._held_at = self._begin + TARGET, self._begin + HELD

    def target(self) -> int:
        """How many pages it should hold. Next to nothing: ask it between two steps."""
        target = self._words[self._target_at]
        return min(target, self._words[self._begin + FLOOR]) if self._abandoned() else target

    def held(self) -> int:
        return self._words[self._held_at]

    def offered(self) -> int:
        """How many `take` would give now, if nobody else were quicker and nobody dead."""
        return self._books.offer(self._begin)

    def owed(self) -> int:
        """Of its floor, what others have still lent."""
        return self._words[self._begin + FLOOR] - self._words[self._begin + SECURED]

    def want(self, num_pages: int) -> None:
        """How many pages it would hold if it could. Costs nothing while it stays the same."""
        if num_pages < 0:
            raise ValueError(f"nobody wants {num_pages} pages")
        if num_pages != self._words[self._begin + WANTED]:
            with self._turn():
                self._wish(num_pages)

    def _wish(self, num_pages: int) -> None:
        self._words[UNSETTLED_AT] = 1
        self._words[self._begin + WANTED] = num_pages
        self._books.aim(self._begin)

    def take(self, num_pages: int) -> int:
        """As many of these as may be had at once; who takes wants, so others are asked for the rest until `want` says
        otherwise."""
        if num_pages < 0:
            raise ValueError(f"nobody takes {num_pages} pages")
        with self._turn():
            wanted = self.held() + num_pages
            if wanted > self._words[self._begin + WANTED]:
                self._wish(wanted)
            if self._abandoned():
                num_pages = max(0, min(num_pages, self._words[self._begin + FLOOR] - self.held()))
            if self.offered() < num_pages:
                self._books.sweep()
            taken = min(num_pages, self.offered())
            if taken:
                self._books.move(self._begin, taken)
        return taken

    def give(self, num_pages: int) -> None:
        """Pages back, whose memory it has given back before. What it wants stays what it was."""
        with self._turn():
            left = self.held() - num_pages
            if not 0 <= left <= self.held():
                raise ValueError(f"{self.owner!r} holds {self.held()} pages and cannot give {num_pages}")
            if left >= self._words[self._target_at] and not self._words[OWED_AT]:
                self._books.move(self._begin, -num_pages)
            else:
                self._words[UNSETTLED_AT] = 1
                self._words[self._held_at] = left
                self._books.settle(by=self._begin)

    def rung(self) -> bool:
        """Whether its target fell below what it holds, or pages came free that it waits for, since this was asked last.
        Now and then for no reason."""
        bell = self._words[self._begin + BELL]
        rung, self._heard = bell != self._heard, bell
        return rung

    def wait(self, timeout_s: float) -> bool:
        """Sleep until it is rung for, at most so long; whether it was. One thread of a process."""
        deadline = time.monotonic() + timeout_s
        while not self.rung():
            now = time.monotonic()
            if now >= deadline:
                return False
            if now - self._swept >= SWEEP_S:
                self._swept = now
                with self._turn():
                    self._books.sweep()
                continue
            pause_s = min(deadline - now, self._swept + SWEEP_S - now)
            futex.wait(self._books.file.address(self._begin + BELL), self._heard & 0xFFFFFFFF, pause_s)
        return True

    def leave(self) -> None:
        """Give back everything, whose memory it has given back before, and go. Harmless when repeated."""
        if self._descriptor >= 0:
            with self._books:
                self._words[UNSETTLED_AT] = 1
                self._words[TAKEN_AT] &= ~(1 << self._number)
                self._books.settle()
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)

    def _abandoned(self) -> bool:
        """Whether the daemon has put another board in this one's place, which lends the same pages: then nobody here
        has more than was promised to him."""
        return self._descriptor >= 0 and os.fstat(self._descriptor).st_nlink == 0

    def _turn(self) -> Books:
        if self._descriptor < 0:
            raise ValueError(f"{self.owner!r} has left")
        return self._books
