"""A process killed between any two stores of any change loses nothing, keeps nothing, and blocks nobody."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.boards import assert_no_oversell, watch
from tests.killing import Step, killed_at
from tests.mortals import die
from thaloom.kernel.memory.board import Board
from thaloom.kernel.memory.seat import Seat

NUM_PAGES = 40


def opened(path: Path, step: Step) -> Board:
    """As the one that is killed sees it; at no store is anything sold twice."""

    def before(name: str) -> None:
        assert_no_oversell(board)
        step(name)

    board = Board.open(path)
    return watch(board, before)


def join_and_leave(path: Path, step: Step) -> None:
    opened(path, step).join("killed", floor=12, ceiling=30, priority=1).leave()


def take_and_give(path: Path, step: Step) -> None:
    seat = opened(path, step).join("killed", floor=5)
    seat.take(4)
    seat.take(20)
    assert seat.held() > 2
    seat.give(2)
    seat.want(1)
    seat.give(seat.held())


def promise(path: Path, step: Step) -> None:
    board = opened(path, step)
    seat = board.join("killed")
    seat.take(8)
    board.change("killed", floor=10, ceiling=11, priority=2)
    board.change("killed", floor=3, ceiling=4)
    board.change("killed", floor=8, ceiling=9)
    board.change("patient", floor=0)


def resize(path: Path, step: Step) -> None:
    board = opened(path, step)
    for num_pages in (30, 50, 20, NUM_PAGES):
        board.resize(num_pages)


def sweep(path: Path, step: Step) -> None:
    opened(path, step).sweep()


WORKS = [join_and_leave, take_and_give, promise, resize, sweep]


@pytest.mark.parametrize("work", WORKS, ids=lambda work: work.__name__)
def test_killed_at_every_store(tmp_path: Path, work: Callable[[Path, Step], None]) -> None:
    point = 0
    while True:
        path = tmp_path / f"board-{point}"
        with closing(Board.create(path, NUM_PAGES)) as board, closing(Board.open(path)) as other:
            patient, greedy = board.join("patient", floor=6), other.join("greedy")
            dead = board.join("dead", floor=2)
            dead.take(5)
            greedy.take(NUM_PAGES - 14)
            patient.take(2)
            die(dead)
            name = killed_at(point, lambda step, path=path: work(path, step))
            assert_no_oversell(board)
            everything_is_there(board, patient, greedy)
        if name is None:
            break
        point += 1
    assert point > 3, "nothing was stored"


def everything_is_there(board: Board, patient: Seat, greedy: Seat) -> None:
    """For the living, at once; none of it needs the dead one or a helper."""
    board.check()
    held = patient.held() + greedy.held()
    assert patient.take(4) == 4 or patient.owed(), "its floor depends on nobody"
    greedy.give(10)
    board.check()
    board.sweep()
    board.check()
    pool = board.look()
    assert {share.owner for share in pool.shares} == {"patient", "greedy"}
    assert pool.free == pool.num_pages - patient.held() - greedy.held(), "a page leaked"
    board.resize(NUM_PAGES)
    greedy.leave()
    held = patient.held()
    assert patient.take(NUM_PAGES) == NUM_PAGES - held
    patient.leave()
    assert board.look().free == NUM_PAGES
    board.check()


def test_who_slept_hears_the_bell_that_was_not_rung(tmp_path: Path) -> None:
    """The one that gave pages back was killed after that store, or later: until somebody takes a turn nobody is rung
    for, and then all are who may take."""
    point = 0
    while True:
        path = tmp_path / f"board-{point}"
        with closing(Board.create(path, NUM_PAGES)) as board:
            seat = board.join("patient")

            def give(step: Step, path: Path = path) -> None:
                giver = opened(path, step).join("giver")
                giver.take(NUM_PAGES)
                giver.give(giver.held())

            seat.want(NUM_PAGES)
            if killed_at(point, give) is None:
                break
            has_something_to_hear = seat.offered() < NUM_PAGES
            seat.rung()
            board.sweep()
            assert seat.rung() or not has_something_to_hear
            assert seat.offered() == NUM_PAGES
            assert seat.take(NUM_PAGES) == NUM_PAGES
        point += 1
    assert point > 3


def test_whoever_sees_to_it_may_be_killed_too(tmp_path: Path) -> None:
    """The neighbour is to give back, and hears of it, whichever store of the first or the second was the last."""
    num_asked = 0
    for first in range(2, 14, 3):
        second = 0
        while True:
            path = tmp_path / f"board-{first}-{second}"
            with closing(Board.create(path, NUM_PAGES)) as board, closing(Board.open(path)) as other:
                seat, _ = board.join("patient"), other.join("asker")
                seat.take(NUM_PAGES)
                seat.rung()

                def ask(step: Step, path: Path = path) -> None:
                    opened(path, step).change("asker", floor=7, priority=1)

                killed_at(first, ask)
                name = killed_at(second, lambda step, path=path: sweep(path, step))
                board.check()
                is_asked = seat.target() < NUM_PAGES
                num_asked += is_asked
                assert seat.rung() or not is_asked
            if name is None:
                break
            second += 1
    assert num_asked > 3
