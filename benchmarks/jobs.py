"""What jobs cost: a pass over ten thousand of them, opening their books, and a reaper's start and size.

    python benchmarks/jobs.py

Writes <date>-jobs.json. Passes are timed on a store of its own with a ManualClock and no process; the reaper is a real
one, without walls, around `sleep`.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from node import machine, write_record

from thaloom.base.clock import ManualClock
from thaloom.base.ids import JobName
from thaloom.init.jobs.decide import Snapshot, decide, next_look_at
from thaloom.init.jobs.files import JobFiles
from thaloom.init.jobs.reaper.plan import ReaperPlan
from thaloom.init.jobs.runs import reaper_command
from thaloom.kernel.sandbox.inside.words import encode
from thaloom.kernel.state.jobs.types import Dependency, JobResources, JobSpec, JobState
from thaloom.kernel.state.store import StateStore

NUM_JOBS = 10_000
RUNS = 30
GIB = 1 << 30


def main() -> None:
    figures: dict[str, Any] = {"num_jobs": NUM_JOBS, "runs": RUNS}
    finished = {"state": JobState(phase="succeeded", since=1.0, num_attempts=1)}
    base = JobName("j0")
    figures["pass_ms"] = {
        "finished": pass_ms(lambda _: ({}, finished)),
        "waiting_for_memory": pass_ms(lambda _: ({"resources": JobResources(memory_bytes=64 * GIB)}, {})),
        "waiting_for_a_job": pass_ms(
            lambda name: ({} if name == base else {"depends_on": (Dependency(job=base),)}, {}), max_running=0
        ),
    }
    figures["open_s"], figures["store_mib"] = opening()
    figures["reaper"] = reapers()
    write_record("jobs", {**machine(), **figures})


def fill(store: StateStore, wish: Callable[[JobName], tuple[dict[str, Any], dict[str, Any]]]) -> None:
    """Straight into the books: ten thousand flushes would measure the disk."""
    jobs = []
    for number in range(NUM_JOBS):
        name = JobName(f"j{number}")
        spec, more = wish(name)
        job = store.jobs._wished(JobSpec(name=name, command=("sh", "-c", "exit 0"), **spec), None)
        jobs.append(type(job)(spec=job.spec, state=more.get("state", job.state), created_at=float(number)))
    store.jobs._write(jobs)


def pass_ms(
    wish: Callable[[JobName], tuple[dict[str, Any], dict[str, Any]]], *, max_running: int = 64
) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        store = StateStore(Path(folder) / "state.db", ManualClock(5.0))
        fill(store, wish)
        times = []
        for _ in range(RUNS):
            begin = time.perf_counter()
            look = Snapshot(
                now=10.0,
                active=store.jobs.active,
                known=store.jobs.known,
                free_bytes=4 * GIB,
                default_bytes=GIB // 4,
                max_running=max_running,
            )
            assert decide(look) == ()
            next_look_at(look)
            times.append((time.perf_counter() - begin) * 1000)
        store.close()
    return spread(times)


def opening() -> tuple[float, float]:
    """Seconds to open a store of so many jobs that are over, and what they take in memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state.db"
        store = StateStore(path, ManualClock(5.0))
        fill(store, lambda _: ({}, {"state": JobState(phase="succeeded", since=1.0, num_attempts=1)}))
        store.close()
        before, begin = resident_mib(), time.perf_counter()
        store = StateStore(path, ManualClock(5.0))
        opened_s, grown = time.perf_counter() - begin, resident_mib() - before
        store.close()
    return round(opened_s, 3), round(grown, 1)


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def reapers() -> dict[str, Any]:
    """From starting one to its program being let go, and what it holds then."""
    times, sizes = [], {}
    for _ in range(RUNS):
        with tempfile.TemporaryDirectory() as folder:
            files = JobFiles(Path(folder) / "job")
            files.create()
            plan = ReaperPlan(
                attempt=1, claim=str(files.claim_file(1)), ended=str(files.ended_file(1)), lock=str(files.lock),
                log=str(files.log), log_bytes=1 << 20, grace_s=1.0, command=["/bin/sleep", "60"], walled=False,
            )  # fmt: skip
            files.plan(1).write_bytes(plan.encode())
            environment = os.memfd_create("variables")
            os.write(environment, encode([("PATH", "/bin")]))
            os.lseek(environment, 0, os.SEEK_SET)
            begin = time.perf_counter()
            reaper = subprocess.Popen(
                reaper_command(files.plan(1), environment), pass_fds=(environment,), env={}, start_new_session=True
            )
            while (claim := files.claim(1)) is None or claim.program is None:
                time.sleep(0.0005)
            times.append((time.perf_counter() - begin) * 1000)
            sizes = memory_of(reaper.pid)
            reaper.terminate()
            reaper.wait()
            os.close(environment)
    return {"start_ms": spread(times), "memory_kib": sizes}


def memory_of(pid: int) -> dict[str, int]:
    facts: dict[str, int] = {"private": 0}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, rest = line.partition(":")
        if name in ("Rss", "Pss"):
            facts[name.lower()] = int(rest.split()[0])
        elif name.startswith("Private_"):
            facts["private"] += int(rest.split()[0])
    return facts


def spread(values: list[float]) -> dict[str, float]:
    return {"fastest": round(min(values), 2), "median": round(statistics.median(values), 2)}


if __name__ == "__main__":
    main()
