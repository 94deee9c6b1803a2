"""One pool of pages for several workers: taking, lending, asking back, and the seats of the dead."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.mortals import die
from thaloom.base import shared_words
from thaloom.base.errors import BadParameter, DeadlineExceeded, NameTaken, OutOfMemory, StateUnusable
from thaloom.kernel.memory import seat
from thaloom.kernel.memory.board import PAGE_BYTES, Board
from thaloom.kernel.memory.board_file import SEATS
from thaloom.kernel.memory.seat import Seat

Join = Callable[..., Seat]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "boards" / "cpu-0"


@pytest.fixture
def board(path: Path) -> Iterator[Board]:
    with closing(Board.create(path, 100)) as board:
        yield board
        board.check()


@pytest.fixture
def join(board: Board, path: Path) -> Iterator[Join]:
    """Each seat by an opening of its own, as another process would have it."""
    boards = []

    def join(owner: str, **promised: int) -> Seat:
        boards.append(Board.open(path))
        return boards[-1].join(owner, **promised)

    yield join
    board.check()
    for each in boards:
        each.close()


def test_pages_are_lent_and_asked_back(board: Board, join: Join) -> None:
    one, two = join("one", floor=10), join("two", floor=20)
    assert one.take(500) == 80
    assert (one.target(), one.held(), one.offered(), board.look().free) == (80, 80, 0, 20)
    assert two.take(20) == 20, "a floor depends on nobody"
    assert two.take(25) == 0, "but the rest is lent out"
    assert (two.target(), one.target()) == (45, 55), "who takes wants, so others are asked"
    assert board.look().reclaims == {"one": 25}
    one.give(25)
    assert (two.offered(), one.offered()) == (25, 0), "what is given back is for who waits"
    assert one.take(1) == 0
    assert two.take(25) == 25
    two.want(20)
    assert two.target() == 20, "one still wants more"
    two.give(25)
    assert one.take(500) == 25
    one.leave()
    assert board.look().free == 80
    assert two.offered() == 0, "it wants no more than it has"


def test_what_nobody_wants_stays_where_it_is(join: Join) -> None:
    one, two = join("one"), join("two")
    one.take(70)
    one.want(0)
    assert one.target() == 70
    two.take(30)
    assert one.target() == 70
    two.take(1)
    assert one.target() == 69


def test_a_floor_that_is_lent_out_is_owed(board: Board, join: Join) -> None:
    one = join("one")
    one.take(100)
    two = join("two", floor=40)
    assert (two.owed(), two.take(40), one.target()) == (40, 0, 60)
    one.give(15)
    assert (two.owed(), two.offered(), two.take(40)) == (25, 15, 15)
    one.give(25)
    assert (two.owed(), two.take(25)) == (0, 25)
    with pytest.raises(OutOfMemory, match=r"three needs a floor of 61 pages, 60 of 100 .* two 40"):
        join("three", floor=61)
    assert [share.owner for share in board.look().shares] == ["one", "two"]


def test_promises_are_changed_while_it_works(board: Board, join: Join) -> None:
    one, two = join("one"), join("two", priority=-1)
    one.take(60)
    two.take(60)
    assert (one.target(), two.target(), two.held()) == (60, 40, 40)
    board.change("two", priority=1)
    assert (one.target(), two.target()) == (40, 60)
    board.change("two", ceiling=10)
    assert (two.target(), two.offered()) == (10, 0)
    board.change("one", floor=70, ceiling=80)
    assert (one.owed(), one.target()) == (10, 60)
    two.give(30)
    assert one.owed() == 0
    board.change("one", floor=0)
    assert board.look().shares[0][:3] == (0, 0, 80)
    with pytest.raises(OutOfMemory):
        board.change("one", floor=101, ceiling=200)
    with pytest.raises(BadParameter, match="81 pages does not lie between none and a ceiling of 80"):
        board.change("one", floor=81)
    with pytest.raises(KeyError):
        board.change("three", floor=1)


def test_a_pool_grows_at_once_and_shrinks_as_pages_come_back(board: Board, join: Join) -> None:
    one = join("one", floor=30)
    one.take(120)
    board.resize(110)
    assert one.take(20) == 10
    board.resize(50)
    assert (one.target(), board.look().num_pages, board.look().goal) == (50, 110, 50)
    one.give(40)
    assert board.look().num_pages == 70
    one.give(30)
    assert (board.look().num_pages, one.held()) == (50, 40)
    assert one.take(20) == 10
    with pytest.raises(OutOfMemory, match="30 pages are promised as floors, a pool of 29 cannot keep that: one 30"):
        board.resize(29)
    with pytest.raises(ValueError, match="-1"):
        board.resize(-1)


def test_the_dead_leave_everything_to_who_asks_next(board: Board, join: Join) -> None:
    one, two = join("one", floor=50), join("two")
    one.take(90)
    assert two.take(60) == 10
    die(one)
    assert two.take(50) == 50
    again = join("one", floor=40)
    die(again)
    assert board.sweep() == {"one": 0}
    assert board.sweep() == {}
    assert board.look().free == 40


def test_a_name_has_one_seat(join: Join) -> None:
    one = join("one")
    with pytest.raises(NameTaken, match="'one'"):
        join("one")
    die(one)
    join("one")


def test_there_are_so_many_seats(board: Board) -> None:
    seats = [board.join(str(number)) for number in range(SEATS)]
    with pytest.raises(StateUnusable, match="all 60 seats"):
        board.join("one more")
    seats[7].leave()
    assert board.join("x" * 128).take(3) == 3
    board.check()


def test_nonsense_is_refused(board: Board, join: Join) -> None:
    one = join("one")
    one.take(5)
    for refused in (lambda: one.give(6), lambda: one.give(-1), lambda: one.take(-1), lambda: one.want(-1)):
        with pytest.raises(ValueError, match="pages"):
            refused()
    with pytest.raises(ValueError, match="name"):
        join("")
    with pytest.raises(ValueError, match="name"):
        join("x" * 129)
    with pytest.raises(BadParameter):
        join("two", floor=-1)
    with pytest.raises(ValueError, match="-1"):
        Board.create(Path("never"), -1)
    assert one.held() == 5


def test_who_has_left_does_nothing_more(join: Join) -> None:
    one = join("one")
    one.leave()
    one.leave()
    for refused in (lambda: one.give(0), lambda: one.take(1), lambda: one.want(1)):
        with pytest.raises(ValueError, match="has left"):
            refused()


def test_it_rings_for_whom_it_changed_and_for_nobody_else(join: Join) -> None:
    one, two, three = join("one"), join("two"), join("three", floor=5)
    one.take(90)
    assert not any(each.rung() for each in (one, two, three))
    two.take(50)
    assert (one.rung(), two.rung(), three.rung()) == (True, False, False), "one is asked, and two did it"
    assert not one.rung()
    one.give(one.held() - one.target())
    assert (one.rung(), two.rung(), three.rung()) == (False, True, False)
    two.take(50)
    two.leave()
    assert one.rung(), "it wants what came free"


def test_who_sleeps_is_woken(join: Join) -> None:
    one, two = join("one"), join("two")
    one.take(100)
    heard: list[bool] = []
    sleeper = threading.Thread(target=lambda: heard.append(one.wait(60)))
    sleeper.start()
    two.take(10)
    sleeper.join(60)
    assert heard == [True]
    assert one.target() == 90
    assert not one.wait(0.001)


def test_who_sleeps_looks_for_the_dead_now_and_then(join: Join, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seat, "SWEEP_S", 0.01)
    one, two = join("one"), join("two")
    one.take(100)
    two.take(10)
    two.rung()
    die(one)
    assert two.wait(60)
    assert two.take(10) == 10


def test_a_stopped_process_is_named_and_not_waited_for(
    board: Board, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_words, "PATIENCE_S", 0.01)
    one = join("one")
    with board._books, pytest.raises(DeadlineExceeded, match=r"process \d+ was stopped"):
        one.take(1)
    assert one.take(1) == 1


def test_a_board_that_is_there_stays_as_it_is(board: Board, path: Path) -> None:
    board.join("one").take(30)
    with closing(Board.create(path, 5)) as again:
        assert again.page_bytes == PAGE_BYTES
        assert (again.look().num_pages, again.look().free) == (100, 70)
    assert [found.name for found in path.parent.iterdir()] == [path.name]


def test_of_two_who_create_one_is_first(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = Path.hardlink_to

    def late(self: Path, target: Path) -> None:
        monkeypatch.undo()
        Board.create(path, 7).close()
        link(self, target)

    monkeypatch.setattr(Path, "hardlink_to", late)
    with closing(Board.create(path, 9)) as board:
        assert board.look().num_pages == 7
    assert [found.name for found in path.parent.iterdir()] == [path.name]


def test_who_sits_at_a_board_that_was_replaced_falls_back_to_what_it_was_promised(
    board: Board, join: Join, path: Path
) -> None:
    """The other one lends the same pages."""
    seat = join("one", floor=10)
    assert seat.take(50) == 50
    path.unlink()
    other = Board.create(path, 100)
    assert (seat.target(), seat.held()) == (10, 50)
    assert seat.take(1) == 0
    seat.give(45)
    assert (seat.target(), seat.take(50), seat.held()) == (10, 5, 10)
    assert other.look().free == 100
    other.close()


def test_who_sits_down_while_a_board_is_replaced_has_a_seat_at_the_one_it_opened(board: Board, path: Path) -> None:
    mine = Board.open(path)
    path.unlink()
    other = Board.create(path, 100)
    seat = mine.join("one", floor=10)
    assert [share.owner for share in board.look().shares] == ["one"]
    assert board.look().shares == mine.look().shares
    board.sweep()
    assert len(board.look().shares) == 1, "its lock is on the file that it writes"
    seat.leave()
    mine.close()
    other.close()
