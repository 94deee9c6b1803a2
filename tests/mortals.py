"""Real processes that share something and die: at a store of their own, or by SIGKILL from outside. Who has ended is
replaced, and what each came to is kept."""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from thaloom.kernel.memory.seat import Seat
from thaloom.work.runtime.turns.place import Place

Live = Callable[[int, random.Random], None]
"""One life of the process of that number, which ends at one of its stores or by itself."""


@dataclass(slots=True)
class Found:
    checks: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


class Mortals:
    """The processes, by number. Equal seeds give equal lives, though not their order."""

    def __init__(self, seed: int, live: Live) -> None:
        self._seed = seed
        self._live = live
        self._num_lives = 0
        self.living: dict[int, int] = {}
        """By pid: its number."""
        self.found = Found()

    def begin(self, number: int) -> None:
        self._num_lives += 1
        seed = f"{self._seed} {self._num_lives}"
        if (pid := os.fork()) == 0:
            ended = 1
            try:
                self._live(number, random.Random(seed))
                ended = 0
            except BaseException:  # noqa: BLE001 - whatever it is, it must not go on as a second judge
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(ended)
        self.living[pid] = number

    def kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        self.bury(pid, os.waitpid(pid, 0)[1], "from outside")

    def replace_the_ended(self) -> None:
        for pid in list(self.living):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                self.bury(pid, status, "at a store of its own")

    def bury(self, pid: int, status: int, how: str) -> None:
        """It has ended; the next of its number begins."""
        number = self.living.pop(pid)
        if status == signal.SIGKILL:
            self.found.ends[how] += 1
        elif status == 0:
            self.found.ends["by itself"] += 1
        else:
            self.found.failures.append(f"process {number} ended with {os.waitstatus_to_exitcode(status)}")
        self.begin(number)

    def clear(self) -> None:
        for pid in self.living:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def dying_at(store: int, look: Callable[[], object] = lambda: None) -> Callable[[str], None]:
    """To be called before each store: it looks, and kills this process at the one of that number."""
    left = store

    def before(_: str) -> None:
        nonlocal left
        look()
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return before


def die(seat: Seat | Place) -> None:
    """As if its process had been killed: the kernel closes what it had open."""
    os.close(seat._descriptor)
    seat._descriptor = -1


def asked(what: str | None) -> tuple[float, int]:
    """From the command line: for how many minutes, and by which seed. `what`: its help."""
    parser = argparse.ArgumentParser(description=what, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    return given.minutes, given.seed


def told(found: Found, counted: str) -> int:
    """Print what was found; the exit code. `counted`: what was done meanwhile."""
    ends = ", ".join(f"{count} {how}" for how, count in found.ends.most_common())
    print(f"{found.checks} checks, {counted}; processes ended: {ends}")
    for failure in found.failures:
        print(f"FAILED: {failure}")
    return 1 if found.failures else 0
