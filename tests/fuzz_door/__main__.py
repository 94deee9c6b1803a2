"""Fuzzed requests to a real node: each is answered soundly or refused by a named error, and nothing is left behind.

    python -m tests.fuzz_door --cases 100000 --seed 1     (make fuzz-door)
    python -m tests.fuzz_door --seed 1 --only 4711        one case again, with what is sent and what comes

A daemon, its door and a worker with the bundled model run in a home of their own. To every operation of the door go
requests made from right ones: changed as data, as text and as bytes, compressed, explosive, torn, slow and abandoned.
Afterwards the node must be as before: the same processes, no request running, no page held, no more descriptors,
threads and tasks, no complaint in a log, and the same answer to the same question; and from half-way on no process may
have grown by more than some megabytes. Equal seeds give equal cases.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fuzz_door.cases import Case, make_case
from tests.fuzz_door.judging import NotRight, judge
from tests.fuzz_door.node import (
    as_record,
    ask,
    complaints,
    greedy,
    grown,
    keep_some,
    look_when_calm,
    more_than,
    resident,
    resident_when_calm,
    running_node,
)
from tests.fuzz_door.sound import SOUND
from tests.fuzz_door.talking import NotHttp, talk

AT_ONCE = 24
MAX_PATIENT = 60
"""Beside them, such as wait for the door to lose patience."""
WARM_CASES = 400
"""Of another seed, before the first look at what is held: pools grow to their size, and libraries load."""
MAX_FAILURES = 25
SHARES = 20
"""The cases come in so many parts; after each it is told how much memory the processes have."""


@dataclass(slots=True)
class Found:
    """What came of it."""

    outcomes: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """By operation."""
    harms: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest: list[tuple[float, str]] = field(default_factory=list)

    def took(self, seconds: float, case: Case) -> None:
        self.slowest.append((round(seconds, 2), f"{case.operation}, {case.harm}: case {case.number}"))
        self.slowest = sorted(self.slowest, reverse=True)[:10]

    def fail(self, case: Case, error: Exception) -> None:
        sent = b"".join(piece for _, piece in case.sent.pieces)
        words = f"{case.operation}, {case.harm}, {case.sent.manner}: {type(error).__name__}: {str(error)[:1500]}"
        self.failures.append(f"{case.replay}\n  {words}\n  sent {len(sent)} bytes: {sent[:1500]!r}")
        print(self.failures[-1], file=sys.stderr, flush=True)


async def throw(numbers: Iterator[int], seed: int, port: int, ids: dict[str, str], found: Found) -> None:
    """Every case of these numbers, many at once."""
    patient: set[asyncio.Task[None]] = set()

    async def work() -> None:
        for number in numbers:
            if len(found.failures) >= MAX_FAILURES:
                return
            case = make_case(seed, number, ids)
            if case.sent.manner == "patient" and len(patient) < MAX_PATIENT:
                task = asyncio.create_task(try_case(case, port, found))
                patient.add(task)
                task.add_done_callback(patient.discard)
            else:
                await try_case(case, port, found)

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(work())
    await asyncio.gather(*patient)


async def try_case(case: Case, port: int, found: Found) -> None:
    begun = time.perf_counter()
    try:
        words = judge(case, await talk(case, port))
    except (NotHttp, NotRight, TimeoutError, OSError) as error:
        words = ["failed"]
        found.fail(case, error)
    found.outcomes[case.operation].update(words)
    found.harms[case.harm] += 1
    if case.sent.manner != "patient":
        found.took(time.perf_counter() - begun, case)


def fuzz(cases: int, seed: int) -> dict[str, Any]:
    """The record; `failures` in it are what must not be."""
    found, warm = Found(), Found()
    memory: list[dict[str, int]] = []
    with running_node() as node:
        untold = operations(node) - {(sound.method, _shape(sound.path)) for sound in SOUND}
        ids = keep_some(node)
        asyncio.run(throw(iter(range(WARM_CASES)), seed + 1_000_000, node.port, ids, warm))
        answer = greedy(node)
        before = look_when_calm(node)
        begun = time.monotonic()
        for share in range(SHARES):
            part = range(share * cases // SHARES, (share + 1) * cases // SHARES)
            asyncio.run(throw(iter(part), seed, node.port, ids, found))
            memory.append(resident(node))
            if share == SHARES // 2 - 1:
                half_way = resident_when_calm(node)
            print(f"{part.stop} of {cases} in {time.monotonic() - begun:.0f} s, {memory[-1]}", flush=True)
        duration_s = time.monotonic() - begun
        after = look_when_calm(node, before)
        in_the_end = resident_when_calm(node, half_way)
        found.failures += [f"memory grows: {line}" for line in grown(in_the_end, half_way)]
        found.failures += [f"more than before: {line}" for line in more_than(after, before)]
        found.failures += complaints(node)
        found.failures += [] if greedy(node) == answer else ["the same question got another answer"]
        found.failures += [f"never asked: {method} {path}" for method, path in sorted(untold)]
    return {
        "seed": seed, "cases": cases, "at_once": AT_ONCE, "duration_s": round(duration_s, 1),
        "cases_per_s": round(cases / duration_s, 1), "failures": warm.failures + found.failures,
        "outcomes": dict(sum(found.outcomes.values(), Counter()).most_common()),
        "harms": dict(found.harms), "slowest_s": found.slowest, "resident_mb": memory,
        "resident_mb_calm": {"half_way": half_way, "in_the_end": in_the_end},
        "by_operation": {name: dict(counts.most_common()) for name, counts in sorted(found.outcomes.items())},
        **as_record(before, after),
    }  # fmt: skip


def operations(node: Any) -> set[tuple[str, str]]:
    """All that the door's documents and the control API's say there is; not what would end the node."""
    told = set()
    for path in ("/openapi.json", "/thaloom/v1/openapi.json"):
        for name, methods in ask(node, path)["paths"].items():
            told |= {(method.upper(), _shape(name)) for method in methods if method != "parameters"}
    return told - {("POST", "/thaloom/v1/down")}


_NAMES = ("RESPONSE", "STREAM", "FILE", "BATCH", "resp_gone", "file-gone", "tiny", "absent", "copied:here", "spare",
          "best", "k", "main", "org", "cpu", "a-0123456789ab", "nightly", "acme", "service")  # fmt: skip


def _shape(path: str) -> str:
    """A path with a star wherever a name stands, in documents and in requests alike."""
    path = path.replace("/tiny/resolve/main/config.json", "/*/resolve/*/*")
    path = re.sub(rf"/({'|'.join(_NAMES)})(?=/|$)", "/*", path)
    return re.sub(r"\{\w+\}", "*", path)


def replay(number: int, seed: int) -> int:
    with running_node() as node:
        case = make_case(seed, number, keep_some(node))
        print(f"{case.operation}, {case.harm}, {case.sent.manner}")
        for pause_s, piece in case.sent.pieces:
            print(f"after {pause_s:g} s: {piece[:4000]!r}")
        found = Found()
        asyncio.run(try_case(case, node.port, found))
        print(dict(found.outcomes), found.slowest, complaints(node))
        return 1 if found.failures else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="the number of one case")
    parser.add_argument("--record", action="store_true", help="write benchmarks/records/<date>-fuzz-door.json")
    parser.add_argument("--note", default="", help="for the record")
    given = parser.parse_args()
    if given.only is not None:
        return replay(given.only, given.seed)
    record = fuzz(given.cases, given.seed)
    told = ", ".join(f"{count} {name}" for name, count in record["outcomes"].items())
    print(f"{given.cases} cases in {record['duration_s']} s: {told}")
    print("slowest:", *record["slowest_s"][:3])
    for failure in record["failures"]:
        print(f"FAILED: {failure}")
    if given.record:
        sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
        from benchmarks.node import machine, write_record

        write_record("fuzz-door", {**machine(), "note": given.note, "load_average": os.getloadavg(), **record})
    return 1 if record["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
