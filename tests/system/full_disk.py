"""`python -m tests.system.full_disk HOME`: a node whose disk is filled by somebody else stops, heals and writes its
journal all the same. Run where HOME may be mounted over (a mount namespace of its own); prints one line for each step.
"""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
from pathlib import Path

from tests.system.node import PATIENCE_S, Node, eventually, free_port
from thaloom.base.files import free_bytes
from thaloom.base.units import MIB
from thaloom.edge.wire.control import JobRequest
from thaloom.kernel.state.reserve import DEFAULT_BYTES, PLENTY_BYTES


def main(home: Path) -> None:
    size = DEFAULT_BYTES + PLENTY_BYTES + 64 * MIB  # what the node itself needs, and enough for a reserve to be made
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(home)], check=True)
    node = Node(home, free_port())
    try:
        node.start()
        node.serve_tiny()
        assert (home / "reserve").stat().st_blocks * 512 >= DEFAULT_BYTES
        fill(home / "hog")
        print(f"free {free_bytes(home)}", flush=True)
        with node.client() as client:
            client.run_job("later", JobRequest(command=["true"], network="host"))
            eventually(lambda: client.job("later").conditions[0].reason == "DiskFull")
        before = node.process("worker", "tiny").pid
        node.kill(before)
        with node.client() as client:
            eventually(lambda: (found := workers(node)) and before not in found)
            client.wait_ready("tiny", timeout_s=PATIENCE_S)
            print("healed", flush=True)
            client.stop("tiny")
            eventually(lambda: not workers(node))
            print("stopped", flush=True)
        with contextlib.closing(sqlite3.connect(home / "state.db")) as database:
            kinds = [kind for (kind,) in database.execute("SELECT kind FROM journal ORDER BY id")]
        assert kinds.count("StartWorker") >= 4, kinds  # two starts, each before and after
        assert kinds.count("StopWorker") == 2, kinds
        print("written", flush=True)
        assert "ReserveOpened" in node.log()
        (home / "hog").unlink()
        node.serve_tiny()
        assert (home / "reserve").stat().st_blocks * 512 >= DEFAULT_BYTES
        print("whole", flush=True)
        with node.client() as client:
            eventually(lambda: client.job("later").phase == "succeeded")
            assert [attempt.number for attempt in client.job("later").attempts] == [1]
        print("begun", flush=True)
    finally:
        node.clean_up()


def workers(node: Node) -> list[int]:
    with node.client() as client:
        return [process.pid for process in client.processes() if process.role == "worker"]


def fill(path: Path) -> None:
    """To the last byte."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as hog:
        while True:
            hog.write(b"x" * 65536)
    with contextlib.suppress(OSError), path.open("ab", buffering=0) as hog:
        while True:
            hog.write(b"x")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
