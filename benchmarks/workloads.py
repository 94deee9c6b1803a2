"""Ten thousand workloads in the desired state: `python benchmarks/workloads.py`. Writes a record.

A real node of its own, with a home of its own. Its state has services that were accepted by an earlier, larger machine
and are held for want of memory, jobs that are over and jobs that wait for others; one service is served for real.
Measured: the reconciler's passes as the node times them itself, each after a change of labels, which is journalled and
told; the daemon's memory (PSS and RSS of smaps_rollup); `thaloom ps` as a shell starts it; and the same for a node with
nothing in it, in turn. CPU seconds stand beside wall seconds: on a busy machine the latter say little.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from node import machine, write_record

from thaloom.base.clock import SystemClock
from thaloom.base.ids import JobName, ServiceName
from thaloom.edge.client.control import ControlClient
from thaloom.edge.wire.control import PullRequest, ServeRequest
from thaloom.init.layout import Layout
from thaloom.kernel.state.jobs.types import Dependency, JobSpec, JobState
from thaloom.kernel.state.store import StateStore
from thaloom.kernel.state.types import ServiceSpec
from thaloom.kernel.trust.seals import node_key, sealing

TINY = Path(__file__).parents[1] / "models" / "tiny"
TOO_MUCH = 1 << 50
PROGRAM = (sys.executable, "-P", "-c", "import sys; from thaloom.user.cli import main; sys.exit(main())")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--services", type=int, default=5000)
    parser.add_argument("--jobs", type=int, default=5000)
    parser.add_argument("--passes", type=int, default=100)
    parser.add_argument("--runs", type=int, default=10, help="of thaloom ps")
    parser.add_argument("--no-record", action="store_true")
    given = parser.parse_args()
    load = os.getloadavg()
    with tempfile.TemporaryDirectory(prefix="w") as folder:
        full, empty = Path(folder) / "f", Path(folder) / "e"
        seed(full, given.services, given.jobs)
        seed(empty, 0, 0)
        with Running(full) as many, Running(empty) as none:
            result = {
                "workloads": {"services": given.services + 1, "jobs": given.jobs},
                "pass_s": passes(many, given.passes),
                "pass_of_an_empty_node_s": passes(none, given.passes),
                "daemon": memory(many.pid),
                "daemon_of_an_empty_node": memory(none.pid),
                "ps": listing(many.home, none.home, given.runs),
                "load_average_before": load,
                "load_average_after": os.getloadavg(),
            }
    print_result(result)
    if not given.no_record:
        write_record("workloads", {"machine": machine(), **result})


def seed(home: Path, services: int, jobs: int) -> None:
    """The state of a node that is down."""
    layout = Layout(home)
    layout.create()
    (home / "config.toml").write_text('[sandbox]\nwalls = "off"\n')
    with closing(StateStore(layout.state, SystemClock(), seal=sealing(node_key(layout.node_key)))) as store:
        with store.together():
            for number in range(services):
                name, labels = ServiceName(f"service-{number:05}"), {"app": f"app-{number % 100}", "tier": "batch"}
                store.put_service(ServiceSpec(name=name, model="tiny", kv_bytes=TOO_MUCH, labels=labels))
        with store.together():
            for number in range(jobs):
                waits = (Dependency(job=JobName("job-00000")),) if number and number % 5 == 0 else ()
                store.jobs.put(JobSpec(name=JobName(f"job-{number:05}"), command=("true",), depends_on=waits))
            now = time.time()
            over = {
                JobName(f"job-{number:05}"): JobState(phase="succeeded", since=now, ended_by="exit", num_attempts=1)
                for number in range(jobs)
                if number % 5
            }
            if jobs:  # the one that others wait for waits for its turn, long after this measurement
                over[JobName("job-00000")] = JobState(phase="pending", since=now, next_try_at=now + 86_400)
            store.jobs.set_states(over)


class Running:
    """A node of that home, with one service served for real."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def __enter__(self) -> Running:
        environment = os.environ | {"THALOOM_HOME": str(self.home), "THALOOM_PORT": "0"}
        with (self.home / "daemon.out").open("wb") as log:
            command = [sys.executable, "-P", "-m", "thaloom.daemon", "--port", str(free_port())]
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        self.pid = self._process.pid
        self.client = ControlClient(self.home, timeout_s=300)
        deadline = time.monotonic() + 300
        while True:
            try:
                self.client.version()
                break
            except Exception:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise
                time.sleep(0.1)
        self.client.pull(PullRequest(source=str(TINY), name="tiny"))
        self.client.serve("served", ServeRequest(model="tiny", num_threads=1))
        self.client.wait_ready("served", timeout_s=300)
        return self

    def __exit__(self, *_: object) -> None:
        self.client.down()
        self._process.wait(timeout=120)


def free_port() -> int:
    import socket

    with closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def passes(node: Running, wanted: int) -> dict[str, dict[str, float]]:
    """Of passes that were asked for one by one: each change of labels is one."""
    durations, cpus, seen = [], [], node.client.status().num_passes
    for number in range(wanted):
        request = ServeRequest(model="tiny", num_threads=1, labels={"round": str(number)})
        node.client.serve("served", request)
        status = node.client.status()
        assert status.num_passes > seen, "a change is a pass"
        seen = status.num_passes
        durations.append(status.last_pass_s)
        cpus.append(status.last_pass_cpu_s)
        time.sleep(0.05)
    return {"wall": spread(durations), "cpu": spread(cpus)}


def memory(pid: int) -> dict[str, int]:
    """Bytes. Source: proc(5), smaps_rollup."""
    found = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, number, *_ = line.split()
        if name in ("Rss:", "Pss:"):
            found[name[:-1].lower() + "_bytes"] = int(number) * 1024
    return found


def listing(many: Path, none: Path, runs: int) -> dict[str, dict[str, float]]:
    """`thaloom ps`, of either node in turn, and the interpreter alone."""
    commands = {
        "many": (many, (*PROGRAM, "ps")),
        "none": (none, (*PROGRAM, "ps")),
        "python": (none, (sys.executable, "-c", "")),
    }
    walls: dict[str, list[float]] = {name: [] for name in commands}
    cpus: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(runs + 1):
        for name, (home, command) in commands.items():
            before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            environment = os.environ | {"THALOOM_HOME": str(home)}
            subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            walls[name].append(time.perf_counter() - begun)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpus[name].append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    # The first of each warms the page cache and the compiled files.
    return {
        name: {f"wall_{key}": value for key, value in spread(walls[name][1:]).items()}
        | {f"cpu_{key}": value for key, value in spread(cpus[name][1:]).items()}
        for name in commands
    }


def spread(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "least": round(ordered[0], 4),
        "median": round(statistics.median(ordered), 4),
        "p90": round(ordered[int(0.9 * (len(ordered) - 1))], 4),
        "most": round(ordered[-1], 4),
    }


def print_result(result: dict[str, Any]) -> None:
    for name, value in result.items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()
