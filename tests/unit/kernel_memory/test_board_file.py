"""Files that are no boards are refused, and left as they are."""

from __future__ import annotations

import random
import struct
from contextlib import closing
from pathlib import Path

import pytest

from tests.mortals import die
from thaloom.base.errors import StateUnusable
from thaloom.base.shared_words import VERSION_AT
from thaloom.kernel.memory.board import Board
from thaloom.kernel.memory.board_file import (
    CEILING,
    FLOOR,
    GOAL_AT,
    HEADER,
    HELD,
    NAME,
    NUM_PAGES_AT,
    PAGE_BYTES_AT,
    SEAT_WORDS,
    SECURED,
    TAKEN_AT,
    TARGET,
    UNSETTLED_AT,
    base_of,
)  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A board with two seats, of nobody who lives."""
    path = tmp_path / "board"
    with closing(Board.create(path, 50)) as board:
        one, two = board.join("one", floor=10), board.join("two", floor=5, ceiling=30)
        one.take(20)
        two.take(3)
        die(one)
        die(two)
    return path


def changed(path: Path, word: int, value: int) -> bytes:
    data = bytearray(path.read_bytes())
    struct.pack_into("<q", data, 8 * word, value)
    path.write_bytes(data)
    return bytes(data)


@pytest.mark.parametrize("data", [b"", b"SQLite format 3\0", bytes(100_000)])
def test_a_file_of_another_length_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "board").write_bytes(data)
    for opened in (lambda: Board.open(tmp_path / "board"), lambda: Board.create(tmp_path / "board", 10)):
        with pytest.raises(StateUnusable, match=f"no board of pages: {len(data)} bytes"):
            opened()
    assert (tmp_path / "board").read_bytes() == data


def test_a_board_cut_short_is_refused(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(StateUnusable, match="bytes"):
        Board.open(path)


@pytest.mark.parametrize(
    ("word", "value", "words"),
    [
        (0, 0, "no board of pages"),
        (VERSION_AT, 2, "version 2 with 60 seats, this Thaloom reads version 1"),
        (PAGE_BYTES_AT, 0, "without a size"),
        (NUM_PAGES_AT, 19, "smaller than it is to be"),
        (GOAL_AT, -1, "contradict"),
        (GOAL_AT, 14, "more is promised"),
        (TAKEN_AT, -1, "not there"),
        (TAKEN_AT, 7, "no name"),
        (TAKEN_AT, 1, "room"),
        (base_of(0) + HELD, 60, "oversold"),
        (base_of(0) + HELD, -60, "less than nothing"),
        (base_of(0) + FLOOR, 60, "more is promised"),
        (base_of(0) + SECURED, 11, "at odds"),
        (base_of(1) + CEILING, 4, "at odds"),
        (base_of(1) + TARGET, 4, "old targets"),
        (base_of(1) + NAME, -1, "contradict"),
    ],
)
def test_numbers_that_contradict_each_other_are_refused(path: Path, word: int, value: int, words: str) -> None:
    data = changed(path, word, value)
    with pytest.raises(StateUnusable, match=words):
        Board.open(path)
    assert path.read_bytes() == data or word not in (0, VERSION_AT, PAGE_BYTES_AT)


def test_what_was_left_unsettled_is_settled(path: Path) -> None:
    changed(path, base_of(1) + TARGET, 4)
    changed(path, UNSETTLED_AT, 1)
    with closing(Board.open(path)) as board:
        board.check()
        assert board.sweep() == {"one": 20, "two": 3}
        assert board.look().free == 50


def test_any_change_at_all_is_refused_or_harmless(path: Path) -> None:
    sound = path.read_bytes()
    chance = random.Random(1)
    words = [*range(HEADER), *range(base_of(0), base_of(0) + 2 * SEAT_WORDS)]
    for _ in range(600):
        path.write_bytes(sound)
        for _ in range(chance.randrange(1, 4)):
            changed(path, chance.choice(words), chance.choice([0, 1, -1, 49, 1 << 40, chance.getrandbits(63)]))
        try:
            board = Board.open(path)
        except StateUnusable:
            continue
        with closing(board):
            board.check()
            board.sweep()
            board.check()


def test_no_file_is_no_board(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Board.open(tmp_path / "none")
