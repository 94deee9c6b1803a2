"""How fast an encrypted model is read, beside the same model in plain: `python benchmarks/sealed_reading.py`.

Both are read as a worker reads them, tensor by tensor in the order of the file, from a warm page cache (a disk that is
slower hides the difference), in turns, so that what else the machine does meets both alike. Printed is the ratio of
each pair; written is a dated record with the median and the range.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from thaloom import __version__
from thaloom.base.clock import SystemClock
from thaloom.hal.tensors import Tensor
from thaloom.kernel.models.store import ModelStore
from thaloom.kernel.models.types import ModelName
from thaloom.kernel.models.writing import WeightsWriter
from thaloom.kernel.trust.sealed import SEGMENT, StoreKey

RECORDS = Path(__file__).parent / "records"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=512, help="how large the model is")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--record", action="store_true", help="keep the outcome under benchmarks/records")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="thaloom-bench") as folder:
        outcome = measure(Path(folder), arguments.mib, arguments.pairs)
    print(json.dumps(outcome, indent=2))
    if arguments.record:
        path = RECORDS / f"{outcome['date'][:10]}-sealed-reading.json"
        path.write_text(json.dumps(outcome, indent=2) + "\n")
        print(f"written: {path}", file=sys.stderr)
    return 0


def measure(folder: Path, mib: int, pairs: int) -> dict[str, Any]:
    key = StoreKey.empty(os.urandom(16))
    with key.secret as secret:
        secret[:] = os.urandom(len(secret))
    store = ModelStore(folder / "store", SystemClock(), key=lambda: key)
    source = make_weights(folder / "model", mib)
    store.import_path(source, ModelName("plain"))
    begin = time.perf_counter()
    store.convert(ModelName("plain"), ModelName("sealed"), encrypted=True)
    sealing_s = time.perf_counter() - begin
    for name in ("plain", "sealed"):
        read(store, name)  # into the page cache
    rates: dict[str, list[float]] = {"plain": [], "sealed": []}
    for turn in range(pairs):
        for name in ("plain", "sealed") if turn % 2 == 0 else ("sealed", "plain"):
            rates[name].append(mib / read(store, name))
    ratios = [sealed / plain for plain, sealed in zip(rates["plain"], rates["sealed"], strict=True)]
    return {
        "benchmark": "sealed_reading",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "thaloom": __version__,
        "machine": {"processor": processor(), "cores": os.cpu_count(), "kernel": platform.release()},
        "load_average": [round(load, 1) for load in os.getloadavg()],
        "model_mib": mib,
        "segment_bytes": SEGMENT,
        "pairs": pairs,
        "plain_mib_s": round(statistics.median(rates["plain"])),
        "sealed_mib_s": round(statistics.median(rates["sealed"])),
        "sealing_mib_s": round(mib / sealing_s),
        "sealed_over_plain": {
            "median": round(statistics.median(ratios), 3),
            "least": round(min(ratios), 3),
            "most": round(max(ratios), 3),
        },
    }


def make_weights(folder: Path, mib: int) -> Path:
    """Tensors of 16 MiB of noise; nothing but weights."""
    folder.mkdir()
    num = max(1, mib // 16)
    random = np.random.default_rng(0)
    with WeightsWriter(folder / "model.safetensors", {f"t{i}": 2 for i in range(num)}) as writer:
        for i in range(num):
            writer.add(f"t{i}", Tensor("f32", random.standard_normal((2048, 2048), dtype=np.float32)))
    return folder


def read(store: ModelStore, name: str) -> float:
    """Seconds."""
    begin = time.perf_counter()
    with contextlib.closing(store.open(store.get(name)).weights()) as weights:
        for tensor in weights.names():
            weights.read(tensor)
    return time.perf_counter() - begin


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


if __name__ == "__main__":
    sys.exit(main())
