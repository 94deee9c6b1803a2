"""One pool of page credits for all workers of a device, in a file that they map: no process stands between them.

Every worker has a *seat*: what it is promised, what it holds, what it wants. How many pages it should hold follows from
all seats together (kernel.memory.sharing); whoever changes something computes that for everybody, in a turn of its own,
and rings the bell of those for whom it changed. The daemon looks at the same file, and may be away.

Anybody may be killed between any two stores. What counts is in single words: pages are taken by one store to what their
owner holds and given back by one, a seat is left by one. All else follows from these, and is computed again by whoever
comes next if the one before did not get that far (UNSETTLED). A seat whose lock nobody holds is a dead one's; its pages
come back with the next sweep. Each join sweeps, each take that gets less than it asks for, and each sleeper now and
then, who also hears the bells that somebody did not live to ring.

Credits are words of honour: a worker commits memory after `take`, and decommits it before `give`.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from thaloom.base import futex
from thaloom.base.errors import BadParameter, NameTaken, StateUnusable
from thaloom.base.units import MIB
from thaloom.kernel.memory.board_books import Books
from thaloom.kernel.memory.board_file import (
    BELL,
    CEILING,
    FLOOR,
    GOAL_AT,
    HELD,
    NAME,
    NUM_PAGES_AT,
    OWED_AT,
    PAGE_BYTES_AT,
    PRIORITY,
    SEATS,
    SECURED,
    TAKEN_AT,
    TARGET,
    UNSETTLED_AT,
    WANTED,
    BoardFile,
    base_of,
    name_words,
    seat_at,
)  # fmt: skip
from thaloom.kernel.memory.sharing import ENDLESS, Share, admit, admit_size, reclaims, targets

PAGE_BYTES = 2 * MIB
SWEEP_S = 1.0
"""How often who sleeps looks for the dead: until then pages of one who was killed may lie there, if nobody is refused
any meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """A board at one moment, in pages."""

    num_pages: int
    goal: int
    """What `num_pages` becomes as pages are given back."""
    shares: list[Share]
    targets: list[int]
    """Of each share."""

    @property
    def free(self) -> int:
        """Held by nobody; some of it may be kept for floors."""
        return self.num_pages - sum(share.held for share in self.shares)

    @property
    def reclaims(self) -> dict[str, int]:
        """Who is to give back how many."""
        return reclaims(self.shares, self.goal)


class Board:
    """One opening of a board; any thread may use it. Every method either does all it was asked or changes nothing, and
    raises DeadlineExceeded if a process was stopped in its turn (not if it was killed)."""

    def __init__(self, file: BoardFile) -> None:
        self._file = file
        self._words = file.words
        self._books = Books(file)
        self.page_bytes: int = file.words[PAGE_BYTES_AT]
        try:
            with self._books:
                self._books.check()
        except (AssertionError, ValueError) as error:
            file.close()
            raise StateUnusable(f"the numbers of a board of pages contradict each other: {error}") from error

    @classmethod
    def create(cls, path: Path, num_pages: int, *, page_bytes: int = PAGE_BYTES) -> Board:
        """The board at `path`, a new one if there is none. One that is there stays as large as it is: `resize` it.
        Raises StateUnusable, DiskFull."""
        if num_pages < 0:
            raise ValueError(f"no pool has {num_pages} pages")
        return cls(BoardFile.create(path, num_pages=num_pages, page_bytes=page_bytes))

    @classmethod
    def open(cls, path: Path) -> Board:
        """Raises FileNotFoundError, StateUnusable."""
        return cls(BoardFile(path))

    def close(self) -> None:
        """Leave its seats first."""
        self._file.close()

    def join(self, owner: str, *, floor: int = 0, ceiling: int = ENDLESS, priority: int = 0) -> Seat:
        """A seat that holds and wants nothing yet. Where its floor is lent out, others are asked for it at once, and
        `owed` says how much is missing. Raises OutOfMemory if it could not be promised, NameTaken while an owner of that
        name lives, StateUnusable if no seat is free."""
        name = name_words(owner)
        _refuse_bounds(floor, ceiling)
        with self._books:
            self._books.sweep()
            others = self._shares()
            if any(share.owner == owner for share in others):
                raise NameTaken(f"{owner!r} has a seat already")
            admit(owner, floor, others, self._words[GOAL_AT])
            seat, descriptor = self._sit_down()
            begin = base_of(seat)
            self._words[UNSETTLED_AT] = 1
            for word, number in enumerate(name, NAME):
                self._words[begin + word] = number
            numbers = {FLOOR: floor, SECURED: 0, CEILING: ceiling, PRIORITY: priority, HELD: 0, WANTED: 0, TARGET: 0}
            for word, number in numbers.items():
                self._words[begin + word] = number
            self._words[TAKEN_AT] |= 1 << seat
            self._books.settle()
        return Seat(self, self._books, owner, seat, descriptor)

    def _sit_down(self) -> tuple[int, int]:
        for seat in range(SEATS):
            if not self._words[TAKEN_AT] >> seat & 1 and (descriptor := self._file.sit_down(seat)) is not None:
                return seat, descriptor
        raise StateUnusable(f"all {SEATS} seats of this device's board of pages are taken")

    def change(
        self, owner: str, *, floor: int | None = None, ceiling: int | None = None, priority: int | None = None
    ) -> None:
        """What is promised to a seat. Raises KeyError if nobody of that name sits, OutOfMemory as `join`."""
        with self._books:
            shares = {
                share.owner: (begin, share) for begin, share in zip(self._books.seats(), self._shares(), strict=True)
            }
            begin, now = shares[owner]
            floor = now.floor if floor is None else floor
            ceiling = now.ceiling if ceiling is None else ceiling
            _refuse_bounds(floor, ceiling)
            admit(owner, floor, [share for _, share in shares.values() if share is not now], self._words[GOAL_AT])
            # In this order secured <= floor <= ceiling holds at every store.
            self._words[UNSETTLED_AT] = 1
            self._words[begin + CEILING] = max(ceiling, now.ceiling)
            self._words[begin + SECURED] = min(floor, now.secured)
            self._words[begin + FLOOR] = floor
            self._words[begin + CEILING] = ceiling
            self._words[begin + PRIORITY] = now.priority if priority is None else priority
            self._books.settle()

    def resize(self, num_pages: int) -> None:
        """Larger at once; smaller as pages are given back, which are asked for now: `look` says from whom. Raises
        OutOfMemory if floors would not fit."""
        if num_pages < 0:
            raise ValueError(f"no pool has {num_pages} pages")
        with self._books:
            admit_size(num_pages, self._shares())
            self._words[UNSETTLED_AT] = 1
            self._words[GOAL_AT] = num_pages
            self._books.settle()

    def sweep(self) -> dict[str, int]:
        """Take away the seats of the dead, and see to what they left undone: their names, and how many pages came back
        from each. Who ends a worker calls it, so that nobody waits until others look."""
        with self._books:
            return self._books.sweep()

    def look(self) -> Pool:
        with self._books:
            shares, goal = self._shares(), self._words[GOAL_AT]
            num_pages = self._words[NUM_PAGES_AT]
        return Pool(num_pages=num_pages, goal=goal, shares=shares, targets=targets(shares, goal))

    def _shares(self) -> list[Share]:
        seats = zip(self._books.seats(), self._books.shares(), strict=True)
        return [share._replace(owner=self._file.name(seat_at(begin))) for begin, share in seats]

    def check(self) -> None:
        """Prove the invariants (AssertionError otherwise)."""
        with self._books:
            self._books.check()


class Seat:
    """What one worker does at a board. It lives as long as the process, or until `leave`; any thread may use it."""

    def __init__(self, board: Board, books: Books, owner: str, number: int, descriptor: int) -> None:
        self.owner = owner
        self.board = board
        self._books = books
        self._words = books.words
        self._begin = base_of(number)
        self._number = number
        self._descriptor = descriptor
        self._heard: int = self._words[self._begin + BELL]
        self._target_at, self._held_at = self._begin + TARGET, self._begin + HELD

    def target(self) -> int:
        """How many pages it should hold. One read: ask it between two steps."""
        return self._words[self._target_at]

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
        self._books.settle()

    def take(self, num_pages: int) -> int:
        """As many of these as may be had at once; who takes wants, so others are asked for the rest until `want` says
        otherwise."""
        if num_pages < 0:
            raise ValueError(f"nobody takes {num_pages} pages")
        with self._turn():
            wanted = self.held() + num_pages
            if wanted > self._words[self._begin + WANTED]:
                self._wish(wanted)
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
            if left >= self.target() and not self._words[OWED_AT]:
                self._books.move(self._begin, -num_pages)
            else:
                self._words[UNSETTLED_AT] = 1
                self._words[self._held_at] = left
                self._books.settle()

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
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return False
            begun = time.monotonic()
            futex.wait(self._books.file.address(self._begin + BELL), self._heard & 0xFFFFFFFF, min(left_s, SWEEP_S))
            if time.monotonic() - begun >= SWEEP_S:
                self.board.sweep()
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

    def _turn(self) -> Books:
        if self._descriptor < 0:
            raise ValueError(f"{self.owner!r} has left")
        return self._books


def _refuse_bounds(floor: int, ceiling: int) -> None:
    if not 0 <= floor <= ceiling <= ENDLESS:
        raise BadParameter(
            f"a floor of {floor} pages does not lie between none and a ceiling of {ceiling}", param="floor"
        )
