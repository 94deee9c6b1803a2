"""Measure one node of this machine: `make bench`. Writes benchmarks/records/<date>-node.json and prints a table.

What is measured, and against what limit:

* decode, tokens/s at 1, 4 and 16 streams, through the HTTP door. Limit: a step must read every weight once, so n
  streams cannot exceed n * read bandwidth / weight bytes (the bandwidth is probed right before, on all cores);
* time to first token of a 128-token prompt, and of a whole cold node (nothing running to the first text);
* resident memory of worker, door and daemon;
* `thaloom version` over an empty Python, interleaved, median of ratios.
"""

from __future__ import annotations

import argparse
import datetime
import http.client
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
THALOOM = Path(sys.executable).parent / "thaloom"
PORT = 17431
PROMPT = "The socket option"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """One streamed answer as the client saw it. Seconds from sending the request."""

    first_token_s: float
    last_token_s: float
    num_tokens: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs

    record = {**machine(), "command_line": command_line_start(runs)}
    with node() as cold:
        record["cold_node_to_first_token_s"] = cold
        record |= measure_service("tiny", runs)
    write_record("node", record)


def write_record(kind: str, record: dict[str, Any]) -> None:
    """benchmarks/records/<date>-<kind>.json, and the same on the terminal."""
    record = {"when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), **record}
    path = HERE / "records" / f"{record['when'][:10]}-{kind}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))
    print(f"written: {path.relative_to(HERE.parent)}")


def machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
    return {"cpu": cpu, "cores": os.cpu_count(), "python": platform.python_version(), "kernel": platform.release()}


def command_line_start(runs: int) -> dict[str, float]:
    """`thaloom version` and an empty Python, A B A B ...; wall seconds, and the median of pairwise ratios."""
    ours, empty = [], []
    for _ in range(runs + 1):
        ours.append(timed([str(THALOOM), "version"]))
        empty.append(timed([sys.executable, "-c", "pass"]))
    pairs = [a / b for a, b in zip(ours[1:], empty[1:], strict=True)]  # the first pair warms the page cache
    return {
        "version_s": statistics.median(ours[1:]),
        "empty_python_s": statistics.median(empty[1:]),
        "ratio": statistics.median(pairs),
        "ratio_min": min(pairs),
        "ratio_max": max(pairs),
    }


def timed(command: list[str]) -> float:
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


@contextmanager
def node() -> Iterator[float]:
    """A node of our own in a folder of its own; gives the seconds from nothing to the first text."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"THALOOM_HOME": folder, "THALOOM_PORT": str(PORT)}
        try:
            begin = time.perf_counter()
            subprocess.run([THALOOM, "run", "--max-tokens", "1", "tiny", PROMPT], check=True, stdout=subprocess.DEVNULL)
            yield time.perf_counter() - begin
        finally:
            subprocess.run([THALOOM, "down"], check=False, stdout=subprocess.DEVNULL)


def measure_service(model: str, runs: int) -> dict[str, Any]:
    (service,) = [s for s in listing("ps")["services"] if s["spec"]["name"] == model]
    weight_bytes = service["weight_bytes"]
    decode = {}
    for num_streams in (1, 4, 16):
        rates, limits = [], []
        for _ in range(runs):
            bandwidth = read_bandwidth(num_threads=os.cpu_count() or 1)
            rates.append(decode_rate(model, num_streams))
            limits.append(bandwidth / weight_bytes * num_streams)
        decode[str(num_streams)] = {
            "tokens_per_s": statistics.median(rates),
            "min": min(rates),
            "max": max(rates),
            "share_of_memory_roofline": statistics.median(r / limit for r, limit in zip(rates, limits, strict=True)),
        }
    prompt = PROMPT + " is used to" * 42  # about 128 tokens
    first = [stream(model, f"{i} {prompt}", max_tokens=2).first_token_s for i in range(runs)]
    return {
        "model": model,
        "weight_bytes": weight_bytes,
        "decode": decode,
        "time_to_first_token_s": {"median": statistics.median(first), "min": min(first), "max": max(first)},
        "resident_bytes": resident(),
    }


def decode_rate(model: str, num_streams: int) -> float:
    """Tokens per second of all streams together, from the first stream's first token to the last one's last."""
    results: list[Stream] = []
    threads = [
        threading.Thread(target=lambda i=i: results.append(stream(model, f"{PROMPT} {i}", max_tokens=128)))
        for i in range(num_streams)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    begin = min(result.first_token_s for result in results)
    end = max(result.last_token_s for result in results)
    return sum(result.num_tokens - 1 for result in results) / (end - begin)


def request(model: str, prompt: str, *, max_tokens: int) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    """A streamed greedy completion that has begun; the caller reads it and closes the connection."""
    body = {
        "model": model,
        "prompt": prompt,
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": True,
        "ignore_eos": True,
        "stream_options": {"include_usage": True},
    }
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=120)
    connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
    response = connection.getresponse()
    assert response.status == 200, response.read()
    return connection, response


def stream(model: str, prompt: str, *, max_tokens: int) -> Stream:
    """Ask, read to the end, and say when the first and the last token came."""
    begin = time.perf_counter()
    connection, response = request(model, prompt, max_tokens=max_tokens)
    first, last, num_tokens = 0.0, 0.0, 0
    for line in response:
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[6:])
        if event["choices"]:
            last = time.perf_counter() - begin
            first = first or last
        if event.get("usage"):
            num_tokens = event["usage"]["completion_tokens"]
    connection.close()
    return Stream(first_token_s=first, last_token_s=last, num_tokens=num_tokens)


def read_bandwidth(*, num_threads: int, num_bytes: int = 256 * 1024 * 1024) -> float:
    """Bytes per second that `num_threads` threads read from memory together: the physical limit of decode."""
    parts = [np.ones(num_bytes // 8 // num_threads, dtype=np.float64) for _ in range(num_threads)]
    for part in parts:
        part.sum()
    begin = time.perf_counter()
    threads = [threading.Thread(target=part.sum) for part in parts]  # NumPy lets the lock go while it sums
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return num_bytes / (time.perf_counter() - begin)


def resident() -> dict[str, int]:
    """Resident bytes of each process of the node (proc(5), VmRSS)."""
    found = {}
    for process in listing("ps")["processes"]:
        status = Path(f"/proc/{process['pid']}/status").read_text()
        (line,) = [line for line in status.splitlines() if line.startswith("VmRSS")]
        found[process["role"]] = int(line.split()[1]) * 1024
    return found


def listing(verb: str) -> dict[str, Any]:
    done = subprocess.run([THALOOM, verb, "--json"], check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout))


if __name__ == "__main__":
    main()
