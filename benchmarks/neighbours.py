"""What a program that misbehaves beside a service costs that service: `python benchmarks/neighbours.py [--short]`.
Writes benchmarks/records/<date>-neighbours.json.

A node serves `tiny` to one client who asks and waits, again and again. Beside it runs one program in a slice of half a
processor, 128 MiB and 32 processes, of latency class batch. Arms, a window of each in every round, in an order drawn
anew: a well-behaved program that uses its slice as inference does, reading and writing memory as fast as it may; one
that allocates past its limit; one that forks without end; one that fills its disk. Those that end at their wall are
started again after the node's own back-off. Promised: the p99 of the client's latency beside any of them is at most
1.10 of that beside the well-behaved one, upper end of the interval.

The interval: rounds are drawn with replacement (they are what noise of the machine comes in), p99 of all requests of
the drawn rounds in one arm over that in the other; 2.5 to 97.5 % of 2,000 draws.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from node import machine, node, stream, write_record

from thaloom.init.rounds.backoff import Backoff
from thaloom.kernel.sandbox.finding import find_groups
from thaloom.kernel.sandbox.host import find_walls, python_paths
from thaloom.kernel.sandbox.types import Confinement, Limits
from thaloom.kernel.sandbox.walls import Confined, Sandbox

SLICE = Limits(cpu_permille=500, memory_bytes=128 << 20, swap_bytes=0, num_pids=32)
BEHAVED = "behaved"
FILLS = """
while True:
    try:
        with open('/tmp/x', 'wb', 0) as f:
            while True: f.write(b'x' * 65536)
    except OSError:
        pass
"""
ARMS = {
    BEHAVED: "block = bytearray(16 << 20)\nwhile True: bytes(block)",
    "memory": "kept = []\nwhile True: kept.append(b'x' * 1048576)",
    "forks": "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass",
    "disk": FILLS,
}
TOKENS = 16
DRAWS = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--requests", type=int, default=150, help="in a window")
    parser.add_argument("--short", action="store_true", help="two rounds of 20: proves that it runs, measures nothing")
    chosen = parser.parse_args()
    rounds, requests = (2, 20) if chosen.short else (chosen.rounds, chosen.requests)
    draw = random.Random(7)
    windows: dict[str, list[list[float]]] = {arm: [] for arm in ARMS}
    starts: dict[str, int] = dict.fromkeys(ARMS, 0)
    with tempfile.TemporaryDirectory() as folder, node():
        sandbox = Sandbox(walls=find_walls(), groups=find_groups("thaloom-neighbours"))
        window(requests // 2)  # the first requests warm what there is to warm
        for _ in range(rounds):
            for arm in draw.sample(list(ARMS), len(ARMS)):
                with beside(sandbox, arm, Path(folder)) as count:
                    windows[arm].append(window(requests))
                    starts[arm] += count()
        sandbox.groups.close()
    record = {
        **machine(), "rounds": rounds, "requests_in_a_window": requests, "tokens": TOKENS,
        "slice": {"cpu_permille": 500, "memory_bytes": 128 << 20, "num_pids": 32},
        "arms": {arm: told(windows, arm, starts[arm], draw) for arm in ARMS},
    }  # fmt: skip
    if chosen.short:
        print(json.dumps(record, indent=1))
    else:
        write_record("neighbours", record)


def window(requests: int) -> list[float]:
    """Seconds of each of so many answers, one after the other."""
    return [stream("tiny", "The socket option", max_tokens=TOKENS).last_token_s for _ in range(requests)]


@contextmanager
def beside(sandbox: Sandbox, arm: str, folder: Path) -> Iterator[Any]:
    """The program of this arm runs in its slice, and again whenever it ends; gives a count of its starts."""
    name, plan, stop, starts = f"n-{arm}", folder / arm, threading.Event(), [0]

    def keep_running() -> None:
        backoff = Backoff()
        while not stop.wait(max(0.0, backoff.next_try_at - time.monotonic())):
            wish = Confinement(limits=SLICE, latency="batch", read=python_paths(), scratch_bytes=32 << 20)
            command = sandbox.confine(name, wish, [sys.executable, "-I", "-S", "-c", ARMS[arm]], plan=plan)
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            starts[0] += 1
            while process.poll() is None and not stop.wait(0.05):
                pass
            clear_away(Confined(name, plan), process)
            backoff = backoff.lost(time.monotonic(), ready_since=None)

    runner = threading.Thread(target=keep_running)
    runner.start()
    time.sleep(0.3)  # it is at it
    try:
        yield lambda: starts[0]
    finally:
        stop.set()
        runner.join()


def clear_away(confined: Confined, process: subprocess.Popen[bytes]) -> None:
    confined.group.kill()
    process.wait()
    while not confined.end():
        time.sleep(0.01)


def told(windows: dict[str, list[list[float]]], arm: str, starts: int, draw: random.Random) -> dict[str, Any]:
    every = [seconds for window in windows[arm] for seconds in window]
    rounds = range(len(windows[arm]))
    ratios = sorted(
        p99([windows[arm][i] for i in drawn]) / p99([windows[BEHAVED][i] for i in drawn])
        for drawn in ([draw.choice(rounds) for _ in rounds] for _ in range(DRAWS))
    )
    return {
        "starts": starts,
        "median_s": statistics.median(every),
        "p99_s": p99(windows[arm]),
        "p99_over_behaved": p99(windows[arm]) / p99(windows[BEHAVED]),
        "interval": [ratios[int(0.025 * DRAWS)], ratios[int(0.975 * DRAWS)]],
    }


def p99(windows: list[list[float]]) -> float:
    every = sorted(seconds for window in windows for seconds in window)
    return every[min(len(every) - 1, int(0.99 * len(every)))]


if __name__ == "__main__":
    main()
