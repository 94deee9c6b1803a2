"""What follows from the seats of a board, and turns at changing it. See kernel.memory.board for the whole."""

from __future__ import annotations

import os
import struct
import threading

from thaloom.base import futex
from thaloom.base.errors import DeadlineExceeded
from thaloom.base.shared_words import PATIENCE_S
from thaloom.kernel.memory.board_file import (
    BELL,
    GOAL_AT,
    HELD,
    HOLDER_AT,
    NUM_PAGES_AT,
    OWED_AT,
    ROOM_AT,
    SEATS,
    SECURED,
    TAKEN_AT,
    TARGET,
    UNSETTLED_AT,
    BoardFile,
    base_of,
    seat_at,
)  # fmt: skip
from thaloom.kernel.memory.sharing import Share, room, settled, targets

_NUMBERS = struct.Struct("<6q")
"""FLOOR to WANTED, in the order of a Share."""


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
        try:
            self.words[HOLDER_AT] = self._pid
            if self.words[UNSETTLED_AT]:
                self.settle(everybody=True)  # whom the one that was killed did not live to wake is not known
        except BaseException:
            self.__exit__()
            raise

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
        return [Share(*_NUMBERS.unpack_from(self.file.words, 8 * begin)) for begin in self.seats()]

    def settle(self, by: int | None = None, *, everybody: bool = False) -> None:
        """Compute all that follows from what is promised, held and wanted, and ring for whom it changed, but for the
        seat that did it, whose words begin at `by`; or for everybody."""
        words = self.words
        shares = self.shares()
        goal = words[GOAL_AT]
        num_pages, secured = settled(shares, words[NUM_PAGES_AT], goal)
        words[NUM_PAGES_AT] = num_pages  # before what it leaves is promised: no oversell at any store
        num_free, owed = num_pages, num_pages != goal
        for begin, share, pages in zip(self.seats(), shares, secured, strict=True):
            if pages != share.secured:
                words[begin + SECURED] = pages
            num_free -= max(pages, share.held)
            owed = owed or pages != share.floor
        words[ROOM_AT] = num_free
        words[OWED_AT] = owed
        self.aim(by, everybody=everybody)

    def aim(self, by: int | None, *, everybody: bool = False) -> None:
        """The part of it that follows from what is wanted: targets."""
        words = self.words
        shares = self.shares()
        for begin, share, target in zip(self.seats(), shares, targets(shares, words[GOAL_AT]), strict=True):
            before, held = words[begin + TARGET], share.held
            if target != before:
                words[begin + TARGET] = target
            is_asked, may_take = held > target < before, held < target and self.offer(begin) > 0
            if everybody or ((is_asked or may_take) and begin != by):
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
                if words[other + TARGET] > words[other + HELD] and other != begin:
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
        assert words[TAKEN_AT] >> SEATS == 0, "seats are taken that are not there"
        assert all(self.file.name(seat_at(begin)) for begin in self.seats()), "somebody has no name"
        assert num_pages >= goal >= 0, "a pool is smaller than it is to be"
        assert sum(share.floor for share in shares) <= goal, "more is promised than there will be"
        num_free = room(shares, num_pages)
        assert num_free >= 0, "oversold"
        assert words[ROOM_AT] == num_free, "the room is not what seats leave"
        owed = num_pages != goal or any(share.secured != share.floor for share in shares)
        assert bool(words[OWED_AT]) == owed, "what is owed is not known"
        assert not (owed and num_free), "pages are free, and a floor or a smaller pool waits for them"
        assert [words[begin + TARGET] for begin in self.seats()] == targets(shares, goal), "old targets"
