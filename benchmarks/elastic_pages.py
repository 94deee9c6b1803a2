"""What a pool of keys and values gives back: `python benchmarks/elastic_pages.py`.

A pool is filled to its last block, and all but every k-th block is let go: what a conversation here and there leaves of
a busy hour. Told is the memory that really went back to the system (resident set), as a share of what whole pages of
2 MiB could give at best; beside it what pages would give back in which nothing is left, if no block moved; what moving
took for each page that went back; and how much of the memory kept holds no block.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from in_process import Bench
from node import machine, write_record

from thaloom.hal.drivers.cpu.executable import CpuBackend
from thaloom.kernel.memory.pages import BlockPool
from thaloom.kernel.sched.steps import StepLimits
from thaloom.work.runtime.kv.memory import ElasticKv

STEPS = (1, 2, 3, 4, 6, 8, 12, 16)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", action="append", help="default: llama-135m and qwen2.5-0.5b")
    parser.add_argument("--mib", type=int, default=384, help="of the pool")
    parser.add_argument("--record", action="store_true")
    asked = parser.parse_args()
    told = {shape: measure(shape, asked.mib << 20) for shape in asked.shape or ("llama-135m", "qwen2.5-0.5b")}
    if asked.record:
        write_record("elastic-pages", {**machine(), "mib": asked.mib, "shapes": told})
    return 0


def measure(shape: str, num_bytes: int) -> dict[str, object]:
    limits = StepLimits(max_sequences=1, chunk_tokens=16)
    bench = Bench(shape, weights="int8", num_threads=2, limits=limits, context=16, contexts=1)
    assert isinstance(bench.backend, CpuBackend)
    block_bytes = bench.executable.block_bytes
    num_blocks = num_bytes // block_bytes
    buffer = bench.backend.reserve(num_blocks * block_bytes)
    bench.executable.bind_pool(buffer, num_blocks)
    memory = ElasticKv(buffer, bench.executable, floor=1)
    print(f"{shape}: {num_blocks} blocks of {block_bytes} bytes in pages of {buffer.page_bytes}")
    print("  every k-th stays | given back, of the ideal | without moving | ms for a page | kept and empty")
    rows = {}
    for k in STEPS:
        pool = BlockPool(num_blocks, room=memory.grow(num_blocks))
        blocks = pool.allocate(num_blocks) or []
        buffer.data[:] = k  # all of it is written to
        full = _resident_bytes()
        kept = blocks[::k]
        pool.release([block for block in blocks if block % k])
        begun = time.perf_counter()
        for source, target in pool.shrink(len(kept)):
            memory.copy(source, target)
        memory.shrink(len(kept))
        seconds = time.perf_counter() - begun
        given = full - _resident_bytes()
        page = buffer.page_bytes
        best = buffer.capacity_bytes - -(-len(kept) * block_bytes // page) * page
        untouched = _untouched(kept, block_bytes, page, -(-buffer.capacity_bytes // page)) * page
        rows[k] = {
            "given_back": round(given / best, 4) if best > 0 else None,
            "without_moving": round(untouched / best, 4) if best > 0 else None,
            "ms_for_a_page": round(1e3 * seconds / (best / page), 3) if best > 0 else None,
            "kept_and_empty": round(1 - len(kept) * block_bytes / buffer.num_bytes, 4),
        }
        print(f"  {k:16} | " + " | ".join(f"{value}" for value in rows[k].values()))
    buffer.free()
    return {"block_bytes": block_bytes, "num_blocks": num_blocks, "every": rows}


def _untouched(kept: list[int], block_bytes: int, page: int, num_pages: int) -> int:
    """Pages in which no kept block lies."""
    used = {at // page for block in kept for at in range(block * block_bytes, (block + 1) * block_bytes, 4096)}
    return num_pages - len(used)


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    raise SystemExit(main())
