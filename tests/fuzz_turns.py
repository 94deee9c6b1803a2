"""Real processes that take turns and are killed and stopped: nobody waits for good, nobody goes beside another untold.

    python -m tests.fuzz_turns --minutes 10 --seed 1     (make fuzz-turns)

Workers join, take turns, rest and leave. Each is killed, by SIGKILL from outside or at one of its own stores, or
stopped (SIGSTOP) for longer than others have patience. Meanwhile turns are counted again and again: those that have one
fit beside each other. Whoever finds at the end of its step that its turn was taken from it says so, and for each of
these somebody must have told that he did not wait any longer. Equal seeds give equal lives, though not their order.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.mortals import Found, Live, Mortals, asked, dying_at, told
from tests.turnstiles import assert_no_crowd, watched
from thaloom.base.errors import DeadlineExceeded
from thaloom.kernel.sched import turns
from thaloom.work.runtime.turns.file import HOLDING, STATE, TAKEN_AT
from thaloom.work.runtime.turns.place import MOST_WAIT_S, Place
from thaloom.work.runtime.turns.turnstile import GUARD_S, Turnstile

CORES = 3
WORKERS = 5
SLACK_S = 2.0
"""What a busy machine may add to a wait."""
TURNS, TOLD, TAKEN_AWAY, WAITED_US = range(4)
"""Words of each worker, which outlive it."""


def work(path: Path, number: int, chance: random.Random, words: memoryview) -> None:
    """One worker's life, which ends at one of its stores or by itself."""
    opened = watched(path, dying_at(chance.randrange(20, 4000)))
    while chance.random() < 0.9:
        place = opened.join(
            f"worker-{number}", weight=chance.choice([100, 200, 300]), width=chance.choice([1, CORES, CORES])
        )
        for _ in range(chance.randrange(100)):
            step(opened, place, chance, words)
            if chance.random() < 0.05:
                place.rest()
                time.sleep(chance.random() * 0.003)
        place.leave()


def step(opened: Turnstile, place: Place, chance: random.Random, words: memoryview) -> None:
    taken = place.take(time.monotonic_ns() + chance.randrange(50_000_000), chance.choice([2, 3, 30]) * 1_000_000)
    words[TOLD] += taken.missed is not None
    words[WAITED_US] = max(words[WAITED_US], int(taken.waited_s * 1e6))
    had_one = place._holds
    time.sleep(chance.random() * 0.002)
    if had_one and opened.file.words[place._begin + STATE] != HOLDING:
        words[TAKEN_AWAY] += 1
    place.give()
    words[TURNS] += 1


class Stage(Mortals):
    """Workers at one turnstile, some of them stopped."""

    def __init__(self, seed: int, live: Live) -> None:
        super().__init__(seed, live)
        self.stopped: dict[int, float] = {}
        """By process: until when."""

    def strike(self, chance: random.Random) -> None:
        pid = chance.choice(list(self.living))
        if chance.random() < 0.7:
            self.kill(pid)
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
        self.replace_the_ended()

    def bury(self, pid: int, status: int, how: str) -> None:
        self.stopped.pop(pid, None)
        super().bury(pid, status, how)


def fuzz(minutes: float, seed: int) -> tuple[Found, list[memoryview]]:
    """What was found, and the words of each worker."""
    turns.EQUALS_WAIT = True  # the harder case: everybody waits for everybody
    chance = random.Random(seed)
    shared = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("q")
    words = [shared[8 * number : 8 * number + 8] for number in range(WORKERS)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "turns"
        opened = Turnstile.create(path, CORES)
        opened.file.patience_s = GUARD_S
        stage = Stage(seed, lambda number, chance: work(path, number, chance, words[number]))
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
    judge(stage.found, words)
    return stage.found, words


def judge(found: Found, words: list[memoryview]) -> None:
    if min(one[TURNS] for one in words) == 0:
        found.failures.append(f"a worker never got a turn: {[one[TURNS] for one in words]}")
    longest_s = max(one[WAITED_US] for one in words) / 1e6
    if longest_s > MOST_WAIT_S + SLACK_S:
        found.failures.append(f"somebody waited {longest_s:.1f} s")
    # Who was killed, or is stopped, after it took a turn away did not come to tell of it.
    if sum(one[TAKEN_AWAY] for one in words) > sum(one[TOLD] for one in words) + found.ends.total():
        found.failures.append("turns were taken away that nobody told of")


def main() -> int:
    found, words = fuzz(*asked(__doc__))
    num_turns, missed = (sum(one[word] for one in words) for word in (TURNS, TOLD))
    code = told(found, f"{num_turns} turns, {missed} missed")
    print(f"the longest wait for a turn: {max(one[WAITED_US] for one in words) / 1000:.1f} ms")
    return code


if __name__ == "__main__":
    sys.exit(main())
