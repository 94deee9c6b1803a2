"""Kill each part of a node with SIGKILL and time what people notice: `make bench`. Writes <date>-recovery.json.

Promised: a client on a killed worker has a typed error within 2 s and the service is back by itself; a killed door is
back within 2 s; of a killed daemon nobody who streams notices anything, and the next daemon adopts what runs.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import threading
import time
import urllib.error
import urllib.request
from typing import Any

from node import PORT, PROMPT, THALOOM, listing, machine, node, request, write_record

RUNS = 5


def main() -> None:
    errors, services, doors = [], [], []
    for _ in range(RUNS):  # a node of its own each time: repeated kills are a crash loop, and that backs off on purpose
        with node():
            error_s, service_s = kill_the_worker()
            errors.append(error_s)
            services.append(service_s)
            doors.append(kill_the_door())
    with node():
        daemon = kill_the_daemon()
    figures = {
        "worker_killed_to_typed_error_s": spread(errors),
        "worker_killed_to_served_again_s": spread(services),
        "door_killed_to_served_again_s": spread(doors),
        "daemon_killed": daemon,
    }
    write_record("recovery", {**machine(), **figures})


def spread(seconds: list[float]) -> dict[str, float]:
    return {"median": statistics.median(seconds), "max": max(seconds)}


def kill_the_worker() -> tuple[float, float]:
    """From SIGKILL in the middle of a stream to the error event at the client, and to the next answer."""
    wait_until_served()
    worker = pid_of("worker")
    connection, response = request("tiny", PROMPT, max_tokens=900)
    response.readline()
    begin = kill(worker)
    last = [line for line in response if line.startswith(b"data: ")][-1]
    error_s = time.perf_counter() - begin
    assert json.loads(last[6:])["error"]["code"] == "worker_lost", last
    connection.close()
    return error_s, wait_until_served() - begin


def kill_the_door() -> float:
    wait_until_served()
    begin = kill(pid_of("door"))
    return wait_until_served() - begin


def kill_the_daemon() -> dict[str, Any]:
    """A stream that is running and a request that comes while there is no daemon; then who the next one adopts."""
    wait_until_served()
    before = {process["role"]: process["pid"] for process in listing("ps")["processes"]}
    outcome: dict[str, Any] = {}

    def long_stream() -> None:
        connection, response = request("tiny", PROMPT, max_tokens=900)
        outcome["running_stream_ended_whole"] = response.read().rstrip().endswith(b"[DONE]")
        connection.close()

    stream = threading.Thread(target=long_stream)
    stream.start()
    time.sleep(0.1)
    kill(before["daemon"])
    outcome["request_without_daemon_answered"] = ask()
    stream.join()
    subprocess.run([THALOOM, "up", "--detach"], check=True, stdout=subprocess.DEVNULL)
    after = {process["role"]: process["pid"] for process in listing("ps")["processes"]}
    outcome["door_adopted"] = before["door"] == after["door"]
    outcome["worker_adopted"] = before["worker"] == after["worker"]
    return outcome


def pid_of(role: str) -> int:
    (pid,) = [process["pid"] for process in listing("ps")["processes"] if process["role"] == role]
    return int(pid)


def kill(pid: int) -> float:
    """End that process of our own node, and the moment it was done."""
    os.kill(pid, signal.SIGKILL)
    return time.perf_counter()


def wait_until_served(timeout_s: float = 30.0) -> float:
    """The moment a request is answered."""
    deadline = time.perf_counter() + timeout_s
    while not ask():
        assert time.perf_counter() < deadline, "not served again"
        time.sleep(0.01)
    return time.perf_counter()


def ask() -> bool:
    body = json.dumps({"model": "tiny", "prompt": "a", "max_tokens": 1}).encode()
    headers = {"content-type": "application/json"}
    try:
        question = urllib.request.Request(f"http://127.0.0.1:{PORT}/v1/completions", body, headers)
        with urllib.request.urlopen(question, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


if __name__ == "__main__":
    main()
