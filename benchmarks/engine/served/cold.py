"""Cold starts side by side: `python -m benchmarks.engine.served.cold`. Writes benchmarks/records/<date>-cold.json.

From starting the process to the first token of a streamed answer to a 128-token prompt, files in the page cache:

* our worker alone, over its socket, beside llama-server, over HTTP: both one process that loads and answers;
* our whole node, from nothing running to the first text (`thaloom run`): daemon, door and worker.

A B, B A ... as everywhere; the ratio is ours over the peer's, so below 1 is faster. Peak memory is the kernel's
high-water mark when the first token is there, beside what the weights take.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.engine import environments
from benchmarks.engine.engines import end_in_order
from benchmarks.engine.models import random_model
from benchmarks.engine.pairs import order, spread
from benchmarks.engine.peers.llama_cpp import LlamaCpp
from benchmarks.engine.peers.thaloom import Thaloom, model_name
from benchmarks.engine.served.client import Ask, Endpoint, ServerFailed, drive
from benchmarks.engine.served.servers import THALOOM, LlamaServer, free_port, high_water_mark
from benchmarks.node import machine

from thaloom.base.errors import ThaloomError
from thaloom.base.ids import ServiceName, WorkerId
from thaloom.work.runtime.frontend.call import Call, Deadlines
from thaloom.work.runtime.messages import Generate
from thaloom.work.runtime.spec import WorkerSpec, write_spec

RECORDS = Path(__file__).resolve().parents[2] / "records"
PROMPT = tuple(range(100, 228))
CONTEXT = 1024
GIVE_UP_S = 120.0
Start = Callable[[], tuple[float, int]]
"""Seconds to the first token, and the most bytes that were resident by then."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.engine.served.cold", description=__doc__)
    parser.add_argument("--model", default="qwen2.5-0.5b")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--suffix", default="")
    asked = parser.parse_args()
    end_in_order()
    model = random_model(asked.model)
    record: dict[str, Any] = {
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **machine(),
        "model": model.name,
        "load_before": os.getloadavg(),
    }
    for weights, quantisation in (("int8", "Q8_0"), ("int4", "Q4_0")):
        ours = Thaloom(name=f"Thaloom {weights}", weight_class="8 bit", num_threads=asked.threads)
        ours.prepare(model)
        peer = LlamaServer(
            engine=LlamaCpp(project="llama.cpp", quantisation=quantisation, num_threads=asked.threads)  # type: ignore[arg-type]
        )
        peer.prepare(model)
        record[f"worker {weights} beside {peer.name}"] = side_by_side(
            partial(start_worker, ours.store, model, weights, asked.threads),
            partial(start_llama, peer, model),
            asked.pairs,
        )
    record["whole_node_to_first_text_s"] = whole_node(model, "int8", asked.pairs)
    record["load_after"] = os.getloadavg()
    path = RECORDS / f"{record['when'][:10]}-cold{asked.suffix}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(path.read_text())
    return 0


def side_by_side(ours: Start, peer: Start, num_pairs: int) -> dict[str, Any]:
    """The first start of each warms the page cache (and packs our weights) and is not counted."""
    ours()
    peer()
    seconds: dict[str, list[float]] = {"ours": [], "peer": []}
    peaks: dict[str, list[int]] = {"ours": [], "peer": []}
    for sides in order(num_pairs):
        for side in sides:
            spent, peak = (ours if side == "ours" else peer)()
            seconds[side].append(spent)
            peaks[side].append(peak)
    ratios = [a / b for a, b in zip(seconds["ours"], seconds["peer"], strict=True)]
    low, high = spread(sorted(ratios))
    return {
        "ratio": statistics.median(ratios),
        "low": low,
        "high": high,
        "seconds": {side: statistics.median(values) for side, values in seconds.items()},
        "peak_bytes": {side: max(values) for side, values in peaks.items()},
        "runs": seconds,
    }


def start_worker(store: Path, model: Path, weights: str, num_threads: int) -> tuple[float, int]:
    """Our worker, by its own command, until it sends its first token."""
    with tempfile.TemporaryDirectory() as folder:
        spec = WorkerSpec(
            worker=WorkerId("cold"),
            service=ServiceName("cold"),
            model=str(model_name(model)),
            store=str(store),
            socket=f"{folder}/s",
            num_threads=num_threads,
            context_length=CONTEXT,
            weights=weights,  # type: ignore[arg-type]
        )
        write_spec(Path(folder) / "spec.json", spec)
        command: list[str | Path] = [THALOOM.with_name("thaloom-worker"), "--spec", Path(folder) / "spec.json"]
        begin = time.perf_counter()
        with process(command, "cold worker") as started:
            asyncio.run(first_token(spec.socket, started))
            return time.perf_counter() - begin, high_water_mark(started.pid)


async def first_token(socket: str, started: subprocess.Popen[bytes]) -> None:
    message = Generate(
        id="cold", prompt=list(PROMPT), max_tokens=2, temperature=0.0, top_k=0, top_p=1.0, min_p=0.0, seed=0,
        stop_tokens=[], logprobs=None,
    )  # fmt: skip
    deadline = time.monotonic() + GIVE_UP_S
    while True:
        try:
            call = await Call.generate(socket, message, Deadlines())
            await call.next()
            call.close()
            return
        except ThaloomError:
            if started.poll() is not None or time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.005)


def start_llama(server: LlamaServer, model: Path) -> tuple[float, int]:
    port = free_port()
    command = server.command(model, context=CONTEXT, slots=1, port=port)
    begin = time.perf_counter()
    with process(command, "cold llama-server") as started:
        deadline = time.monotonic() + GIVE_UP_S
        while True:
            try:
                sent = time.perf_counter()
                (answer,) = drive(Endpoint(port=port, model="m"), [Ask(prompt=PROMPT, new_tokens=2)], 1)
                return sent - begin + answer.first_s, high_water_mark(started.pid)
            except ServerFailed:
                if started.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.005)


def whole_node(model: Path, weights: str, num_runs: int) -> dict[str, float]:
    """From nothing running to the first text, the model being in the node's store and its weights packed."""
    spent: list[float] = []
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "THALOOM_HOME": home, "THALOOM_PORT": str(free_port())}

        def thaloom(*words: str) -> None:
            subprocess.run([str(THALOOM), *words], env=environment, check=True, stdout=subprocess.DEVNULL)

        name = str(model_name(model))
        try:
            thaloom("up", "--detach")
            thaloom("pull", str(model), "--name", name)
            thaloom("serve", name, "--weights", weights, "--context", str(CONTEXT))
            for _ in range(num_runs):
                thaloom("down")
                begin = time.perf_counter()
                thaloom("run", "--max-tokens", "1", name, "The socket option")
                spent.append(time.perf_counter() - begin)
        finally:
            thaloom("down")
    return {"median": statistics.median(spent), "min": min(spent), "max": max(spent)}


@contextmanager
def process(command: Sequence[str | Path], name: str) -> Iterator[subprocess.Popen[bytes]]:
    log = environments.cache() / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        started = subprocess.Popen(
            [str(word) for word in command], stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield started
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
        started.wait()


if __name__ == "__main__":
    sys.exit(main())
