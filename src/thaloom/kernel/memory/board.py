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

from dataclasses import dataclass
from pathlib import Path

from thaloom.base.errors import BadParameter, NameTaken, StateUnusable
from thaloom.base.units import MIB
from thaloom.kernel.memory.board_books import Books
from thaloom.kernel.memory.board_file import (
    CEILING,
    FLOOR,
    GOAL_AT,
    HELD,
    NAME,
    NUM_PAGES_AT,
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
from thaloom.kernel.memory.seat import Seat
from thaloom.kernel.memory.sharing import ENDLESS, Share, admit, admit_size, reclaims, targets

PAGE_BYTES = 2 * MIB


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

    def be_patient(self, patience_s: float) -> None:
        """How long to wait for a turn: for who has others to answer meanwhile."""
        self._file.patience_s = patience_s

    def close(self) -> None:
        """Leave its seats first."""
        self._file.close()

    def join(self, owner: str, *, floor: int = 0, ceiling: int = ENDLESS, priority: int = 0) -> Seat:
        """A seat that holds and wants nothing yet. Where its floor is lent out, others are asked for it at once, and
        `owed` says how much is missing. Raises OutOfMemory if it could not be promised, NameTaken while an owner of
        that name lives, StateUnusable if no seat is free."""
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
        return Seat(self._books, owner, seat, descriptor)

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
            shares = {share.owner: share for share in self._shares()}
            now = shares.pop(owner)
            begin = next(begin for begin in self._books.seats() if self._file.name(seat_at(begin)) == owner)
            floor = now.floor if floor is None else floor
            ceiling = now.ceiling if ceiling is None else ceiling
            _refuse_bounds(floor, ceiling)
            admit(owner, floor, list(shares.values()), self._words[GOAL_AT])
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


def _refuse_bounds(floor: int, ceiling: int) -> None:
    if not 0 <= floor <= ceiling <= ENDLESS:
        raise BadParameter(
            f"a floor of {floor} pages does not lie between none and a ceiling of {ceiling}", param="floor"
        )
