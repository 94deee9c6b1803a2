"""A killed worker, and the first token after it: `python -m benchmarks.attach FOLDER`.

FOLDER is on a disk with 3 GB free; the 0.5 B shape of benchmarks/random_models.py is made there once. On a node of its
own the worker is ended with SIGKILL, again and again, and whoever asks meanwhile asks until there is an answer: in turn
with a worker that waits for this, everything imported (config.toml: standby), and with none. Told is the time from the
kill to the first token, and where it went, by the events of daemon and worker: until the loss was seen, until another
process was started (or was this worker, behind its walls), until that listened, until its model was ready, until the
token. Who waited may listen a moment before the daemon has heard that it does.

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


KINDS = ("standby", "fresh")
STAGES = ("killed_to_lost", "lost_to_started", "started_to_listening", "listening_to_ready", "ready_to_token")


def measured(home: Path, model: Path, weights: str, runs: int) -> dict[str, Any]:
    taken: dict[str, dict[str, list[float]]] = {
        kind: {name: [] for name in ("killed_to_first_token", *STAGES)} for kind in KINDS
    }
    with ControlClient(home) as client:
        client.pull(PullRequest(source=str(model), name="m"))
        for number in range(-1, 2 * runs):
            kind = KINDS[number % 2]
            keep_one_waiting(home, client, kind == "standby")
            client.serve("m", ServeRequest.model_validate(WISH | {"weights": weights, "max_queue": 101 + number}))
            client.wait_ready("m", timeout_s=120)
            wait_for_token()
            waiting = None
            while (waiting is not None) != (kind == "standby"):
                waiting = client.status().standby_pid
                time.sleep(0.1)
            (worker,) = [process.pid for process in client.processes() if process.role == "worker"]
            begun = time.time()
            os.kill(worker, signal.SIGKILL)
            answered = wait_for_token()
            (after,) = [process.pid for process in client.processes() if process.role == "worker"]
            assert (after == waiting) == (kind == "standby"), "another process than was to be measured"
            if number >= 0:  # the first packs, writes and fills
                taken[kind]["killed_to_first_token"].append(answered - begun)
                for name, seconds in stages_of(home, begun, answered).items():
                    taken[kind][name].append(seconds)
    (ready,) = [event for event in events(home / "logs" / "m.log") if event["event"] == "WorkerReady"][-1:]
    pairs = zip(*(taken[kind]["killed_to_first_token"] for kind in KINDS), strict=True)
    return {
        "weight_bytes": ready["weight_bytes"],
        "shared_weight_bytes": ready.get("shared_weight_bytes", 0),
        "standby_beside_fresh": statistics.median(standby / fresh for standby, fresh in pairs),
        "seconds": {
            kind: {
                name: {"median": statistics.median(each), "least": min(each), "most": max(each)}
                for name, each in stages.items()
            }
            for kind, stages in taken.items()
        },
    }


def keep_one_waiting(home: Path, client: ControlClient, wanted: bool) -> None:
    """The daemon reads its settings again."""
    (home / "config.toml").write_text(f"standby = {str(wanted).lower()}\n")
    os.kill(client.status().pid, signal.SIGHUP)


def stages_of(home: Path, begun: float, answered: float) -> dict[str, float]:
    """By the words of the daemon and of the worker that came after `begun`."""
    daemon = {
        event["event"]: event["time"]
        for event in events(home / "logs" / "daemon.log")
        if event["time"] >= begun and event.get("role") == "worker"
    }
    told = {event["event"]: event["time"] for event in events(home / "logs" / "m.log") if event["time"] >= begun}
    moments = (begun, daemon["ProcessLost"], daemon["ProcessStarted"], told["WorkerListening"], told["WorkerReady"])
    ends = (*moments[1:], answered)
    return {name: end - start for name, start, end in zip(STAGES, moments, ends, strict=True)}


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
