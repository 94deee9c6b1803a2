"""A board of pages against a model of it: any order of calls by workers, any of which may die, also half-way."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.boards import assert_no_oversell, watch
from tests.mortals import die
from thaloom.base.errors import BadParameter, NameTaken, OutOfMemory
from thaloom.kernel.memory.board import Board
from thaloom.kernel.memory.seat import Seat

MOST = 30
pages = st.integers(0, MOST)


class Killed(BaseException):
    pass


@dataclass
class Worker:
    board: Board
    seat: Seat
    floor: int
    ceiling: int
    held: int = 0


class Workers(RuleBasedStateMachine):
    """`countdown`: after so many stores whoever acts is killed."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "board"
        self.workers: dict[str, Worker] = {}
        self.countdown = -1
        self.boards: list[Board] = []

    @initialize(num_pages=pages)
    def begin(self, num_pages: int) -> None:
        self.daemon = Board.create(self.path, num_pages)
        self.goal = num_pages

    def open(self) -> Board:
        def before(_: str) -> None:
            assert_no_oversell(board)
            if self.countdown == 0:
                raise Killed
            self.countdown -= 1

        board = Board.open(self.path)
        self.boards.append(board)
        return watch(board, before)

    def promised(self, without: str = "") -> int:
        return sum(worker.floor for name, worker in self.workers.items() if name != without)

    def pick(self, data: st.DataObject) -> tuple[str, Worker]:
        name = data.draw(st.sampled_from(sorted(self.workers)))
        return name, self.workers[name]

    @rule(name=st.sampled_from("abcd"), floor=pages, more=pages, priority=st.integers(0, 1))
    def join(self, name: str, floor: int, more: int, priority: int) -> None:
        board = self.open()
        try:
            seat = board.join(name, floor=floor, ceiling=floor + more, priority=priority)
        except NameTaken:
            assert name in self.workers
        except OutOfMemory:
            assert self.promised() + floor > self.goal
        else:
            assert name not in self.workers
            assert self.promised() + floor <= self.goal
            self.workers[name] = Worker(board, seat, floor, floor + more)

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), num_pages=pages)
    def take(self, data: st.DataObject, num_pages: int) -> None:
        _, worker = self.pick(data)
        offered, secured = worker.seat.offered(), worker.floor - worker.seat.owed()
        taken = worker.seat.take(num_pages)
        assert min(num_pages, secured - worker.held, worker.seat.target() - worker.held) <= taken <= num_pages
        assert taken >= min(num_pages, offered), "what was offered was not given"
        worker.held += taken
        assert taken == 0 or worker.held <= worker.ceiling

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), num_pages=pages)
    def give(self, data: st.DataObject, num_pages: int) -> None:
        _, worker = self.pick(data)
        num_pages = min(num_pages, worker.held)
        worker.seat.give(num_pages)
        worker.held -= num_pages

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def obey(self, data: st.DataObject) -> None:
        _, worker = self.pick(data)
        too_many = max(0, worker.held - worker.seat.target())
        worker.seat.give(too_many)
        worker.held -= too_many

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), num_pages=pages)
    def want(self, data: st.DataObject, num_pages: int) -> None:
        self.pick(data)[1].seat.want(num_pages)

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), floor=pages, ceiling=pages, priority=st.integers(0, 1))
    def change(self, data: st.DataObject, floor: int, ceiling: int, priority: int) -> None:
        name, worker = self.pick(data)
        try:
            self.daemon.change(name, floor=floor, ceiling=ceiling, priority=priority)
        except BadParameter:
            assert floor > ceiling
        except OutOfMemory:
            assert self.promised(name) + floor > self.goal
        else:
            worker.floor, worker.ceiling = floor, ceiling

    @rule(num_pages=pages)
    def resize(self, num_pages: int) -> None:
        try:
            self.daemon.resize(num_pages)
            self.goal = num_pages
        except OutOfMemory:
            assert self.promised() > num_pages

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        name, worker = self.pick(data)
        worker.seat.leave()
        del self.workers[name]

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def kill(self, data: st.DataObject) -> None:
        name, worker = self.pick(data)
        die(worker.seat)
        del self.workers[name]
        self.daemon.sweep()

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), stores=st.integers(0, 12), what=st.sampled_from(["take", "give", "want", "leave"]))
    def kill_half_way(self, data: st.DataObject, stores: int, what: str) -> None:
        name, worker = self.pick(data)
        self.countdown = stores
        try:
            if what == "leave":
                worker.seat.leave()
            else:
                arguments = {"take": MOST, "give": worker.held, "want": MOST}
                getattr(worker.seat, what)(arguments[what])
        except Killed:
            pass
        self.countdown = -1
        if worker.seat._descriptor >= 0:
            die(worker.seat)
        del self.workers[name]
        self.daemon.sweep()

    @invariant()
    def holds(self) -> None:
        if not hasattr(self, "daemon"):
            return
        self.daemon.check()
        pool = self.daemon.look()
        assert pool.goal == self.goal
        assert {s.owner: (s.floor, s.ceiling, s.held) for s in pool.shares} == {
            name: (worker.floor, worker.ceiling, worker.held) for name, worker in self.workers.items()
        }
        assert pool.num_pages == max(self.goal, sum(max(s.held, s.secured) for s in pool.shares))

    @invariant()
    def whoever_obeys_gets_what_is_promised(self) -> None:
        """Liveness: once all have given back what they hold above their targets, every floor is secured, the pool is as
        large as it should be, and all who wait are offered something."""
        if not hasattr(self, "daemon") or self.countdown >= 0:
            return
        pool = self.daemon.look()
        if not pool.reclaims:
            assert pool.num_pages == pool.goal
            assert all(share.secured == share.floor for share in pool.shares)
            for worker in self.workers.values():
                assert worker.held == worker.seat.target() or worker.seat.offered()

    def teardown(self) -> None:
        for worker in self.workers.values():
            worker.seat.leave()
        if hasattr(self, "daemon"):
            self.daemon.check()
            assert self.daemon.look().free == self.daemon.look().num_pages == self.goal, "pages leaked"
            for board in [self.daemon, *self.boards]:
                board.close()
        shutil.rmtree(self.folder)


TestWorkers = Workers.TestCase
TestWorkers.settings = settings(max_examples=150, stateful_step_count=40)
