"""Whether it pays to compress what lies in a tier: `python -m benchmarks.tier_compression FOLDER [--record]`.

Pieces of a megabyte of what tiers hold: keys and values of `tiny` while it reads our README, its weights, and weights
and moments of the tests' trainer. Each is compressed without loss by what the standard library has: as it is, and in
byte planes (all first bytes, then all second ones ...), for exponents compress and fractions do not. Told: bytes over
compressed bytes, both speeds, and the time until a piece is in memory again over the time without compression: from the
disk (read past the page cache on FOLDER's disk) and from host memory (a copy), each measured between the others.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from benchmarks.node import machine, write_record
from numpy.typing import NDArray
from tests.unit.kernel_memory_states.trainer import InMemory, Perceptron
from tokenizers import Tokenizer

from thaloom.base.clock import SystemClock
from thaloom.base.plugins import Registry
from thaloom.base.units import MIB
from thaloom.hal.driver import Driver, Limits
from thaloom.hal.testing.schedules import TokenSequence, make_step
from thaloom.hal.types import DType
from thaloom.kernel.memory.tiers.disk import DiskFolder, fill_start, new_room
from thaloom.kernel.models.store import ModelStore
from thaloom.kernel.models.types import ModelName
from thaloom.work.runtime.architectures import Architecture, select

TINY = Path(__file__).parent.parent / "models" / "tiny"
TEXT = TINY.parent.parent / "README.md"
ROUNDS = 7
NUM_TOKENS = 512
Bytes = NDArray[np.uint8]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--record", action="store_true", help="write benchmarks/records/<date>-tier-compression.json")
    asked = parser.parse_args()
    told = []
    with tempfile.TemporaryDirectory(dir=asked.folder) as place, contextlib.closing(DiskFolder(Path(place))) as disk:
        for kind, width, data in kinds():
            for name, (pack, unpack) in codecs(width).items():
                told.append({"kind": kind, "codec": name, **measure(data[: MIB // width * width], pack, unpack, disk)})
                print(", ".join(f"{key} {value}" for key, value in told[-1].items()), flush=True)
    if asked.record:
        write_record("tier-compression", machine() | {"measured": told})
    return 0


def kinds() -> Iterator[tuple[str, int, Bytes]]:
    """What it is, bytes of a number, and at least a megabyte of it."""
    with tempfile.TemporaryDirectory() as root:
        store = ModelStore(Path(root), SystemClock())
        model = store.open(store.import_path(TINY, ModelName("m")))
        for dtype, width in (("bf16", 2), ("f32", 4), ("i8", 1)):
            yield f"keys and values, {dtype}", width, keys_and_values(model, dtype)  # type: ignore[arg-type]
        with contextlib.closing(model.weights()) as weights:
            tensors = [weights.read(name).data for name in weights.names()]
            largest = max(tensors, key=lambda each: each.nbytes)
            yield f"weights, {largest.dtype}", largest.dtype.itemsize, largest.reshape(-1).view(np.uint8)
    trainer = Perceptron(width=512, depth=2, rows=64)
    states = InMemory(trainer.arrays(), trainer.schedule())
    trainer.begin(states)
    trainer.train(states, 50)
    for part in ("weight", "mean", "square"):
        yield f"trainer: {part}, f32", 4, states.get(f"{part} 0").reshape(-1).view(np.uint8)


def keys_and_values(model: Any, dtype: DType) -> Bytes:
    drivers: Registry[Driver] = Registry("driver")
    drivers.discover()
    driver = drivers.create("cpu")
    backend = driver.open(driver.probe()[0].id, num_threads=2)
    architectures: Registry[Architecture] = Registry("architecture")
    architectures.discover()
    program = select(architectures, model.config()).build(model.config())
    tokens = Tokenizer.from_file(str(TINY / "tokenizer.json")).encode(TEXT.read_text()).ids[:NUM_TOKENS]
    limits = Limits(max_rows=NUM_TOKENS, max_sequences=1, max_context=NUM_TOKENS, kv_dtype=dtype)
    with contextlib.closing(model.weights()) as weights:
        executable = backend.compile(program, weights, limits)
    num_blocks = NUM_TOKENS // 16
    pool: Any = backend.allocate(num_blocks * executable.block_bytes)
    executable.bind_pool(pool, num_blocks)
    sequence = TokenSequence(tokens=np.array(tokens, np.int32), table=np.arange(num_blocks, dtype=np.int32))
    executable.run(make_step([sequence], [(0, 0, NUM_TOKENS)]))
    executable.close()
    found: Bytes = pool.data.copy()
    return found


def codecs(width: int) -> dict[str, tuple[Callable[[Bytes], bytes], Callable[[bytes], Bytes]]]:
    def planes(data: Bytes) -> Bytes:
        return np.ascontiguousarray(data.reshape(-1, width).T)

    def whole(packed: bytes) -> Bytes:
        return np.frombuffer(packed, np.uint8)

    def joined(packed: bytes) -> Bytes:
        return np.ascontiguousarray(whole(zlib.decompress(packed)).reshape(width, -1).T).reshape(-1)

    def coded(data: Bytes) -> bytes:
        coder = zlib.compressobj(1, strategy=zlib.Z_HUFFMAN_ONLY)
        return coder.compress(np.ascontiguousarray(data)) + coder.flush()

    def top_coded(data: Bytes) -> bytes:
        apart = planes(data)
        return apart[:-1].tobytes() + coded(apart[-1])

    def top_joined(packed: bytes) -> Bytes:
        below = MIB // width * (width - 1)
        top = whole(zlib.decompress(packed[below:]))
        apart = np.concatenate([whole(packed[:below]), top]).reshape(width, -1)
        return np.ascontiguousarray(apart.T).reshape(-1)

    return {
        "zlib 1": (lambda data: zlib.compress(data, 1), lambda packed: whole(zlib.decompress(packed))),
        "zlib 6": (lambda data: zlib.compress(data, 6), lambda packed: whole(zlib.decompress(packed))),
        "planes, zlib 1": (lambda data: zlib.compress(planes(data), 1), joined),
        "planes, Huffman": (lambda data: coded(planes(data)), joined),
        "exponents alone, Huffman": (top_coded, top_joined),
    }


def measure(
    data: Bytes, pack: Callable[[Bytes], bytes], unpack: Callable[[bytes], Bytes], disk: DiskFolder
) -> dict[str, float]:
    data = np.ascontiguousarray(data)
    packed = pack(data)
    if not np.array_equal(unpack(packed), data):
        raise SystemExit("what was packed did not come back")
    room = new_room(data.size)
    fill_start(room, data.data)
    small = new_room(len(packed))
    fill_start(small, memoryview(packed))
    files = disk.write(room, data.size), disk.write(small, len(packed))
    into = new_room(data.size)
    taken = []
    for _ in range(ROUNDS):
        taken.append(
            Seconds(
                pack=timed(lambda: pack(data)),
                unpack=timed(lambda: unpack(packed)),
                read=timed(lambda: disk.read(files[0], into[: data.size])),
                read_packed=timed(lambda: disk.read(files[1], into[: len(packed)])),
                copy=timed(lambda: fill_start(into, room)),
            )
        )
    for file in files:
        disk.remove(file)
    return {
        "ratio": round(data.size / len(packed), 3),
        "pack_mb_s": median(taken, lambda took: data.size / took.pack / 1e6),
        "unpack_mb_s": median(taken, lambda took: data.size / took.unpack / 1e6),
        "disk_mb_s": median(taken, lambda took: data.size / took.read / 1e6),
        "from_disk": median(taken, lambda took: (took.read_packed + took.unpack) / took.read),
        "from_host": median(taken, lambda took: took.unpack / took.copy),
    }


class Seconds(NamedTuple):
    pack: float
    unpack: float
    read: float
    read_packed: float
    copy: float


def median(taken: list[Seconds], of: Callable[[Seconds], float]) -> float:
    return float(f"{statistics.median(map(of, taken)):.3g}")


def timed(do: Callable[[], object]) -> float:
    begin = time.perf_counter()
    do()
    return time.perf_counter() - begin


if __name__ == "__main__":
    sys.exit(main())
