"""What the way through worker, socket and door costs: `python benchmarks/door.py`. Writes a dated record.

The same requests are answered twice, turn by turn (A B A B ...): by an engine in a process of its own, asked directly,
and by a node through its HTTP door, streamed to a client that is this process. Both have the same model, threads and
settings. Quoted: the median over the pairs of (direct - through the door) / direct, in output tokens/s.

Beside it, because it does not depend on who else uses the machine: processor time of the door, and of the worker's
threads but the engine's, in microseconds for each token.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from node import PORT, THALOOM, listing, machine, write_record
from random_models import SHAPES, make

from thaloom.base.clock import SystemClock
from thaloom.base.ids import ServiceName, WorkerId
from thaloom.base.plugins import Registry
from thaloom.hal.driver import Driver
from thaloom.kernel.models.store import ModelStore
from thaloom.work.runtime.architectures import Architecture
from thaloom.work.runtime.core.engine import Engine
from thaloom.work.runtime.messages import Finished, Generate
from thaloom.work.runtime.spec import WorkerSpec
from thaloom.work.runtime.worker.loading import load

PROMPT_TOKENS = 16
MAX_SEQUENCES = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SHAPES, default="llama-135m")
    parser.add_argument("--models", type=Path, default=Path(tempfile.gettempdir()) / "thaloom-random-models")
    parser.add_argument("--streams", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--note", default="")
    parser.add_argument("--engine", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.engine:
        serve_directly(given.engine, given.model)
        return
    folder = make(SHAPES[given.model], given.models / given.model)
    with tempfile.TemporaryDirectory() as home:
        os.environ |= {"THALOOM_HOME": home, "THALOOM_PORT": str(PORT)}
        try:
            record = measure(folder, given)
        finally:
            subprocess.run([THALOOM, "down"], check=False, stdout=subprocess.DEVNULL)
    write_record(
        "door", {**machine(), "note": given.note, "model": given.model, "load_average": os.getloadavg(), **record}
    )


def measure(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    run = ["--max-sequences", str(MAX_SEQUENCES), "--context", "1024"]
    subprocess.run([THALOOM, "up", "-d"], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([THALOOM, "pull", folder, "--name", given.model], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([THALOOM, "serve", given.model, *run], check=True, stdout=subprocess.DEVNULL)
    command = [sys.executable, __file__, "--engine", os.environ["THALOOM_HOME"], "--model", given.model]
    found: dict[str, Any] = {}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as engine:
        directly(engine, 2, 8)
        through_door(given.model, 2, 8)
        for num_streams in given.streams:
            pairs, spent = [], []
            for _ in range(given.pairs):
                alone = directly(engine, num_streams, given.tokens)
                before = processor_seconds()
                pairs.append((alone, through_door(given.model, num_streams, given.tokens)))
                num_tokens = num_streams * given.tokens
                spent.append({who: (s - before[who]) / num_tokens * 1e6 for who, s in processor_seconds().items()})
            costs = [1 - door / alone for alone, door in pairs]
            found[str(num_streams)] = {
                "directly_tokens_per_s": statistics.median(alone for alone, _ in pairs),
                "through_door_tokens_per_s": statistics.median(door for _, door in pairs),
                "cost": statistics.median(costs),
                "cost_min": min(costs),
                "cost_max": max(costs),
                "processor_us_per_token": {who: statistics.median(s[who] for s in spent) for who in spent[0]},
            }
        engine.stdin.close()  # type: ignore[union-attr]  # it is a pipe
    return {"tokens": given.tokens, "pairs": given.pairs, "streams": found}


def processor_seconds() -> dict[str, float]:
    """So far: of the door, and of the worker's threads that talk instead of computing (its first, the event loop)."""
    pids = {process["role"].split()[0]: process["pid"] for process in listing("ps")["processes"]}
    worker = next(pid for role, pid in pids.items() if role.startswith("worker"))
    return {"door": spent(f"/proc/{pids['door']}/stat"), "worker": spent(f"/proc/{worker}/task/{worker}/stat")}


def spent(stat: str) -> float:
    """Seconds of user and system time. Source: proc(5)."""
    fields = Path(stat).read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def prompts(num_streams: int) -> list[list[int]]:
    rng = np.random.default_rng(time.monotonic_ns())  # new ones each time: no prefix is found again
    return [rng.integers(300, 7000, PROMPT_TOKENS).tolist() for _ in range(num_streams)]


def directly(engine: subprocess.Popen[str], num_streams: int, num_tokens: int) -> float:
    assert engine.stdin is not None
    assert engine.stdout is not None
    engine.stdin.write(f"{num_streams} {num_tokens}\n")
    engine.stdin.flush()
    return float(engine.stdout.readline())


def serve_directly(home: Path, model: str) -> None:
    """For each line `STREAMS TOKENS` on standard input, the tokens/s of an engine that does it."""
    spec = WorkerSpec(
        worker=WorkerId("direct"), service=ServiceName("direct"), model=model, store=str(home / "models"), socket="-",
        context_length=1024, max_sequences=MAX_SEQUENCES,
    )  # fmt: skip
    drivers: Registry[Driver] = Registry("driver")
    architectures: Registry[Architecture] = Registry("architecture")
    drivers.discover()
    architectures.discover()
    loaded = load(spec, ModelStore(Path(spec.store), SystemClock()), drivers, architectures, threading.Event())
    memory = loaded.pool.memory
    engine = Engine(loaded.executable, loaded.config, monotonic=time.monotonic, emit=lambda _: None, memory=memory)
    for line in sys.stdin:
        num_streams, num_tokens = map(int, line.split())
        begin = time.perf_counter()
        for prompt in prompts(num_streams):
            engine.submit(
                Generate(
                    id="direct", prompt=prompt, max_tokens=num_tokens, temperature=0.0, top_k=0, top_p=1.0, min_p=0.0,
                    seed=0, stop_tokens=[], logprobs=None,
                )
            )  # fmt: skip
        num_left = num_streams
        while num_left:
            num_left -= sum(isinstance(news, Finished) for _, news in engine.step())
        print(num_streams * num_tokens / (time.perf_counter() - begin), flush=True)
    loaded.close()


def through_door(model: str, num_streams: int, num_tokens: int) -> float:
    """One thread reads all streams, and looks at nothing but their ends: a client that costs as little as one can."""
    waiting = selectors.DefaultSelector()
    begin = time.perf_counter()
    for prompt in prompts(num_streams):
        body = json.dumps(
            {"model": model, "prompt": prompt, "max_tokens": num_tokens, "temperature": 0, "stream": True,
             "ignore_eos": True, "stream_options": {"include_usage": True}}
        ).encode()  # fmt: skip
        connection = socket.create_connection(("127.0.0.1", PORT))
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        waiting.register(connection, selectors.EVENT_READ, bytearray())
    while waiting.get_map():
        for key, _ in waiting.select(timeout=60):
            connection = key.fileobj  # type: ignore[assignment]  # all are sockets
            data = connection.recv(65536)
            key.data.extend(data)
            if b"data: [DONE]" in key.data[-len(data) - 20 :]:
                told = re.findall(rb'"completion_tokens":(\d+)', key.data)
                assert int(told[-1]) == num_tokens, told
                waiting.unregister(connection)
                connection.close()
            assert data, bytes(key.data[-2000:])
    return num_streams * num_tokens / (time.perf_counter() - begin)


if __name__ == "__main__":
    main()
