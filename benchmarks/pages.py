"""What it costs to move a page of memory between two workers: `python -m benchmarks.pages [--record]`.

* bookkeeping: to ask for a page, to give one back, to take it: three turns at the board, with 2 and with 10 seats; one
  by itself (what it needs has left the processor's caches), and as one of twenty in a row;
* a whole move: from asking, by way of another process that sleeps, hears of it, decommits a page and gives it back,
  until the page is there in this one: committed, zeros, and written to.

Beside it what no move can do without: that another process is woken and wakes this one (a round trip of a futex), and
that 2 MiB are zeroed (a page committed anew). The rounds of all are interleaved.
"""

from __future__ import annotations

import argparse
import ctypes
import mmap
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.node import machine, write_record

from thaloom.base import futex
from thaloom.hal.drivers.cpu.memory import HostMemory
from thaloom.kernel.memory.board import PAGE_BYTES, Board
from thaloom.kernel.memory.seat import Seat

NUM_PAGES = 64


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--record", action="store_true", help="write benchmarks/records/<date>-pages.json")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), given.rounds)
    for name, row in rows.items():
        print(f"{name:28} " + "  ".join(f"{key} {value:9.1f}" for key, value in row.items()))
    limit = rows["futex, round trip"]["median_us"] + rows["zero 2 MiB"]["median_us"]
    over = rows["whole move"]["median_us"] / limit
    print(f"a whole move takes {over:.2f} times as long as a round trip and zeroing 2 MiB")
    if given.record:
        write_record("pages", machine() | {"rounds": given.rounds, "move_over_limit": round(over, 3), "us": rows})
    return 0


def measure(folder: Path, rounds: int) -> dict[str, dict[str, float]]:
    took: dict[str, list[float]] = {}
    few, many = [Bookkeeping(folder / f"seats-{seats}", seats) for seats in (2, 10)]
    with another(lend, folder / "lent"), another(answer, shared := mmap.mmap(-1, mmap.PAGESIZE)):
        mover = Mover(folder / "lent")
        fresh = HostMemory(PAGE_BYTES, lambda _: None)
        runs: dict[str, Callable[[], float]] = {
            "bookkeeping, 2 seats, alone": few.move,
            "bookkeeping, 2 seats": lambda: statistics.mean(few.move() for _ in range(20)),
            "bookkeeping, 10 seats, alone": many.move,
            "bookkeeping, 10 seats": lambda: statistics.mean(many.move() for _ in range(20)),
            "whole move": mover.move,
            "futex, round trip": lambda: round_trip(shared),
            "zero 2 MiB": lambda: zero(fresh),
        }
        for number in range(rounds + 20):
            for name, run in runs.items():
                seconds = run()
                if number >= 20:
                    took.setdefault(name, []).append(seconds * 1e6)
    return {
        name: {
            "median_us": statistics.median(values),
            "p99_us": sorted(values)[int(len(values) * 0.99)],
            "least_us": min(values),
        }
        for name, values in took.items()
    }


class Bookkeeping:
    """Two seats that both want more than there is, and others that are content."""

    def __init__(self, path: Path, num_seats: int) -> None:
        Board.create(path, NUM_PAGES).close()
        self.holder, self.asker, *others = [Board.open(path).join(str(number)) for number in range(num_seats)]
        for other in others:
            other.take(2)
        self.holder.take(2 * NUM_PAGES)

    def move(self) -> float:
        begun = time.perf_counter()
        self.asker.take(1)
        self.holder.give(1)
        moved = self.asker.take(1)
        took = time.perf_counter() - begun
        assert moved == 1
        self.asker.want(0)
        self.asker.give(1)
        self.holder.take(1)
        return took


class Mover:
    """The one that asks."""

    def __init__(self, path: Path) -> None:
        self.board = Board.create(path, NUM_PAGES)
        self.seat = self.board.join("asker")
        self.memory = HostMemory(PAGE_BYTES, lambda _: None)

    def move(self) -> float:
        while self.board.look().free or len(self.board.look().shares) < 2:
            time.sleep(0.0002)
        time.sleep(0.0002)  # the lender is asleep again
        begun = time.perf_counter()
        while not self.seat.take(1):
            assert self.seat.wait(10), "nobody gives"
        self.memory.commit(0, PAGE_BYTES)
        self.memory.data[0] = 1
        took = time.perf_counter() - begun
        self.memory.decommit(0, PAGE_BYTES)
        self.seat.want(0)
        self.seat.give(1)
        return took


def lend(path: Path) -> None:
    """Has all pages, and gives back whatever it is asked for."""
    seat = Board.create(path, NUM_PAGES).join("lender", priority=-1)
    memory = HostMemory(NUM_PAGES * PAGE_BYTES, lambda _: None)
    hold(seat, memory, seat.take(NUM_PAGES))
    while True:
        seat.wait(60)
        too_many = seat.held() - seat.target()
        if too_many > 0:
            memory.decommit(seat.target() * PAGE_BYTES, too_many * PAGE_BYTES)
            seat.give(too_many)
        elif seat.offered():
            hold(seat, memory, seat.take(seat.offered()))


def hold(seat: Seat, memory: HostMemory, num_pages: int) -> None:
    memory.commit((seat.held() - num_pages) * PAGE_BYTES, num_pages * PAGE_BYTES)


def words(shared: mmap.mmap) -> tuple[ctypes.c_uint32, ctypes.c_uint32]:
    return ctypes.c_uint32.from_buffer(shared), ctypes.c_uint32.from_buffer(shared, 64)


def round_trip(shared: mmap.mmap) -> float:
    asked, answered = words(shared)
    time.sleep(0.0002)  # the other is asleep
    begun = time.perf_counter()
    asked.value += 1
    futex.wake(ctypes.addressof(asked))
    while answered.value != asked.value:
        futex.wait(ctypes.addressof(answered), asked.value - 1, 1)
    return time.perf_counter() - begun


def answer(shared: mmap.mmap) -> None:
    asked, answered = words(shared)
    while True:
        futex.wait(ctypes.addressof(asked), answered.value, 1)
        if answered.value != asked.value:
            answered.value = asked.value
            futex.wake(ctypes.addressof(answered))


def zero(memory: HostMemory) -> float:
    memory.decommit(0, PAGE_BYTES)
    begun = time.perf_counter()
    memory.commit(0, PAGE_BYTES)
    return time.perf_counter() - begun


@contextmanager
def another(work: Callable[[Any], None], on: object) -> Iterator[None]:
    """A process that does this until it is ended."""
    if (pid := os.fork()) == 0:
        try:
            work(on)
        finally:
            os._exit(1)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


if __name__ == "__main__":
    sys.exit(main())
