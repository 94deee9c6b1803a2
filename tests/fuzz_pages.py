"""Real processes that share a device's pages and are killed: nothing is ever sold twice, nothing leaks, nobody waits.

    python -m tests.fuzz_pages --minutes 10 --seed 1     (make fuzz-pages)

Workers join, take, give, obey, sleep and leave, each with memory of its own that it commits and decommits; a daemon
resizes the pool and changes what is promised. Each is killed, by SIGKILL from outside or at one of its own stores into
the board. Meanwhile the board is checked again and again, and no worker may have more memory than it holds pages for.
In the end all are killed, and every page must be there. Equal seeds give equal lives, though not their order.
"""

from __future__ import annotations

import contextlib
import mmap
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.boards import assert_no_oversell, watch
from tests.mortals import Mortals, asked, dying_at, told
from thaloom.base.errors import BadParameter, OutOfMemory
from thaloom.hal.drivers.cpu.memory import HostMemory
from thaloom.kernel.memory.board import PAGE_BYTES, Board
from thaloom.kernel.memory.seat import Seat

NUM_PAGES = 60
MOST_PAGES = 90
WORKERS, DAEMONS = 5, 1
PYTHON_BYTES = 64 << 20
"""What a worker may have beside its pages."""


class Memory:
    """A worker's pages: each is zeros when it comes, and marked while it is held."""

    def __init__(self) -> None:
        self.buffer = HostMemory(MOST_PAGES * PAGE_BYTES, lambda _: None)
        self.absent = list(range(MOST_PAGES))
        self.present: list[int] = []

    def commit(self, num_pages: int, mark: int) -> None:
        for _ in range(num_pages):
            page = self.absent.pop()
            at = page * PAGE_BYTES
            self.buffer.commit(at, PAGE_BYTES)
            assert not self.buffer.data[at : at + PAGE_BYTES : 4096].any(), "a page came with what was in it before"
            self.buffer.data[at : at + PAGE_BYTES : 4096] = mark
            self.present.append(page)

    def decommit(self, num_pages: int) -> None:
        for _ in range(num_pages):
            page = self.present.pop()
            assert self.buffer.decommit(page * PAGE_BYTES, PAGE_BYTES) == PAGE_BYTES
            self.absent.append(page)


def work(path: Path, number: int, chance: random.Random, moved: memoryview) -> None:
    """One worker's life, which ends at one of its stores or by itself."""
    board = mortal(path, chance)
    memory = Memory()
    while chance.random() < 0.9:
        floor = chance.choice([0, 0, chance.randrange(NUM_PAGES // 3)])
        ceiling = floor + chance.randrange(NUM_PAGES)
        try:
            seat = board.join(f"worker-{number}", floor=floor, ceiling=ceiling, priority=chance.randrange(2))
        except OutOfMemory:
            time.sleep(0.001)
            continue
        for _ in range(chance.randrange(200)):
            act(seat, memory, number, chance, moved)
        memory.decommit(len(memory.present))
        seat.leave()


def act(seat: Seat, memory: Memory, number: int, chance: random.Random, moved: memoryview) -> None:
    what = chance.choice(["take", "take", "want", "obey", "obey", "give", "sleep"])
    count = 0
    if what == "take":
        count = seat.take(chance.randrange(1, 12))
        memory.commit(count, number + 1)
    elif what == "want":
        seat.want(chance.randrange(NUM_PAGES))
    elif what == "sleep":
        seat.wait(chance.random() * 0.005)
    else:
        count = max(0, seat.held() - seat.target()) if what == "obey" else chance.randrange(seat.held() + 1)
        memory.decommit(count)
        seat.give(count)
    moved[number] += count
    assert seat.held() == len(memory.present), "the board and the worker disagree"


def rule(path: Path, number: int, chance: random.Random, moved: memoryview) -> None:
    """One daemon's life."""
    board = mortal(path, chance)
    while True:
        with contextlib.suppress(OutOfMemory, BadParameter, KeyError):
            what = chance.choice(["resize", "change", "sweep", "look"])
            if what == "resize":
                board.resize(chance.randrange(MOST_PAGES))
            elif what == "change":
                floor, ceiling = chance.randrange(NUM_PAGES // 3), chance.randrange(NUM_PAGES)
                board.change(f"worker-{chance.randrange(WORKERS)}", floor=floor, ceiling=ceiling)
            elif what == "sweep":
                board.sweep()
            else:
                board.look()
        time.sleep(chance.random() * 0.01)


def mortal(path: Path, chance: random.Random) -> Board:
    """A board whose user kills itself at one of its stores."""
    store = chance.randrange(5, 4000)
    board = Board.open(path)
    return watch(board, dying_at(store, lambda: assert_no_oversell(board)))


class Stage(Mortals):
    """Workers and daemons of one board."""

    slowest_turn_ms = 0.0

    def look(self, board: Board) -> None:
        """In a turn nobody can take or give a page: no worker may have more than those it holds."""
        begun = time.perf_counter()
        board.check()
        self.slowest_turn_ms = max(self.slowest_turn_ms, (time.perf_counter() - begun) * 1000)
        self.found.checks += 1
        with board._books:
            assert_no_oversell(board)
            shares = {share.owner: share.held for share in board._shares()}
            for pid, number in self.living.items():
                num_bytes, most = anonymous_bytes(pid), shares.get(f"worker-{number}", 0) * PAGE_BYTES + PYTHON_BYTES
                if num_bytes > most:
                    self.found.failures.append(f"process {number} has {num_bytes} bytes and may have {most}")


def anonymous_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0  # a zombie has none


def fuzz(minutes: float, seed: int) -> tuple[Stage, int]:
    """What was found, and how many pages were taken and given."""
    chance = random.Random(seed)
    moved = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("q")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "board"
        board = Board.create(path, NUM_PAGES)

        def live(number: int, chance: random.Random) -> None:
            (work if number < WORKERS else rule)(path, number, chance, moved)

        stage = Stage(seed, live)
        for number in range(WORKERS + DAEMONS):
            stage.begin(number)
        deadline = time.monotonic() + minutes * 60
        try:
            while time.monotonic() < deadline and len(stage.found.failures) < 10:
                time.sleep(chance.random() * 0.01)
                stage.replace_the_ended()
                if chance.random() < 0.1:
                    stage.kill(chance.choice(list(stage.living)))
                stage.look(board)
        finally:
            stage.clear()
        stage.found.failures += at_rest(board)
    if min(moved[:WORKERS]) == 0:
        stage.found.failures.append(f"a worker never got a page: {moved[:WORKERS].tolist()}")
    return stage, sum(moved[:WORKERS])


def at_rest(board: Board) -> Iterator[str]:
    """Everybody is dead, and not one page is missing."""
    board.sweep()
    board.check()
    pool = board.look()
    if pool.shares:
        yield f"the dead sit on: {pool.shares}"
    if not pool.free == pool.num_pages == pool.goal:
        yield f"pages leaked: {pool}"
    board.resize(NUM_PAGES)
    if (taken := board.join("the last").take(NUM_PAGES)) != NUM_PAGES:
        yield f"only {taken} of {NUM_PAGES} pages are to be had"


def main() -> int:
    stage, num_moved = fuzz(*asked(__doc__))
    code = told(stage.found, f"{num_moved} pages moved")
    print(f"the longest that anybody waited for a turn to check: {stage.slowest_turn_ms:.1f} ms")
    return code


if __name__ == "__main__":
    sys.exit(main())
