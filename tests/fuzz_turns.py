"""Real processes that take turns and are killed and stopped: nobody waits for good, nobody goes beside another untold.

    python -m tests.fuzz_turns --minutes 10 --seed 1     (make fuzz-turns)

Workers join, take turns, rest and leave. Each is killed, by SIGKILL from outside or at one of its own stores, or
stopped (SIGSTOP) for longer than others have patience. Meanwhile turns are counted again and again: those that have one
fit beside each other. Whoever finds at the end of its step that its turn was taken from it says so, and for each of
these somebody must have told that he did not wait any longer. Equal seeds give equal lives, though not their order.
"""

from __future__ import annotations

import argparse
import contextlib
import mmap
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.turnstiles import assert_no_crowd, watched
from thaloom.base.errors import DeadlineExceeded
from thaloom.kernel.sched import turns
from thaloom.work.runtime.turnstile import GUARD_S, Turnstile
from thaloom.work.runtime.turnstile_file import HOLDING, STATE, TAKEN_AT
from thaloom.work.runtime.turnstile_place import MOST_WAIT_S, Place

CORES = 3
WORKERS = 5
SLACK_S = 2.0
"""What a busy machine may add to a wait."""
TURNS, TOLD, TAKEN_AWAY, WAITED_US = range(4)
"""Words of each worker, which outlive it."""


@dataclass(slots=True)
class Found:
    checks: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


def work(path: Path, number: int, chance: random.Random, told: memoryview) -> None:
    """One worker's life, which ends at one of its stores or by itself."""
    left = chance.randrange(20, 4000)

    def before(_: str) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    opened = watched(path, before)
    while chance.random() < 0.9:
        place = opened.join(
            f"worker-{number}", weight=chance.choice([100, 200, 300]), width=chance.choice([1, CORES, CORES])
        )
        for _ in range(chance.randrange(100)):
            step(opened, place, chance, told)
            if chance.random() < 0.05:
                place.rest()
                time.sleep(chance.random() * 0.003)
        place.leave()


def step(opened: Turnstile, place: Place, chance: random.Random, told: memoryview) -> None:
    taken = place.take(time.monotonic_ns() + chance.randrange(50_000_000), chance.choice([2, 3, 30]) * 1_000_000)
    told[TOLD] += taken.missed is not None
    told[WAITED_US] = max(told[WAITED_US], int(taken.waited_s * 1e6))
    had_one = place._holds
    time.sleep(chance.random() * 0.002)
    if had_one and opened.file.words[place._begin + STATE] != HOLDING:
        told[TAKEN_AWAY] += 1
    place.give()
    told[TURNS] += 1


class Stage:
    """The processes, each replaced when it has ended."""

    def __init__(self, path: Path, seed: int, told: list[memoryview]) -> None:
        self._path, self._seed, self._told = path, seed, told
        self._num_lives = 0
        self.living: dict[int, int] = {}
        self.stopped: dict[int, float] = {}
        """By process: until when."""
        self.found = Found()

    def begin(self, number: int) -> None:
        self._num_lives += 1
        seed = f"{self._seed} {self._num_lives}"
        if (pid := os.fork()) == 0:
            ended = 1
            try:
                work(self._path, number, random.Random(seed), self._told[number])
                ended = 0
            except BaseException:  # noqa: BLE001 - whatever it is, it must not go on as a second judge
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(ended)
        self.living[pid] = number

    def strike(self, chance: random.Random) -> None:
        pid = chance.choice(list(self.living))
        if chance.random() < 0.7:
            os.kill(pid, signal.SIGKILL)
            self._bury(pid, os.waitpid(pid, 0)[1], "from outside")
        elif pid not in self.stopped:
            os.kill(pid, signal.SIGSTOP)
            self.stopped[pid] = time.monotonic() + chance.choice([0.05, 0.7])
            self.found.ends["(stopped)"] += 1

    def go_on(self) -> None:
        """Those that were stopped long enough; and somebody new for who has ended."""
        now = time.monotonic()
        for pid in [pid for pid, until in self.stopped.items() if until < now]:
            del self.stopped[pid]
            os.kill(pid, signal.SIGCONT)
        for pid in list(self.living):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                self._bury(pid, status, "at a store of its own")

    def _bury(self, pid: int, status: int, how: str) -> None:
        number = self.living.pop(pid)
        self.stopped.pop(pid, None)
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


turns.EQUALS_WAIT = True  # the harder case: everybody waits for everybody


def fuzz(minutes: float, seed: int) -> tuple[Found, list[memoryview]]:
    chance = random.Random(seed)
    shared = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("q")
    told = [shared[8 * number : 8 * number + 8] for number in range(WORKERS)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "turns"
        opened = Turnstile.create(path, CORES)
        opened.file.patience_s = GUARD_S
        stage = Stage(path, seed, told)
        for number in range(WORKERS):
            stage.begin(number)
        deadline = time.monotonic() + minutes * 60
        try:
            while time.monotonic() < deadline and len(stage.found.failures) < 10:
                time.sleep(chance.random() * 0.01)
                stage.go_on()
                if chance.random() < 0.04:
                    stage.strike(chance)
                with contextlib.suppress(DeadlineExceeded), opened.guarded():  # one was stopped there: it will go on
                    opened.sweep_guarded()
                    assert_no_crowd(opened)
                    stage.found.checks += 1
        except AssertionError as error:
            stage.found.failures.append(str(error))
        finally:
            stage.clear()
        opened.sweep()
        if opened.words[TAKEN_AT]:
            stage.found.failures.append("the dead sit on")
    judge(stage.found, told)
    return stage.found, told


def judge(found: Found, told: list[memoryview]) -> None:
    if min(one[TURNS] for one in told) == 0:
        found.failures.append(f"a worker never got a turn: {[one[TURNS] for one in told]}")
    longest_s = max(one[WAITED_US] for one in told) / 1e6
    if longest_s > MOST_WAIT_S + SLACK_S:
        found.failures.append(f"somebody waited {longest_s:.1f} s")
    # Who was killed, or is stopped, after it took a turn away did not come to tell of it.
    if sum(one[TAKEN_AWAY] for one in told) > sum(one[TOLD] for one in told) + found.ends.total():
        found.failures.append("turns were taken away that nobody told of")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    found, told = fuzz(given.minutes, given.seed)
    ends = ", ".join(f"{count} {how}" for how, count in found.ends.most_common())
    num_turns, missed = (sum(one[word] for one in told) for word in (TURNS, TOLD))
    longest_ms = max(one[WAITED_US] for one in told) / 1000
    print(f"{found.checks} checks, {num_turns} turns, {missed} missed; processes ended: {ends}")
    print(f"the longest wait for a turn: {longest_ms:.1f} ms")
    for failure in found.failures:
        print(f"FAILED: {failure}")
    return 1 if found.failures else 0


if __name__ == "__main__":
    sys.exit(main())
