"""What follows from the seats of a board, and turns at changing it. See kernel.memory.board for the whole."""

from __future__ import annotations

import os
import threading

from thaloom.base import futex
from thaloom.base.errors import DeadlineExceeded
from thaloom.kernel.memory.board_file import (
    BELL,
    GOAL_AT,
    HELD,
    HOLDER_AT,
    NUM_PAGES_AT,
    OWED_AT,
    PATIENCE_S,
    ROOM_AT,
    SEATS,
    SECURED,
    TAKEN_AT,
    TARGET,
    UNSETTLED_AT,
    WANTED,
    BoardFile,
    base_of,
    seat_at,
)  # fmt: skip
from thaloom.kernel.memory.sharing import Share, room, settled, targets


class Books:
    """`with books:` is a turn: everybody else waits, and all that follows from the words is right at its beginning. Set
    words[UNSETTLED_AT] before the first store of a turn; `settle` takes it back. Threads of one process take turns too.
    """

    def __init__(self, file: BoardFile) -> None:
        self.file = file
        self.words = file.words
        self._pid = os.getpid()
        self._thread_lock = threading.Lock()
        self._rung: list[int] = []
        self._mask, self._seats = 0, list[int]()

    def __enter__(self) -> None:
        if not self._thread_lock.acquire(timeout=2 * PATIENCE_S):
            raise DeadlineExceeded("another thread of this process does not end its turn at a board of pages")
        try:
            self.file.lock()
        except BaseException:
            self._thread_lock.release()
            raise
        self.words[HOLDER_AT] = self._pid
        if self.words[UNSETTLED_AT]:
            self._repair()

    def _repair(self) -> None:
        """Somebody was killed in a turn. Whom it did not live to wake is not known, so all look for themselves."""
        self.settle()
        for begin in self.seats():
            self._ring(begin)

    def __exit__(self, *_: object) -> None:
        rung, self._rung = self._rung, []
        self.file.unlock()
        self._thread_lock.release()
        for address in rung:
            futex.wake(address)

    def seats(self) -> list[int]:
        """Where the words of those begin that are taken, by the living or the dead."""
        mask = self.words[TAKEN_AT]
        if mask != self._mask:
            self._mask, self._seats = mask, [base_of(seat) for seat in range(SEATS) if mask >> seat & 1]
        return self._seats

    def shares(self) -> list[Share]:
        """Of these, with the owner left out."""
        words = self.words
        return [Share("", *words[begin : begin + WANTED + 1]) for begin in self.seats()]

    def settle(self) -> None:
        """Compute all that follows from what is promised, held and wanted, and ring for whom it changed."""
        words = self.words
        shares = self.shares()
        goal = words[GOAL_AT]
        num_pages, secured = settled(shares, words[NUM_PAGES_AT], goal)
        words[NUM_PAGES_AT] = num_pages  # before what it leaves is promised: no oversell at any store
        num_free, owed = num_pages, num_pages != goal
        for begin, (_, floor, before, _, _, held, _), pages in zip(self._seats, shares, secured, strict=True):
            if pages != before:
                words[begin + SECURED] = pages
            if pages != floor:
                owed = True
            num_free -= pages if pages > held else held
        words[ROOM_AT] = num_free
        words[OWED_AT] = owed
        for begin, share, target in zip(self._seats, shares, targets(shares, goal), strict=True):
            before = words[begin + TARGET]
            if target != before:
                words[begin + TARGET] = target
            if (target < before and target < share.held) or (target > share.held and self.offer(begin)):
                self._ring(begin)
        words[UNSETTLED_AT] = 0

    def offer(self, begin: int) -> int:
        """How many pages the seat whose words begin there may take at once. Within its floor it depends on nobody."""
        words = self.words
        held = words[begin + HELD]
        return max(0, min(words[begin + TARGET] - held, max(0, words[begin + SECURED] - held) + words[ROOM_AT]))

    def move(self, begin: int, pages: int) -> None:
        """A change of what one seat holds that changes no target (kernel.memory.sharing.targets says when), and the end
        of a turn."""
        words = self.words
        held, secured = words[begin + HELD], words[begin + SECURED]
        words[UNSETTLED_AT] = 1
        words[begin + HELD] = held + pages
        freed = max(held, secured) - max(held + pages, secured)
        if freed:
            words[ROOM_AT] += freed
        if freed > 0:
            for other in self.seats():
                if words[other + TARGET] > words[other + HELD]:
                    self._ring(other)
        words[UNSETTLED_AT] = 0

    def sweep(self) -> dict[str, int]:
        """Take away the seats of the dead: their names, and how many pages came back."""
        found = {}
        for begin in self.seats():
            seat = seat_at(begin)
            if not self.file.is_sat_on(seat):
                found[self.file.name(seat)] = self.words[begin + HELD]
                self.words[UNSETTLED_AT] = 1
                self.words[TAKEN_AT] &= ~(1 << seat)
        if found:
            self.settle()
        return found

    def _ring(self, begin: int) -> None:
        self.words[begin + BELL] += 1
        self._rung.append(self.file.address(begin + BELL))

    def check(self) -> None:
        """Prove the invariants (AssertionError otherwise). In a turn."""
        words = self.words
        shares = self.shares()
        num_pages, goal = words[NUM_PAGES_AT], words[GOAL_AT]
        assert not words[UNSETTLED_AT], "somebody was killed in a turn, and nobody has seen to it"
        for share in shares:
            assert 0 <= share.secured <= share.floor <= share.ceiling, f"floor and ceiling are at odds: {share}"
            assert share.held >= 0, f"less than nothing is held: {share}"
            assert share.wanted >= 0, f"less than nothing is wanted: {share}"
        assert num_pages >= goal >= 0, "a pool is smaller than it is to be"
        assert sum(share.floor for share in shares) <= goal, "more is promised than there will be"
        num_free = room(shares, num_pages)
        assert num_free >= 0, "oversold"
        assert words[ROOM_AT] == num_free, "the room is not what seats leave"
        owed = num_pages != goal or any(share.secured != share.floor for share in shares)
        assert bool(words[OWED_AT]) == owed, "what is owed is not known"
        assert not (owed and num_free), "pages are free, and a floor or a smaller pool waits for them"
        assert [words[begin + TARGET] for begin in self.seats()] == targets(shares, goal), "old targets"
