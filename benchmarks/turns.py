"""What turns at the processors bring to workers that share them: `python benchmarks/turns.py [--short] [--record]`.

Each worker is a process with a random model of the 135 M shape (int8) and, as a node gives it, a thread for every core.
All compute at once, in windows of four kinds, in an order drawn anew for each round: without turns; with turns; with
turns that equals take too; and with turns that nobody may pass. Told of a case: the work of all, and the 99th of 100
gaps between two tokens of each worker that decodes, over those without turns; median of the ratios within rounds and
the quarters around it.

Workers that decode have so many streams each. One that reads prompts has always two, of 256 tokens each. Classes are
scheduled as the walls schedule them (without control groups, whose shares come on top on a node that has them).
At the end: what a turn costs in processor time where nobody is in its way.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

from in_process import Bench, ask
from node import machine, write_record

from thaloom.kernel.sandbox.inside.kernel_calls import set_scheduling
from thaloom.kernel.sandbox.latency import WEIGHTS
from thaloom.kernel.sandbox.types import BATCH_NICE, SCHED_BATCH, TURN_NS
from thaloom.kernel.sched import turns as sched_turns
from thaloom.kernel.sched.chunks import DEFAULT_TARGETS
from thaloom.kernel.sched.steps import StepLimits
from thaloom.kernel.sched.turns import PASSES
from thaloom.work.runtime.core.engine import Engine
from thaloom.work.runtime.messages import Tokens
from thaloom.work.runtime.turns.turns import NoTurns, SharedTurns, Turns
from thaloom.work.runtime.turns.turnstile import Turnstile

CORES = os.cpu_count() or 1
LIMITS = StepLimits(max_sequences=16, chunk_tokens=256, draft_rows=0)
CONTEXT, PROMPT = 1088, 256
SHARES = {"low": 1, "normal": 2, "high": 4}
Arm = Literal["none", "turns", "equals wait", "nobody passes"]
ARMS: tuple[Arm, ...] = ("none", "turns", "equals wait", "nobody passes")
FRAME_S = 0.2
"""Of a window that is not counted: everybody comes to it at a moment of his own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    streams: int = 1
    """That decode; 0: it reads prompts."""
    latency: Literal["interactive", "batch"] = "interactive"
    priority: Literal["low", "normal", "high"] = "normal"
    threads: int = CORES


CASES: dict[str, tuple[Worker, ...]] = {
    "two decode": (Worker(), Worker()),
    "two decode, of high and of low priority": (Worker(priority="high"), Worker(priority="low")),
    "three decode": (Worker(), Worker(), Worker()),
    "two decode, four streams each": (Worker(streams=4), Worker(streams=4)),
    "one decodes, one reads": (Worker(), Worker(streams=0)),
    "one decodes, one reads as batch": (Worker(), Worker(streams=0, latency="batch")),
    "one decodes, one decodes as batch": (Worker(), Worker(streams=4, latency="batch")),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--window", type=float, default=2.0, metavar="SECONDS")
    parser.add_argument("--case", choices=CASES, action="append")
    parser.add_argument("--short", action="store_true", help="a toy, a round of each: proves that it runs")
    parser.add_argument("--record", action="store_true", help="write benchmarks/records/<date>-turns.json")
    given = parser.parse_args()
    shape, rounds, window_s = ("toy", 1, 0.3) if given.short else ("llama-135m", given.rounds, given.window)
    told = {}
    for name in given.case or CASES:
        told[name] = measure(CASES[name], shape, rounds, window_s)
        print(f"{name}:", *(f"{what}: {figures}" for what, figures in told[name].items()), sep="\n  ", flush=True)
    alone = cost_alone()
    print("alone:", alone, flush=True)
    if given.record:
        write_record("turns", machine() | {"rounds": rounds, "window_s": window_s, "cases": told, "alone_us": alone})
    return 0


def measure(workers: Sequence[Worker], shape: str, rounds: int, window_s: float) -> dict[str, Any]:
    draw = random.Random(7)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "turns"
        Turnstile.create(path, CORES).close()
        ends = []
        for number, worker in enumerate(workers):
            ours, theirs = multiprocessing.Pipe()
            child = multiprocessing.get_context("fork").Process(
                target=work, args=(theirs, worker, shape, path, number), daemon=True
            )
            child.start()
            ends.append((child, ours))
        for _, end in ends:
            end.recv()  # it is ready
        windows: list[Round] = []
        for number in range(rounds + 1):
            found = {arm: window(ends, arm, window_s) for arm in draw.sample(ARMS, len(ARMS))}
            if number:  # the first round warms what there is to warm
                windows.append(found)
        for child, end in ends:
            end.send(None)
            child.join()
    return compared(workers, windows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Of one worker."""

    rate: float
    """Tokens a second: made, or read."""
    p99_s: float
    missed: int


Round = dict[Arm, list[Window]]
"""Of all workers, by arm."""


def window(ends: Sequence[tuple[Any, Any]], arm: Arm, window_s: float) -> list[Window]:
    until = time.monotonic() + FRAME_S + window_s
    for _, end in ends:
        end.send((arm, until - window_s, until))
    return [end.recv() for _, end in ends]


def compared(workers: Sequence[Worker], rounds: Sequence[Round]) -> dict[str, Any]:
    def figure(of: Callable[[list[Window]], float]) -> dict[str, Any]:
        """Median without turns; ratios of the other arms to it: median, quarters."""
        found: dict[str, Any] = {"none": round(statistics.median(of(each["none"]) for each in rounds), 2)}
        for arm in ARMS[1:]:
            ratios = [of(each[arm]) / max(of(each["none"]), 1e-9) for each in rounds]
            quarters = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
            found[arm] = [round(quarters[at], 3) for at in (1, 0, 2)]
        return found

    found: dict[str, Any] = {}
    if len({bool(worker.streams) for worker in workers}) == 1:
        found["tokens_s of all"] = figure(lambda windows: sum(one.rate for one in windows))
    for at, worker in enumerate(workers):
        name = f"worker {at}"
        found[f"tokens_s of {name}"] = figure(lambda windows, at=at: windows[at].rate)
        if worker.streams:
            found[f"p99_ms of {name}"] = figure(lambda windows, at=at: windows[at].p99_s * 1000)
        found[f"missed by {name}"] = sum(each["turns"][at].missed for each in rounds)
    return found


def work(end: Connection, worker: Worker, shape: str, path: Path, number: int) -> None:
    """One worker's process: a window each time it is told, until it is told None."""
    set_scheduling(*((0, 0, TURN_NS) if worker.latency == "interactive" else (SCHED_BATCH, BATCH_NICE, 0)))
    context = min(CONTEXT, 512) if shape == "toy" else CONTEXT
    bench = Bench(shape, weights="int8", num_threads=worker.threads, limits=LIMITS, context=context, contexts=8)
    turnstile = Turnstile.open(path)
    place = turnstile.join(
        f"worker-{number}", weight=WEIGHTS[worker.latency] * SHARES[worker.priority], width=worker.threads
    )
    missed: list[str] = []
    shared = SharedTurns(turnstile, place, token_s=DEFAULT_TARGETS.token_s, missed=missed.append, lost=print)
    end.send(None)
    while (told := end.recv()) is not None:
        arm, begin, until = told
        missed.clear()
        turns: Turns = NoTurns() if arm == "none" else shared
        sched_turns.EQUALS_WAIT = arm != "turns"
        sched_turns.PASSES = 1 << 40 if arm == "nobody passes" else PASSES
        gaps, count = compute(
            bench.engine(LIMITS, DEFAULT_TARGETS, turns=turns), worker, begin, until, context, bench.vocab
        )
        turns.rest()
        gaps.sort()
        p99 = gaps[int(0.99 * (len(gaps) - 1))] if gaps else 0.0
        end.send(Window(rate=count / (until - begin), p99_s=p99, missed=len(missed)))
    shared.close()


def compute(
    engine: Engine, worker: Worker, begin: float, until: float, context: int, vocab: int
) -> tuple[list[float], int]:
    """Gaps between tokens, and how many tokens were made (or read) in the window."""
    gaps: list[float] = []
    count, seed = 0, 0
    latest: dict[int, float] = {}
    prompt = min(PROMPT, context - 8)
    while (now := time.monotonic()) < until:
        load = engine.load()
        for _ in range((worker.streams or 2) - load.running - load.waiting):
            seed += 1
            length, most = (16, context - 16) if worker.streams else (prompt, 1)
            chance = random.Random(seed)
            engine.submit(ask([chance.randrange(vocab) for _ in range(length)], most, seed=seed))
        for ticket, news in engine.step():
            now = time.monotonic()
            if isinstance(news, Tokens):
                if now >= begin and ticket in latest:
                    gaps.append(now - latest[ticket])
                latest[ticket] = now
                if now >= begin:
                    count += len(news.tokens) if worker.streams else prompt
    return gaps, count


def cost_alone(turns: int = 100_000) -> dict[str, float]:
    """Microseconds that a turn takes, by who else is there."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "turns"
        turnstile, other = Turnstile.create(path, CORES), Turnstile.open(path)
        place = turnstile.join("one", weight=100, width=CORES)
        found["nobody else"] = _turn_us(place, turns)
        neighbour = other.join("two", weight=100, width=CORES)
        found["another that has nothing to do"] = _turn_us(place, turns)
        place.take(0)
        neighbour.take(0)
        neighbour.give()
        found["another that is between two steps"] = _turn_us(place, turns // 10)
    return found


def _turn_us(place: Any, turns: int) -> float:
    begun = time.process_time()
    for _ in range(turns):
        place.take(0)
        place.give()
    return round((time.process_time() - begun) / turns * 1e6, 2)


if __name__ == "__main__":
    sys.exit(main())
