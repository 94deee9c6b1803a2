"""What it costs to train with states larger than memory: `python -m benchmarks.states FOLDER [--record]`.

The trainer of the tests (a perceptron and AdamW in NumPy, one thread of BLAS) takes its steps in three ways in turn:
*in memory*, all of it; *plain*, each use reads what it needs before it begins and writes what it changed when it ends,
and waits for both; *ahead*, by kernel.memory.states, which reads ahead and writes behind. Plain and ahead have the same
tiers and the same slice, and the same arrays lie where. FOLDER is on the disk that is meant. The longer a step computes
(`--rows`), the more there is to hide behind.

Told are steps per second, the median of the ratios of each round, and what part of the time that plain offload adds is
hidden. At the end all three have the same weights to the last bit, or this fails.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from benchmarks.node import machine, write_record
from numpy.typing import NDArray
from tests.unit.kernel_memory_states.trainer import InMemory, Perceptron, Uses

from thaloom.base.units import MIB
from thaloom.hal.drivers.cpu.memory import HostMemory
from thaloom.kernel.memory.states.planning import Use, plan
from thaloom.kernel.memory.states.states import States
from thaloom.kernel.memory.tiers.store import TieredStore

WAIT_S = 60.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--depth", type=int, default=10)
    parser.add_argument("--rows", default="128,512,1024", help="examples of a step, by commas")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--record", action="store_true", help="write benchmarks/records/<date>-states.json")
    asked = parser.parse_args()
    told = []
    for rows in map(int, asked.rows.split(",")):
        model = Perceptron(width=asked.width, depth=asked.depth, rows=rows)
        total = sum(array.taken_bytes for array in model.arrays().values())
        for place, share in (("disk", 0.0), ("half in host memory", 0.5), ("host memory", None)):
            told.append({"rows": rows, "place": place, **measure(model, total, share, asked.folder, asked.rounds)})
            print(", ".join(f"{name} {value}" for name, value in told[-1].items()), flush=True)
    if asked.record:
        write_record("states", machine() | {"width": asked.width, "depth": asked.depth, "measured": told})
    return 0


def measure(model: Perceptron, total: int, share: float | None, folder: Path, rounds: int) -> dict[str, Any]:
    """`share` of all bytes stays in host memory beside what is on its way; None: all of it, without a disk."""
    largest = max(array.taken_bytes for array in model.arrays().values())
    host = total if share is None else int((share * total + 4 * largest) * 8 / 7)
    slice_bytes = 2 * max(sum(model.arrays()[name].taken_bytes for name in use.names) for use in model.schedule())
    with contextlib.ExitStack() as stack:

        def store() -> TieredStore:
            place = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=folder)))
            made = TieredStore(host_bytes=host, disk=place, disk_bytes=0 if share is None else 2 * total)
            stack.callback(made.close)
            return made

        memory = HostMemory(slice_bytes, lambda _: None)
        ahead = States(model.arrays(), model.schedule(), memory=memory, store=store())
        stack.callback(ahead.close)
        ways: dict[str, Uses] = {
            "in_memory": InMemory(model.arrays(), model.schedule()),
            "plain": Plain(model, store(), slice_bytes),
            "ahead": ahead,
        }
        return compare(model, ways, rounds) | {"slice_share": round(slice_bytes / total, 3), "mib": total // MIB}


def compare(model: Perceptron, ways: dict[str, Uses], rounds: int) -> dict[str, Any]:
    for states in ways.values():
        model.begin(states)
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    losses: dict[str, list[float]] = {way: [] for way in ways}
    for number, order in zip(range(rounds + 1), itertools.cycle(itertools.permutations(ways)), strict=False):
        for way in order:
            begin = time.perf_counter()
            losses[way] += model.train(ways[way], 1)
            if number:  # the first round warms up
                seconds[way].append(time.perf_counter() - begin)
    same = len({tuple(each) for each in losses.values()}) == 1
    for name in model.arrays():
        if name.startswith(("weight", "mean", "square")):
            same &= len({states.get(name).tobytes() for states in ways.values()}) == 1
    if not same:
        raise SystemExit("the ways of training differ")
    taken = [Seconds(*each) for each in zip(*seconds.values(), strict=True)]
    return {
        **{f"{way}_steps_per_s": round(1 / statistics.median(seconds[way]), 2) for way in ways},
        "ahead_over_plain": median(taken, lambda took: took.plain / took.ahead),
        "plain_of_memory": median(taken, lambda took: took.in_memory / took.plain),
        "ahead_of_memory": median(taken, lambda took: took.in_memory / took.ahead),
        "hidden": median(taken, lambda took: (took.plain - took.ahead) / (took.plain - took.in_memory)),
    }


class Seconds(NamedTuple):
    """Of one step, each way in the same round."""

    in_memory: float
    plain: float
    ahead: float


def median(taken: list[Seconds], of: Callable[[Seconds], float]) -> float:
    return round(statistics.median(map(of, taken)), 3)


class Plain:
    """The same tiers and the same places, but whoever uses something waits for all of it."""

    def __init__(self, model: Perceptron, store: TieredStore, slice_bytes: int) -> None:
        self._arrays, self._store = model.arrays(), store
        self._schedule: dict[str, Use] = {use.name: use for use in model.schedule()}
        bounds = store.bounds
        self._worth = plan(
            self._arrays,
            model.schedule(),
            slice_bytes=slice_bytes,
            host_bytes=bounds["host"],
            disk_bytes=bounds["disk"],
        ).worth
        memory = HostMemory(sum(array.taken_bytes for array in self._arrays.values()), lambda _: None)
        self._rooms: dict[str, NDArray[Any]] = {}
        at = 0
        for name, array in self._arrays.items():  # a place for each: allocating is not what is measured
            self._rooms[name] = memory.data[at : at + array.num_bytes].view(array.dtype).reshape(array.shape)
            at += array.taken_bytes

    @contextlib.contextmanager
    def using(self, name: str) -> Iterator[dict[str, NDArray[Any]]]:
        use = self._schedule[name]
        for each in use.loaded:
            self._load(each)
        yield {each: self._rooms[each] for each in use.names}
        for each in use.kept:
            self.put(each, self._rooms[each])
        for each in use.takes:
            self._store.drop(each.encode())

    def put(self, name: str, values: NDArray[Any]) -> None:
        data = np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
        kept = self._store.put(name.encode(), data, worth=self._worth[name], keep=True, wait_s=WAIT_S)
        if not kept or not self._store.settle(WAIT_S):
            raise SystemExit(f"the disk does not take {name!r}")

    def get(self, name: str) -> NDArray[Any]:
        self._load(name)
        return self._rooms[name].copy()

    def _load(self, name: str) -> None:
        if self._store.where(name.encode()) is None:
            self._rooms[name].fill(0)
        elif not self._store.read(name.encode(), self._rooms[name].reshape(-1).view(np.uint8).data):
            raise SystemExit(f"{name!r} is lost")


if __name__ == "__main__":
    sys.exit(main())
