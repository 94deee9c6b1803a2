"""Load a model's weights from a cold disk: `python -m benchmarks.cold_load FOLDER`.

FOLDER is on the disk in question, with 3 GB free: a safetensors file of 1 GiB is made there, and a store that holds it.
Before each reading the page cache forgets the files (posix_fadvise, no right needed). In turns, A B C D, because a disk
that others use is not the same from one minute to the next; ratios are within rounds.

* `disk`: the disk's own rate: the chunks of the store by large direct reads of several threads, into nothing;
* `unchecked`: as the store reads, chunks in order and ahead, every tensor into memory of its own, but digests are not
  looked at;
* `checked`: as the store reads. What a worker does that has no packed weights;
* `one thread`: as `checked`, without anybody reading ahead;
* `warm`: as `checked`, of files that the page cache has, as after a pull;
* `mapped`: the file mapped, one byte of each page touched, nothing checked: what others call loading.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from benchmarks.node import machine, write_record

from thaloom.base.clock import SystemClock
from thaloom.base.units import GIB, MIB
from thaloom.kernel.models import objects, read_ahead, reading
from thaloom.kernel.models.direct import aligned, read_whole
from thaloom.kernel.models.store import ModelStore
from thaloom.kernel.models.types import ModelName

TENSOR_BYTES = 9 * MIB
"""About a matrix of the 0.5 B shape's feed-forward."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--record", action="store_true", help="write benchmarks/records/<date>-cold-load.json")
    asked = parser.parse_args()
    source = made(asked.folder / "source")
    store = ModelStore(asked.folder / "store", SystemClock())
    manifest = store.import_path(source, ModelName("cold"))
    weights = source / "model.safetensors"
    chunks = [path for path in store.files(manifest) if path.stat().st_size > MIB]
    arms: dict[str, Callable[[], None]] = {
        "disk": lambda: by_threads(chunks),
        "unchecked": lambda: unchecked(store, manifest),
        "checked": lambda: load(store, manifest),
        "one thread": lambda: one_thread(store, manifest),
        "warm": lambda: load(store, manifest),
        "mapped": lambda: touch(weights),
    }
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    cpu: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(asked.rounds):
        for name, arm in arms.items():
            forget([*chunks, weights])
            remember(chunks if name == "warm" else [])
            begun, worked = time.perf_counter(), time.process_time()
            arm()
            seconds[name].append(time.perf_counter() - begun)
            cpu[name].append(time.process_time() - worked)
    num_bytes = weights.stat().st_size
    told = {
        name: {
            "bytes_per_s": num_bytes / statistics.median(each),
            "processor_s": statistics.median(cpu[name]),
            "speed_beside_disk": ratio(seconds["disk"], each),
            "speed_beside_mapped": ratio(seconds["mapped"], each),
        }
        for name, each in seconds.items()
    }
    print(json.dumps(told, indent=1))
    if asked.record:
        write_record("cold-load", {**machine(), "num_bytes": num_bytes, "rounds": asked.rounds, "ways": told})
    return 0


def ratio(ours: list[float], theirs: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def made(folder: Path) -> Path:
    """A model of 1 GiB of noise: what it is does not matter, only that no disk can shorten it."""
    if (folder / "config.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    count = GIB // TENSOR_BYTES
    shape = [TENSOR_BYTES // 4 // 1024, 1024]
    header = {
        f"t{i}": {"dtype": "F32", "shape": shape, "data_offsets": [i * TENSOR_BYTES, (i + 1) * TENSOR_BYTES]}
        for i in range(count)
    }
    text = json.dumps(header).encode()
    noise = np.random.default_rng(0)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _ in range(count):
            file.write(noise.bytes(TENSOR_BYTES))
        file.flush()
        os.fsync(file.fileno())
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}')
    return folder


def forget(paths: list[Path]) -> None:
    for path in paths:
        file = os.open(path, os.O_RDONLY)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


def remember(paths: list[Path]) -> None:
    for path in paths:
        path.read_bytes()


def by_threads(paths: list[Path]) -> None:
    rooms = [aligned(max(path.stat().st_size for path in paths)) for _ in range(read_ahead.NUM_THREADS)]
    shares = [paths[number :: len(rooms)] for number in range(len(rooms))]
    pairs = zip(shares, rooms, strict=True)
    with ThreadPoolExecutor(len(rooms)) as pool:
        for _ in pool.map(lambda share: [read_whole(path, share[1]) for path in share[0]], pairs):
            pass


def load(store: ModelStore, manifest: Any) -> None:
    reader = store.open(manifest).weights()
    for name in reader.names():
        reader.read(name)
    reader.close()


def unchecked(store: ModelStore, manifest: Any) -> None:
    """The digest of what was read is what was asked for."""

    def believed(self: objects.Objects, digest: Any, room: memoryview, num_bytes: int) -> None:  # noqa: ARG001
        read_whole(self.path(digest), room)

    with patch.object(objects.Objects, "read_direct", believed):
        load(store, manifest)


def one_thread(store: ModelStore, manifest: Any) -> None:
    with patch.object(reading, "NUM_THREADS", 1), patch.object(reading, "AHEAD", 0):
        load(store, manifest)


def touch(path: Path) -> None:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
        np.frombuffer(view, np.uint8)[:: mmap.PAGESIZE].sum()


if __name__ == "__main__":
    sys.exit(main())
