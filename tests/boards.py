"""Boards of pages whose stores can be watched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from thaloom.kernel.memory.board import Board
from thaloom.kernel.memory.board_file import FLOOR, GOAL_AT, HELD, NUM_PAGES_AT, SEATS, SECURED, TAKEN_AT, base_of


class Stores:
    """The words of a board, and a call before each store into them."""

    def __init__(self, words: Any, before: Callable[[str], None]) -> None:
        self._words = words
        self._before = before

    def __getitem__(self, at: Any) -> Any:
        return self._words[at]

    def __setitem__(self, at: int, value: int) -> None:
        self._before(f"word {at} becomes {value}")
        self._words[at] = value


def watch(board: Board, before: Callable[[str], None]) -> Board:
    """From now on; also seats that are taken from here on."""
    stores = Stores(board._file.words, before)
    board._words = board._books.words = stores  # type: ignore[assignment]
    return board


def assert_no_oversell(board: Board) -> None:
    """Between any two stores; to be asked by whoever has the turn, as nobody else sees all words at one moment."""
    words = board._file.words
    mask = words[TAKEN_AT]
    begins = [base_of(seat) for seat in range(SEATS) if mask >> seat & 1]
    secured = [max(words[begin + SECURED], words[begin + HELD]) for begin in begins]
    assert sum(secured) <= words[NUM_PAGES_AT], f"oversold: {secured} of {words[NUM_PAGES_AT]}"
    assert sum(words[begin + FLOOR] for begin in begins) <= words[GOAL_AT], "more is promised than there will be"
