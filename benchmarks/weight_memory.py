"""Ways for a worker to have its packed weights, side by side: `python -m benchmarks.weight_memory FOLDER`.

FOLDER is on a disk with 2 GB free; the packed weights of the 0.5 B shape are made there once. Every way is asked for
what it costs to have them (until they can be used, and the first step after that), what one and two processes hold
(resident, and each page by the number of those who share it), and how fast decoding is, in turns within one process,
beside private huge pages.

Told in docs/decisions/0029.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import mmap
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.engine.pairs import spread
from benchmarks.node import machine, write_record
from benchmarks.random_models import SHAPES
from benchmarks.step import Cell, random_model, timed

from thaloom.hal.checks import MemoryWeights
from thaloom.hal.driver import Limits
from thaloom.hal.drivers.cpu import native, packed_file
from thaloom.hal.drivers.cpu.executable import CpuBackend, CpuExecutable
from thaloom.hal.drivers.cpu.memory import ALIGNMENT
from thaloom.hal.drivers.cpu.probe import Machine
from thaloom.hal.drivers.cpu.weights import PackedWeights
from thaloom.hal.host import Budget
from thaloom.hal.ops import BLOCK_TOKENS, Program

MADV_HUGEPAGE, MADV_POPULATE_READ, MADV_COLLAPSE = 14, 22, 25
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
HUGE = ("AnonHugePages", "ShmemPmdMapped", "FilePmdMapped")
CELLS = (Cell(decode=1), Cell(decode=16))
SHAPE = "qwen2.5-0.5b"


class Kept:
    """A source whose packed weights lie at one place."""

    def __init__(self, path: Path, tensors: dict[str, Any]) -> None:
        self._path, self._source = path, MemoryWeights(tensors)
        self.names, self.read = self._source.names, self._source.read

    def packed_path(self, layout: str) -> Path:  # noqa: ARG002
        return self._path

    def packed_lost(self, reason: str) -> None:
        raise RuntimeError(reason)


class Mapped:
    """Packed weights that lie somewhere already, in the place of PackedWeights."""

    def __init__(self, header: dict[str, Any], address: int) -> None:
        self.structs = {entry[0]: packed_file._weight(entry, address) for entry in header["weights"]}
        self.num_bytes = header["num_bytes"]

    def free(self) -> None: ...


def mapped(descriptor: int, num_bytes: int, *, write: bool = False) -> int:
    """A shared mapping that begins on a multiple of 2 MiB, for as long as the process lives."""
    anywhere = _libc.mmap(None, num_bytes + ALIGNMENT, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    at = anywhere + -anywhere % ALIGNMENT
    protection = mmap.PROT_READ | (mmap.PROT_WRITE if write else 0)
    fixed = 0x10
    got = _libc.mmap(at, num_bytes, protection, mmap.MAP_SHARED | fixed, descriptor, 0)
    if got != at:
        raise OSError(ctypes.get_errno(), "mmap")
    return at


def advise(address: int, num_bytes: int, advice: int) -> None:
    if _libc.madvise(address, num_bytes, advice) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"madvise {advice}: {os.strerror(number)}")


def whole(num_bytes: int) -> int:
    return num_bytes - num_bytes % ALIGNMENT


def filled(descriptor: int, packed: Path, *, huge: bool) -> None:
    """The file's bytes in a memory file; with `huge`, its pages are made huge before anything is read into them."""
    size = packed.stat().st_size
    size += -size % ALIGNMENT
    os.ftruncate(descriptor, size)
    address = mapped(descriptor, size, write=True)
    view = np.frombuffer((ctypes.c_uint8 * size).from_address(address), np.uint8)
    if huge:
        view[::ALIGNMENT] = 0
        advise(address, size, MADV_COLLAPSE)
    with packed.open("rb", buffering=0) as file:
        done = 0
        while count := file.readinto(view[done : done + (1 << 24)].data):
            done += count
    del view
    _libc.munmap(address, size)


WAYS: dict[str, Callable[[Path, Path], tuple[int, int]]] = {}
"""By name: (packed file, a memory file with its bytes) -> where they are mapped, and how many."""


def way(function: Callable[[Path, Path], tuple[int, int]]) -> Callable[[Path, Path], tuple[int, int]]:
    WAYS[function.__name__] = function
    return function


def opened(path: Path) -> tuple[int, int]:
    descriptor = os.open(path, os.O_RDONLY)
    return descriptor, os.fstat(descriptor).st_size


@way
def file_small(packed: Path, memory: Path) -> tuple[int, int]:  # noqa: ARG001
    descriptor, size = opened(packed)
    return mapped(descriptor, size), size


@way
def file_populated(packed: Path, memory: Path) -> tuple[int, int]:
    address, size = file_small(packed, memory)
    advise(address, size, MADV_POPULATE_READ)
    return address, size


@way
def file_advised(packed: Path, memory: Path) -> tuple[int, int]:
    address, size = file_small(packed, memory)
    advise(address, size, MADV_HUGEPAGE)
    return address, size


@way
def file_collapsed(packed: Path, memory: Path) -> tuple[int, int]:
    address, size = file_populated(packed, memory)
    advise(address, whole(size), MADV_COLLAPSE)
    return address, size


@way
def memory_small(packed: Path, memory: Path) -> tuple[int, int]:  # noqa: ARG001
    descriptor, size = opened(memory)
    return mapped(descriptor, size), size


@way
def memory_populated(packed: Path, memory: Path) -> tuple[int, int]:
    address, size = memory_small(packed, memory)
    advise(address, size, MADV_POPULATE_READ)
    return address, size


@way
def memory_huge(packed: Path, memory: Path) -> tuple[int, int]:
    return memory_small(packed, memory)


@way
def memory_huge_populated(packed: Path, memory: Path) -> tuple[int, int]:
    return memory_populated(packed, memory)


@way
def memory_huge_collapsed(packed: Path, memory: Path) -> tuple[int, int]:
    address, size = memory_small(packed, memory)
    advise(address, size, MADV_COLLAPSE)
    return address, size


SPEEDS = ("file_populated", "memory_populated", "memory_huge_populated")


def is_huge(name: str) -> bool:
    return name.startswith("memory_huge")


class Bench:
    """What all ways share: the program, a backend, the header of the packed file."""

    def __init__(self, folder: Path, num_threads: int) -> None:
        program, tensors = random_model(SHAPE)
        self.program: Program = program
        device = Machine().device()
        choice = native.choose_here(device.features)
        assert choice.path is not None, choice.degraded
        self.library = native.load(choice.path)
        self.backend = CpuBackend(device, self.library, Budget(device), num_threads=num_threads)
        self.limits = Limits(
            max_rows=16, max_sequences=16, max_context=160 + BLOCK_TOKENS, kv_dtype="bf16", weight_format="int8"
        )
        self.packed = folder / "weights.packed"
        self.source = Kept(self.packed, tensors)
        if not self.packed.exists():
            PackedWeights(program, self.source, self.backend, self.library, "int8").free()
        with self.packed.open("rb") as file:
            self.header, self.start = packed_file._read_header(file.fileno())

    def private(self) -> CpuExecutable:
        return self.backend.compile(self.program, self.source, self.limits)

    def by(self, name: str, memory: Path) -> CpuExecutable:
        address, _ = WAYS[name](self.packed, memory)
        weights: Any = Mapped(self.header, address + self.start)
        return CpuExecutable(self.program, weights, self.limits, self.backend, self.library)

    def bound(self, executable: CpuExecutable) -> CpuExecutable:
        num_blocks = max(cell.step(2).block_tables.size for cell in CELLS)
        executable.bind_pool(self.backend.allocate(num_blocks * executable.block_bytes), num_blocks)
        return executable


@contextlib.contextmanager
def memory_files(packed: Path) -> Iterator[dict[bool, Path]]:
    """By whether their pages are huge; and how long each took to make."""
    made = {}
    for huge in (False, True):
        descriptor = os.memfd_create(f"weights-{huge}")
        begun = time.perf_counter()
        filled(descriptor, packed, huge=huge)
        print(f"a memory file, huge pages {huge}: filled in {time.perf_counter() - begun:.3f} s")
        made[huge] = Path(f"/proc/{os.getpid()}/fd/{descriptor}")
    yield made


def child(name: str, folder: Path, memory: Path) -> int:
    """Have the weights, take a step, tell what that took; then say what is held, each time somebody asks."""
    bench = Bench(folder, Machine().num_cores())
    bench.source = Kept(bench.packed, {})
    begun = time.perf_counter()
    try:
        executable = bench.private() if name == "private" else bench.by(name, memory)
    except OSError as error:
        print(json.dumps({"refused": str(error)}), flush=True)
        return 0
    attached = time.perf_counter()
    bench.bound(executable)
    step = CELLS[0].step(SHAPES[SHAPE].vocab)
    ready = time.perf_counter()
    executable.run(step)
    first = time.perf_counter() - ready
    print(json.dumps({"attach_s": attached - begun, "first_step_s": first}), flush=True)
    for _ in sys.stdin:
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
        print(json.dumps({line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}), flush=True)
    return 0


def ask(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    told: dict[str, Any] = json.loads(process.stdout.readline())
    return told


def held(name: str, folder: Path, memory: Path, rounds: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.weight_memory", str(folder), "--child", name, "--memory", str(memory)]
    attach, first = [], []
    living: list[subprocess.Popen[str]] = []
    told: dict[str, Any] = {}
    for number in range(rounds):
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        times = json.loads(process.stdout.readline())
        if "refused" in times:
            end(process)
            return dict(times)
        attach.append(times["attach_s"])
        first.append(times["first_step_s"])
        living.append(process)
        if number < 2:
            rolls = [ask(process) for process in living]
            told[f"{number + 1}_resident"] = sum(roll["Rss"] for roll in rolls)
            told[f"{number + 1}_by_share"] = sum(roll["Pss"] for roll in rolls)
            told["in_huge_pages"] = sum(rolls[0][kind] for kind in HUGE)
        if number >= 1:
            end(living.pop(0))
    for process in living:
        end(process)
    return {"attach_ms": statistics.median(attach) * 1e3, "first_step_ms": statistics.median(first) * 1e3, **told}


def end(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    process.wait(30)


def speeds(bench: Bench, memories: dict[bool, Path], names: list[str], rounds: int) -> dict[str, dict[str, Any]]:
    """Of one thread, in the processor's own time: other jobs take the cores away, and the ratio is of memory alone."""
    arms = {"private": bench.bound(bench.private())}
    arms |= {name: bench.bound(bench.by(name, memories[is_huge(name)])) for name in names}
    order = list(arms)
    told: dict[str, dict[str, Any]] = {name: {} for name in arms}
    for cell in CELLS:
        step = cell.step(SHAPES[SHAPE].vocab)
        times: dict[str, list[float]] = {name: [] for name in arms}
        for number in range(rounds + 1):
            order.append(order.pop(0))
            for name in order if number % 2 else order[::-1]:
                taken = timed(arms[name], step, time.process_time)
                if number:
                    times[name].append(taken)
        for name in arms:
            ratios = [a / b for a, b in zip(times["private"], times[name], strict=True)]
            told[name][cell.name] = {
                "ms": statistics.median(times[name]) * 1e3,
                "speed_beside_private": statistics.median(ratios),
                "spread": spread(ratios),
            }
    return told


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--speeds", nargs="*", choices=list(WAYS), default=list(SPEEDS), help="ways timed in turns")
    parser.add_argument("--child", choices=["private", *WAYS])
    parser.add_argument("--memory", type=Path)
    parser.add_argument("--record", action="store_true", help="write benchmarks/records/<date>-weight-memory.json")
    asked = parser.parse_args()
    if asked.child is not None:
        return child(asked.child, asked.folder, asked.memory)
    bench = Bench(asked.folder, num_threads=1)
    with memory_files(bench.packed) as memories:
        told: dict[str, dict[str, Any]] = {}
        for name in ["private", *WAYS]:
            told[name] = held(name, asked.folder, memories[is_huge(name)], 3)
        possible = [name for name in asked.speeds if "refused" not in told[name]]
        for name, cells in speeds(bench, memories, possible, asked.rounds).items():
            told[name] |= cells
    for name, values in told.items():
        print(name, json.dumps(values))
    if asked.record:
        write_record("weight-memory", {**machine(), "shape": SHAPE, "weights": "int8", "ways": told})
    return 0


if __name__ == "__main__":
    sys.exit(main())
