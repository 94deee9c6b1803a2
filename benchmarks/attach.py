"""A killed worker, and the first token after it: `python -m benchmarks.attach FOLDER`.

FOLDER is on a disk with 3 GB free; the 0.5 B shape of benchmarks/random_models.py is made there once. On a node of its
own the worker is ended with SIGKILL, again and again, and whoever asks meanwhile asks until there is an answer. Told is
the time from the kill to the first token, and where it went, by the events of daemon and worker: until the loss was
seen and another process started, until that had imported what it needs and listened, until its model was ready.

A service that is killed more than once a minute is started again later and later on purpose: before each kill it is
wished anew, which forgives.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.node import machine, write_record
from benchmarks.random_models import SHAPES, make

from thaloom.base.errors import NodeNotRunning
from thaloom.edge.client.control import ControlClient
from thaloom.edge.wire.control import PullRequest, ServeRequest

SHAPE = "qwen2.5-0.5b"
PORT = 7491
WISH: dict[str, Any] = {"model": "m", "context_length": 1024, "max_sequences": 4}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", choices=["stored", "int8", "int4"], default="int8")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--record", action="store_true", help="write benchmarks/records/<date>-attach.json")
    asked = parser.parse_args()
    model = make(SHAPES[SHAPE], asked.folder / SHAPE)
    with node(asked.folder) as home:
        told = measured(home, model, asked.weights, asked.runs)
    print(json.dumps(told, indent=1))
    if asked.record:
        write_record("attach", {**machine(), "shape": SHAPE, "weights": asked.weights, **told})
    return 0


def measured(home: Path, model: Path, weights: str, runs: int) -> dict[str, Any]:
    stages: dict[str, list[float]] = {name: [] for name in ("killed_to_first_token", *STAGES)}
    with ControlClient(home) as client:
        client.pull(PullRequest(source=str(model), name="m"))
        for number in range(runs + 1):
            client.serve("m", ServeRequest.model_validate(WISH | {"weights": weights, "max_queue": 100 + number}))
            client.wait_ready("m", timeout_s=120)
            wait_for_token()
            (worker,) = [process.pid for process in client.processes() if process.role == "worker"]
            begun = time.time()
            os.kill(worker, signal.SIGKILL)
            taken = wait_for_token() - begun
            if number:  # the first packs, writes and fills
                stages["killed_to_first_token"].append(taken)
                for name, seconds in stages_of(home, begun).items():
                    stages[name].append(seconds)
    (ready,) = [event for event in events(home / "logs" / "m.log") if event["event"] == "WorkerReady"][-1:]
    return {
        "weight_bytes": ready["weight_bytes"],
        "shared_weight_bytes": ready.get("shared_weight_bytes", 0),
        "seconds": {
            name: {"median": statistics.median(each), "least": min(each), "most": max(each)}
            for name, each in stages.items()
        },
    }


STAGES = ("killed_to_started", "started_to_listening", "listening_to_ready")


def stages_of(home: Path, begun: float) -> dict[str, float]:
    """By the words of the daemon and of the worker that came after `begun`."""
    (started,) = [
        event["time"]
        for event in events(home / "logs" / "daemon.log")
        if event["event"] == "ProcessStarted" and event["role"] == "worker" and event["time"] >= begun
    ]
    told = {event["event"]: event["time"] for event in events(home / "logs" / "m.log") if event["time"] >= begun}
    return {
        "killed_to_started": started - begun,
        "started_to_listening": told["WorkerListening"] - started,
        "listening_to_ready": told["WorkerReady"] - told["WorkerListening"],
    }


def events(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]


def wait_for_token(timeout_s: float = 60.0) -> float:
    """The moment a request is answered by one token."""
    body = json.dumps({"model": "m", "prompt": "The", "max_tokens": 1, "temperature": 0}).encode()
    headers = {"content-type": "application/json"}
    deadline = time.time() + timeout_s
    while time.time() < deadline:
        try:
            question = urllib.request.Request(f"http://127.0.0.1:{PORT}/v1/completions", body, headers)
            with urllib.request.urlopen(question, timeout=timeout_s):
                return time.time()
        except (urllib.error.URLError, OSError):
            time.sleep(0.005)
    raise TimeoutError("not served again")


@contextlib.contextmanager
def node(folder: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="a-", dir=folder) as home:
        environment = os.environ | {"THALOOM_HOME": home, "THALOOM_PORT": str(PORT)}
        Path(home, "logs").mkdir()
        with Path(home, "logs", "daemon.log").open("wb") as log:
            daemon = subprocess.Popen([sys.executable, "-m", "thaloom.daemon"], env=environment, stdout=log, stderr=log)
        try:
            wait_until_up(Path(home))
            yield Path(home)
        finally:
            daemon.terminate()
            daemon.wait(60)


def wait_until_up(home: Path, timeout_s: float = 30.0) -> None:
    deadline = time.time() + timeout_s
    while time.time() < deadline:
        with contextlib.suppress(NodeNotRunning), ControlClient(home) as client:
            client.status()
            return
        time.sleep(0.05)
    raise TimeoutError("the node does not answer")


if __name__ == "__main__":
    sys.exit(main())
