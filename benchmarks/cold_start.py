"""A worker from its start to its first token, and its peak memory: `python benchmarks/cold_start.py`. Writes a record.

The page cache is warm. `packed`: the weights lie packed on disk; `unpacked`: the store's packed/ folder was emptied
first; in turn (A B A B ...), seconds from starting the process to the first token of a prompt of eight. Peak memory is
the kernel's high-water mark (VmHWM, proc(5)) beyond weights and scratch, most of the pool being untouched.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from node import machine, write_record
from random_models import SHAPES, make

from thaloom.base.clock import SystemClock
from thaloom.base.errors import ServiceLoading
from thaloom.base.ids import ServiceName, WorkerId
from thaloom.kernel.models.store import ModelStore
from thaloom.kernel.models.types import ModelName
from thaloom.work.runtime.frontend.call import Call, Deadlines
from thaloom.work.runtime.messages import Generate, Tokens
from thaloom.work.runtime.spec import WorkerSpec, write_spec

ASK = Generate(
    id="cold", prompt=[300, 301, 302, 303, 304, 305, 306, 307], max_tokens=1, temperature=0.0, top_k=0, top_p=1.0,
    min_p=0.0, seed=0, stop_tokens=[], logprobs=None,
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SHAPES, default="qwen2.5-0.5b")
    parser.add_argument("--models", type=Path, default=Path(tempfile.gettempdir()) / "thaloom-random-models")
    parser.add_argument("--weights", choices=["stored", "int8", "int4"], default="int8")
    parser.add_argument("--runs", type=int, default=5)
    given = parser.parse_args()
    source = make(SHAPES[given.model], given.models / given.model)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        ModelStore(home / "models", SystemClock()).import_path(source, ModelName(given.model))
        spec = WorkerSpec(
            worker=WorkerId("cold"), service=ServiceName("cold"), model=given.model, store=str(home / "models"),
            socket=str(home / "w.sock"), context_length=1024, weights=given.weights,
        )  # fmt: skip
        write_spec(home / "spec.json", spec)
        runs: dict[str, list[dict[str, float]]] = {"unpacked": [], "packed": []}
        for _ in range(given.runs):
            shutil.rmtree(home / "models" / "packed", ignore_errors=True)
            for how, found in runs.items():
                found.append(asyncio.run(start(home / "spec.json", spec.socket)))
                print(how, found[-1], flush=True)
    figures = {how: {key: _spread(found, key) for key in found[0]} for how, found in runs.items()}
    record = {"model": given.model, "weights": given.weights, "load_average": os.getloadavg()}
    write_record("cold-start", {**machine(), **record, **figures})


async def start(spec: Path, socket: str) -> dict[str, float]:
    """One worker, started, asked and ended."""
    begin = time.perf_counter()
    worker = subprocess.Popen([sys.executable, "-m", "thaloom.worker", "--spec", str(spec)], stderr=subprocess.DEVNULL)  # noqa: ASYNC220 - a moment, once
    try:
        while True:
            try:
                call = await Call.generate(socket, ASK, Deadlines())
                break
            except ServiceLoading:
                assert worker.poll() is None, "the worker ended"
                await asyncio.sleep(0.005)
        reply = await call.next()
        seconds = time.perf_counter() - begin
        assert isinstance(reply, Tokens)
        call.close()
        stats = await Call.status(socket, Deadlines())
        lines = Path(f"/proc/{worker.pid}/status").read_text().splitlines()  # noqa: ASYNC240 - a file of the kernel
        peak_bytes = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
        held_bytes = stats.weight_bytes + stats.scratch_bytes
        return {"to_first_token_s": seconds, "weight_bytes": stats.weight_bytes, "peak_bytes": peak_bytes,
                "beyond_weights_and_scratch_bytes": peak_bytes - held_bytes}  # fmt: skip
    finally:
        worker.terminate()
        worker.wait(30)


def _spread(runs: list[dict[str, Any]], key: str) -> dict[str, float]:
    values = [run[key] for run in runs]
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


if __name__ == "__main__":
    main()
