"""Keys and values that leave a pool and come back: `python benchmarks/kv_tiers.py FOLDER [--record]`.

FOLDER lies on the disk that is to be measured. Three things, each beside what it stands for, in turns:

* *a prompt comes back*: time to its first token if it is computed, if the host has it, if the disk has it (read past
  the page cache), if it never left the pool; and what it costs whoever is computed that another's blocks leave;
* *a preempted request goes on*: a neighbour takes its memory and gives it back; from then to its next token;
* *lossless compression*: what it makes of the bundled model's own keys and values in bf16, whole and by planes of
  bytes, at zlib's quickest, and how quickly; beside it a plain copy.

What is found again with a host below the pool is told by `benchmarks/prefix_cache.py --host`.
Ratios are medians over rounds, of the two in the same round.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import zlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from in_process import Bench, ask
from node import machine, write_record
from numpy.typing import NDArray
from tokenizers import Tokenizer

from thaloom.base.clock import SystemClock
from thaloom.base.plugins import Registry
from thaloom.base.units import GIB
from thaloom.hal.driver import Driver, Executable, Limits, MovesBlocks
from thaloom.hal.ops import BLOCK_TOKENS, Step
from thaloom.kernel.memory.pages import blocks_for
from thaloom.kernel.memory.tiers.store import TieredStore
from thaloom.kernel.memory.tiers.types import whole_units
from thaloom.kernel.models.store import ModelStore
from thaloom.kernel.models.types import ModelName
from thaloom.kernel.sched.chunks import DEFAULT_TARGETS
from thaloom.kernel.sched.steps import StepLimits
from thaloom.work.runtime.architectures import Architecture, select
from thaloom.work.runtime.core.engine import Engine
from thaloom.work.runtime.core.sequence import Ticket
from thaloom.work.runtime.messages import Tokens
from thaloom.work.runtime.quality import SAMPLE

TINY = Path(__file__).resolve().parent.parent / "models" / "tiny"
CHUNK = 256


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shape", default="llama-135m")
    parser.add_argument("--prompt", type=int, default=1024, help="tokens of the prompt that comes back")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--record", action="store_true")
    asked = parser.parse_args()
    record: dict[str, Any] = machine() | {"shape": asked.shape, "weights": "int8", "prompt_tokens": asked.prompt}
    record["comes_back"] = told(comes_back(asked.shape, asked.prompt, asked.rounds, asked.folder))
    record["preempted"] = told(preempted(asked.shape, asked.prompt, asked.rounds))
    record["compressed"] = told(compressed())
    if asked.record:
        write_record("kv-tiers", record)
    return 0


def told(rows: dict[str, Any]) -> dict[str, Any]:
    for name, value in rows.items():
        print(f"{name:44} {value}", flush=True)
    return rows


def comes_back(shape: str, num_tokens: int, rounds: int, folder: Path) -> dict[str, Any]:
    limits = StepLimits(max_sequences=2, chunk_tokens=CHUNK)
    context = num_tokens + 32
    bench = Bench(shape, weights="int8", num_threads=2, limits=limits, context=context, contexts=1)
    block = whole_units(bench.executable.block_bytes)
    num_blocks = num_tokens // BLOCK_TOKENS
    on_disk = TieredStore(host_bytes=4 * num_blocks * block, disk=folder / "tier", disk_bytes=4 * GIB)
    stores = {"host": TieredStore(host_bytes=4 * GIB), "disk": on_disk}
    engines = {
        name: bench.engine(limits, DEFAULT_TARGETS, prefix_reuse=True, store=store) for name, store in stores.items()
    }
    plain = bench.engine(limits, DEFAULT_TARGETS, prefix_reuse=True)
    random = np.random.default_rng(3)

    def prompt() -> list[int]:
        return random.integers(0, bench.vocab, size=num_tokens).tolist()

    seconds: dict[str, list[float]] = {}
    for number in range(rounds + 1):
        own = prompt()
        times = {"computed": first_token_s(plain, own), "in the pool": first_token_s(plain, own)}
        for name, engine in engines.items():
            own = prompt()
            first_token_s(engine, own)
            times[f"computed while others leave for the {name}"] = first_token_s(engine, prompt())
            if name == "disk":
                push_down(on_disk, 4 * num_blocks, block)
            times[name] = first_token_s(engine, own)
        if number:  # the first warms up
            for name, each in times.items():
                seconds.setdefault(name, []).append(each)
    ratios = {
        f"computed over {name}": spread(seconds["computed"], seconds[name]) for name in ("host", "disk", "in the pool")
    }
    ratios["computed while others leave, over computed"] = spread(
        seconds["computed while others leave for the host"], seconds["computed"]
    )
    blocks = {name: engine.tiers.restored_blocks for name, engine in engines.items() if engine.tiers is not None}
    for store in stores.values():
        store.close()
    return {
        "block_bytes": bench.executable.block_bytes,
        "blocks_of_the_prompt": num_blocks,
        "restored_blocks_in_all": blocks,
        **ratios,
        **{f"median_s {name}": round(statistics.median(each), 4) for name, each in seconds.items()},
    }


def push_down(store: TieredStore, count: int, num_bytes: int) -> None:
    """All that lies in its host memory goes to its disk: what a node has minutes for, a benchmark has not."""
    others = [number.to_bytes(8) for number in range(count)]
    for key in others:
        store.put(key, bytes(num_bytes))
        store.settle(10.0)
    for key in others:
        store.drop(key)
    store.settle(10.0)


def first_token_s(engine: Engine, prompt: list[int]) -> float:
    begun = time.perf_counter()
    engine.submit(ask(prompt, 1))
    while engine.busy:
        engine.step()
    return time.perf_counter() - begun


def spread(over: list[float], under: list[float]) -> dict[str, float]:
    pairs = [a / b for a, b in zip(over, under, strict=True)]
    return {"median": round(statistics.median(pairs), 2), "min": round(min(pairs), 2), "max": round(max(pairs), 2)}


class Shared:
    """KvMemory of which a neighbour takes some: what is kept there moves, or goes."""

    is_fixed = False

    def __init__(self, executable: Executable, num_blocks: int) -> None:
        self.room = self.limit = self.promised = num_blocks
        self.copy = executable.copy_block

    def want(self, num_blocks: int) -> None:
        pass

    def grow(self, room: int) -> int:
        self.room = max(self.room, min(room, self.limit))
        return self.room

    def shrink(self, used: int) -> int:
        self.room = used
        return self.room


def preempted(shape: str, num_tokens: int, rounds: int) -> dict[str, Any]:
    limits = StepLimits(max_sequences=2, chunk_tokens=CHUNK)
    bench = Bench(shape, weights="int8", num_threads=2, limits=limits, context=num_tokens + 64, contexts=2)
    random = np.random.default_rng(4)
    seconds: dict[str, list[float]] = {"computed": [], "brought": []}
    for number in range(rounds + 1):
        for name in sorted(seconds, reverse=bool(number % 2)):
            store = TieredStore(host_bytes=4 * GIB) if name == "brought" else None
            memory = Shared(bench.executable, bench.num_blocks)
            engine = bench.engine(limits, DEFAULT_TARGETS, prefix_reuse=True, memory=memory, store=store)
            for _ in range(2):  # the first time it learns what steps and moves take
                taken = resumed_s(engine, memory, [random.integers(0, bench.vocab, num_tokens).tolist() for _ in "12"])
            if number:
                seconds[name].append(taken)
            if store is not None:
                store.close()
    return {
        "computed over brought": spread(seconds["computed"], seconds["brought"]),
        **{f"median_s {name}": round(statistics.median(each), 4) for name, each in seconds.items()},
    }


def resumed_s(engine: Engine, memory: Shared, prompts: list[list[int]]) -> float:
    """From when the memory is back that the neighbour took, to the next token of the request that lost it."""
    whole = memory.limit
    first, second = (engine.submit(ask(prompt, 48))[0] for prompt in prompts)
    until_token(engine, second)
    memory.limit = blocks_for(len(prompts[0])) + 3
    for _ in range(4):
        engine.step()
    assert engine.load().running == 1, "nobody was preempted"
    memory.limit = whole
    begun = time.perf_counter()
    until_token(engine, second)
    taken = time.perf_counter() - begun
    for ticket in (first, second):
        engine.cancel(ticket)
    return taken


def until_token(engine: Engine, ticket: Ticket) -> None:
    while not any(one == ticket and isinstance(news, Tokens) for one, news in engine.step()):
        pass


def compressed() -> dict[str, Any]:
    """Of the bundled model's keys and values of our own documents."""
    blocks = tiny_blocks()
    planes = [block.reshape(-1, 2).T.copy() for block in blocks]
    rows: dict[str, Any] = {"blocks": len(blocks), "block_bytes": blocks[0].nbytes}
    ways: dict[str, Callable[[], list[bytes]]] = {
        "whole": lambda: [zlib.compress(block, 1) for block in blocks],
        "by planes of bytes": lambda: [zlib.compress(plane, 1) for plane in planes],
        "the upper plane alone": lambda: [zlib.compress(plane[1], 1) + plane[0].tobytes() for plane in planes],
    }
    size = sum(block.nbytes for block in blocks)
    for name, way in ways.items():
        begun = time.perf_counter()
        made = way()
        taken = time.perf_counter() - begun
        rows[name] = {
            "of_the_size": round(sum(map(len, made)) / size, 3),
            "mb_s": round(size / taken / 1e6, 1),
        }
    begun = time.perf_counter()
    for block in blocks:
        block.copy()
    rows["a plain copy"] = {"of_the_size": 1.0, "mb_s": round(size / (time.perf_counter() - begun) / 1e6, 1)}
    return rows


def tiny_blocks() -> list[NDArray[np.uint8]]:
    """What 1,024 tokens of our own documents leave in the pool."""
    tokens = Tokenizer.from_file(str(TINY / "tokenizer.json")).encode(SAMPLE.read_text(encoding="utf-8")).ids[:1024]
    num_blocks = len(tokens) // BLOCK_TOKENS
    drivers: Registry[Driver] = Registry("driver")
    drivers.discover()
    driver = drivers.create("cpu")
    backend = driver.open(driver.probe()[0].id, num_threads=1)
    with tempfile.TemporaryDirectory() as root:
        store = ModelStore(Path(root), SystemClock())
        model = store.open(store.import_path(TINY, ModelName("tiny")))
        architectures: Registry[Architecture] = Registry("architecture")
        architectures.discover()
        with closing(model.weights()) as weights:
            limits = Limits(max_rows=len(tokens), max_sequences=1, max_context=len(tokens), kv_dtype="bf16")
            described = model.config()
            executable = backend.compile(select(architectures, described).build(described), weights, limits)
    pool = backend.allocate(num_blocks * executable.block_bytes)
    executable.bind_pool(pool, num_blocks)
    executable.run(
        Step(
            tokens=np.array(tokens, np.int32),
            positions=np.arange(len(tokens), dtype=np.int32),
            sequences=np.zeros(len(tokens), np.int32),
            block_tables=np.arange(num_blocks, dtype=np.int32)[None],
            outputs=np.array([len(tokens) - 1], np.int32),
        )
    )
    return [taken_out(executable, block) for block in range(num_blocks)]


def taken_out(executable: Executable, block: int) -> NDArray[np.uint8]:
    assert isinstance(executable, MovesBlocks)
    data = bytearray(executable.block_bytes)
    executable.read_block(block, memoryview(data))
    return np.frombuffer(bytes(data), np.uint8)


if __name__ == "__main__":
    raise SystemExit(main())
