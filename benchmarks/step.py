"""Time whole steps of the native library, with nothing around them: `python -m benchmarks.step`.

    python -m benchmarks.step                                       # bf16 and int8, the build this processor runs
    python -m benchmarks.step --weights stored --build x86_64_v4_bf16 --build /elsewhere/thaloom_cpu_before.so

An arm is a way of keeping weights on a build; arms run in turn, A B A B, in one process and on the same step, so that
ratios to the first arm mean something where other jobs share the machine. The step is that of a random model (see
random_models.py): so many sequences that each decode one token behind others, or one prompt read at once. Tokens are
chosen greedily, so no logits are stored, and of a head in 8 bits a part is not read (docs/decisions/0039): the roofline
counts all of it.

What is told of every cell: the median over rounds in milliseconds and tokens/s, the median of the ratios within rounds
to the first arm with their spread, and the share of the roofline: the larger of bytes over what the threads read from
memory in the same round, and operations over the peak of the fitting instruction.

`--cpu-time` counts the processor's time instead of the clock's, on one thread: what a change to a loop is judged by
where other jobs take the processors away all the time.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.engine.environments import cache
from benchmarks.engine.pairs import spread
from benchmarks.engine.probe import Peaks, Probe
from benchmarks.node import machine, write_record
from benchmarks.random_models import SHAPES, config

from thaloom.base.plugins import Registry
from thaloom.hal.checks import MemoryWeights
from thaloom.hal.costs import Load, Run, step_cost
from thaloom.hal.driver import Executable, Limits
from thaloom.hal.drivers.cpu import native
from thaloom.hal.drivers.cpu.executable import CpuBackend
from thaloom.hal.drivers.cpu.probe import Machine
from thaloom.hal.host import Budget
from thaloom.hal.ops import BLOCK_TOKENS, Program, Step
from thaloom.hal.tensors import Tensor, bf16_from_f32
from thaloom.hal.types import WeightFormat
from thaloom.work.runtime.architectures import Architecture, select
from thaloom.work.runtime.worker.loading import choose_kv_dtype

WEIGHT_BYTES = {"stored": 2.0, "int8": 1.03, "int4": 0.5625}
"""Of a parameter of the 0.5 B shape, scales included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """`decode` sequences of one row each, behind `behind` tokens, or one prompt of `prefill` rows."""

    decode: int = 0
    behind: int = 0
    prefill: int = 0

    @property
    def name(self) -> str:
        return f"prefill {self.prefill}" if self.prefill else f"decode {self.decode} behind {self.behind}"

    @property
    def num_rows(self) -> int:
        return self.decode + self.prefill

    @property
    def runs(self) -> tuple[Run, ...]:
        if self.prefill:
            return (Run(num_rows=self.prefill, length=self.prefill),)
        return (Run(num_rows=1, length=self.behind + 1),) * self.decode

    def step(self, vocab: int) -> Step:
        rows = np.arange(self.num_rows, dtype=np.int32)
        blocks = -(-max(self.prefill, self.behind + 1) // BLOCK_TOKENS)
        num_sequences = 1 if self.prefill else self.decode
        return Step(
            tokens=rows * 17 % vocab,
            positions=rows if self.prefill else np.full(self.decode, self.behind, np.int32),
            sequences=np.zeros_like(rows) if self.prefill else rows,
            block_tables=np.arange(num_sequences * blocks, dtype=np.int32).reshape(num_sequences, blocks),
            outputs=rows[-1:] if self.prefill else rows,
            greedy=True,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    name: str
    weights: WeightFormat
    executable: Executable


def main() -> int:
    asked = arguments()
    program, tensors = random_model(asked.shape)
    cells = [Cell(decode=n, behind=behind) for n in asked.decode for behind in asked.behind]
    cells += [Cell(prefill=n) for n in asked.prefill]
    arms = list(open_arms(asked, program, tensors, cells))
    tensors.clear()
    probe = Probe(asked.threads, cache())
    peaks = probe.peaks()
    print(f"peaks, operations/s: {peaks}; memory is read by {probe.how} code")
    told = {cell.name: measure(cell, arms, program, probe, peaks, asked) for cell in cells}
    record = {
        **machine(),
        "shape": asked.shape,
        "threads": asked.threads,
        "clock": "processor time of one thread" if asked.cpu_time else "wall",
        "rounds": asked.rounds,
        "peak_bf16_flops": peaks.bf16,
        "peak_i8_ops": peaks.i8,
        "cells": told,
    }
    if asked.record:
        write_record("step", record)
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="qwen2.5-0.5b")
    parser.add_argument("--weights", action="append", choices=sorted(WEIGHT_BYTES), help="stored (bf16), int8, int4")
    parser.add_argument("--build", action="append", help="a build by name, or a file by path with its /")
    parser.add_argument("--kv", choices=["f16", "bf16", "f32", "i8"], help="default: what a worker chooses")
    parser.add_argument("--decode", type=int, nargs="*", default=[1, 4, 16, 32])
    parser.add_argument("--behind", type=int, nargs="*", default=[144], help="tokens behind each row that decodes")
    parser.add_argument("--prefill", type=int, nargs="*", default=[512])
    parser.add_argument("--threads", type=int, default=Machine().num_cores())
    parser.add_argument("--cpu-time", action="store_true", help="of one thread")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--record", action="store_true", help="write benchmarks/records/<date>-step.json")
    asked = parser.parse_args()
    if asked.cpu_time:
        asked.threads = 1
    return asked


def random_model(shape: str) -> tuple[Program, dict[str, Tensor]]:
    """The program of the shape, and bf16 weights that cost a second to make: one pool of numbers, cut up."""
    registry: Registry[Architecture] = Registry("architecture")
    registry.discover()
    fields = config(SHAPES[shape])
    program = select(registry, fields).build(fields)
    numbers = bf16_from_f32(np.random.default_rng(0).standard_normal(1 << 22, np.float32) * np.float32(0.02))
    return program, {name: Tensor("bf16", np.resize(numbers, size)) for name, size in program.weights.items()}


def open_arms(
    asked: argparse.Namespace, program: Program, tensors: dict[str, Tensor], cells: list[Cell]
) -> Iterator[Arm]:
    device = Machine().device()
    budget = Budget(device)
    for build in asked.build or [None]:
        choice = native.choose(device.features, platform.machine(), wanted=build)
        if choice.path is None:
            sys.exit(f"no native library: {choice.degraded}")
        backend = CpuBackend(device, native.load(choice.path), budget, num_threads=asked.threads)
        for weights in asked.weights or ["stored"]:
            limits = Limits(
                max_rows=max(cell.num_rows for cell in cells),
                max_sequences=max(len(cell.runs) for cell in cells),
                max_context=max(run.length for cell in cells for run in cell.runs) + BLOCK_TOKENS,
                kv_dtype=choose_kv_dtype(asked.kv, {"bf16"}, weights, backend),
                weight_format=weights,
            )
            executable = backend.compile(program, MemoryWeights(tensors), limits)
            num_blocks = max(cell.step(2).block_tables.size for cell in cells)
            executable.bind_pool(backend.allocate(num_blocks * executable.block_bytes), num_blocks)
            yield Arm(name=f"{weights} on {Path(choice.path).stem}", weights=weights, executable=executable)


def measure(
    cell: Cell, arms: list[Arm], program: Program, probe: Probe, peaks: Peaks, asked: argparse.Namespace
) -> dict[str, Any]:
    step = cell.step(SHAPES[asked.shape].vocab)
    times: dict[str, list[float]] = {arm.name: [] for arm in arms}
    reads = []
    for number in range(asked.rounds + 1):
        reads.append(probe.read())
        for arm in arms if number % 2 else arms[::-1]:
            taken = timed(arm.executable, step, time.process_time if asked.cpu_time else time.perf_counter)
            if number:  # the first round warms up
                times[arm.name].append(taken)
    memory = statistics.median(reads[1:])
    told: dict[str, Any] = {"memory_read_bytes_per_s": memory, "arms": {}}
    print(f"{cell.name}: memory {memory / 1e9:.1f} GB/s")
    first = times[arms[0].name]
    for arm in arms:
        load = Load(
            runs=cell.runs,
            num_outputs=len(step.outputs),
            weight_value_bytes=WEIGHT_BYTES[arm.weights],
            kv_value_bytes=2.0,
        )
        peak = peaks.best(weight_bits=16 if arm.weights == "stored" else 8) or float("inf")
        floor_s = step_cost(program, load).floor_s(operations_per_s=peak, bytes_per_s=memory)
        taken = statistics.median(times[arm.name])
        share = None if asked.cpu_time else floor_s / taken  # the ceilings are told by the clock
        ratios = [b / a for a, b in zip(times[arm.name], first, strict=True)]
        low, high = spread(ratios)
        told["arms"][arm.name] = {
            "ms": taken * 1e3,
            "tokens_per_s": cell.num_rows / taken,
            "times_as_fast_as_the_first": statistics.median(ratios),
            "ratio_spread": [low, high],
            "share_of_roofline": share,
        }
        print(
            f"  {arm.name:44} {taken * 1e3:9.2f} ms {cell.num_rows / taken:8.0f} tok/s"
            f"  {statistics.median(ratios):5.2f}x ({low:.2f}-{high:.2f})"
            + ("" if share is None else f"  roofline {share:4.0%}")
        )
    return told


def timed(executable: Executable, step: Step, clock: Callable[[], float]) -> float:
    """Seconds of one step: the least of as many as fit into a fifth of a second, so that one that was interrupted by
    another job does not stand for the rest."""
    least = float("inf")
    end = clock() + 0.2
    while True:
        begin = clock()
        executable.run(step)
        now = clock()
        least = min(least, now - begin)
        if now >= end:
            return least


if __name__ == "__main__":
    sys.exit(main())
