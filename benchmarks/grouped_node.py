"""A node in a memory control group of its own: the kernel says what it uses, and whether its limit was enough."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.attach import wait_until_up
from benchmarks.node import PORT

from thaloom.edge.client.control import ControlClient


@contextlib.contextmanager
def group(limit: int | None = None) -> Iterator[Path]:
    """A memory control group below our own."""
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    v1 = [path for _, names, path in lines if "memory" in names.split(",")]
    base = Path("/sys/fs/cgroup/memory" + v1[0]) if v1 else Path("/sys/fs/cgroup" + lines[-1][2])
    made = base / f"thaloom-benchmark-{os.getpid()}"
    made.mkdir()
    try:
        if limit is not None:
            (made / ("memory.limit_in_bytes" if v1 else "memory.max")).write_text(str(limit))
        yield made
    finally:
        for _ in range(100):
            try:
                for child in sorted((each for each in made.rglob("*") if each.is_dir()), reverse=True):
                    child.rmdir()
                made.rmdir()
                break
            except OSError:
                time.sleep(0.1)


def used(group: Path) -> int:
    """Without files that can be dropped."""
    v1 = group / "memory.usage_in_bytes"
    current = int((v1 if v1.exists() else group / "memory.current").read_text())
    stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    return current - int(stat.get("total_inactive_file") or stat["inactive_file"])


def out_of_memory(group: Path) -> int:
    """Processes that the system has killed there for want of memory."""
    name = "memory.oom_control" if (group / "memory.oom_control").exists() else "memory.events"
    return sum(
        int(line.split()[1])
        for each in (group, *(child for child in group.rglob("*") if child.is_dir()))
        for line in (each / name).read_text().splitlines()
        if line.startswith("oom_kill ")
    )


@contextlib.contextmanager
def node(folder: Path, group: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="g-", dir=folder) as home:
        environment = os.environ | {"THALOOM_HOME": home, "THALOOM_PORT": str(PORT)}
        enter = f"echo $$ > {group}/cgroup.procs; exec {sys.executable} -m thaloom.daemon"
        Path(home, "logs").mkdir()
        with Path(home, "logs", "daemon.log").open("wb") as log:
            daemon = subprocess.Popen(["sh", "-c", enter], env=environment, stdout=log, stderr=log)
        try:
            wait_until_up(Path(home))
            yield Path(home)
        finally:
            with ControlClient(Path(home)) as client:
                client.down()
            daemon.wait(60)
