"""Time single products of the native library at real layer shapes: `python -m benchmarks.kernels`.

    python -m benchmarks.kernels --record
    python -m benchmarks.kernels --layer gate_up --rows 1 16 --weights int8 --weights int4 --build /elsewhere/before.so

A layer of the 0.5 B shape (gate and up together, down, head) stands in a program of its own, as many copies after one
another as make 120 MB and more, so that every weight comes from memory. What is timed is one step of that program,
activations made ready and threads woken included. Arms (a way of keeping weights on a build) run in turn, round by
round, and each round begins with what the threads read from memory just then.

`of read`: weights' bytes over time, as a share of that. `of peak`: operations over time, as a share of the fastest
instruction for them (a multiply-add is two). A step is as fast as the machine allows where either is near 1.

`--cpu-time` counts the processor's time on one thread instead of the clock's: what a change to a loop is judged by
where other jobs take the processors away all the time. It has no shares: those are of what the clock saw.
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
from benchmarks.engine.probe import Peaks, Probe
from benchmarks.node import machine, write_record
from benchmarks.step import timed

from thaloom.hal.checks import MemoryWeights
from thaloom.hal.driver import Executable, Limits
from thaloom.hal.drivers.cpu import native
from thaloom.hal.drivers.cpu.executable import CpuBackend
from thaloom.hal.drivers.cpu.probe import Machine
from thaloom.hal.host import Budget
from thaloom.hal.ops import ProgramBuilder, Step
from thaloom.hal.quantise import quantise
from thaloom.hal.tensors import QuantTensor, Tensor, bf16_from_f32

LAYERS = {"gate_up": (9728, 896), "down": (896, 4864), "head": (151936, 896)}
"""Outputs and inputs, of the Qwen2.5-0.5B shape."""
TOTAL_BYTES = 120_000_000
"""Of weights at 8 bits: several times the last-level cache."""
FORMATS = ("bf16", "int8", "int8 groups", "int4")
VOCAB = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    name: str
    format: str
    executable: Executable
    copies: int


def main() -> int:
    asked = arguments()
    probe = Probe(asked.threads, cache())
    peaks = probe.peaks()
    print(f"peaks, operations/s: {peaks}; memory is read by {probe.how} code")
    told: dict[str, Any] = {}
    for layer in asked.layer or LAYERS:
        arms = list(open_arms(layer, asked))
        for rows in asked.rows:
            told[f"{layer} {rows}"] = measure(layer, rows, arms, probe, peaks, asked)
        for arm in arms:
            arm.executable.close()
    if asked.record:
        record = {
            **machine(),
            "threads": asked.threads,
            "clock": "cpu time" if asked.cpu_time else "wall",
            "rounds": asked.rounds,
            "peak_bf16_flops": peaks.bf16,
        }
        write_record("kernels", record | {"peak_i8_ops": peaks.i8, "cells": told})
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layer", action="append", choices=sorted(LAYERS))
    parser.add_argument("--rows", type=int, nargs="*", default=[1, 4, 16, 64, 512])
    parser.add_argument("--weights", action="append", choices=FORMATS)
    parser.add_argument("--build", action="append", help="a build by name, or a file by path with its /")
    parser.add_argument("--threads", type=int, default=Machine().num_cores())
    parser.add_argument("--cpu-time", action="store_true", help="of one thread")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--record", action="store_true", help="write benchmarks/records/<date>-kernels.json")
    asked = parser.parse_args()
    if asked.cpu_time:
        asked.threads = 1
    return asked


def open_arms(layer: str, asked: argparse.Namespace) -> Iterator[Arm]:
    outputs, inputs = LAYERS[layer]
    copies = max(1, -(-TOTAL_BYTES // (outputs * inputs)))
    device = Machine().device()
    budget = Budget(device)
    values = np.random.default_rng(0).standard_normal((outputs, inputs), np.float32) / np.float32(inputs**0.5)
    for build in asked.build or [None]:
        choice = native.choose(device.features, platform.machine(), wanted=build)
        if choice.path is None:
            sys.exit(f"no native library: {choice.degraded}")
        backend = CpuBackend(device, native.load(choice.path), budget, num_threads=asked.threads)
        for format in asked.weights or FORMATS:
            matrix = stored(values, format)
            builder = ProgramBuilder()
            x = builder.embedding("table", vocab_size=VOCAB, width=inputs)
            products = [builder.linear(x, f"copy {i}", width=outputs) for i in range(copies)]
            builder.pool(products[-1], normalise=False)
            program = builder.build()
            weights: dict[str, Tensor | QuantTensor] = {str(name): matrix for name in program.weights}
            weights["table"] = Tensor("f32", np.random.default_rng(1).standard_normal((VOCAB, inputs), np.float32))
            limits = Limits(max_rows=max(asked.rows), max_sequences=1, max_context=max(asked.rows))
            executable = backend.compile(program, MemoryWeights(weights), limits)
            yield Arm(name=f"{format} on {Path(choice.path).stem}", format=format, executable=executable, copies=copies)


def stored(values: np.typing.NDArray[np.float32], format: str) -> Tensor | QuantTensor:
    if format == "bf16":
        return Tensor("bf16", bf16_from_f32(values))
    if format == "int4":
        return quantise(values, 4)
    return quantise(values, 8, values.shape[1] if format == "int8" else 32)


def a_step(rows: int) -> Step:
    """One sequence of so many rows; what is looked at is the last."""
    numbers = np.arange(rows, dtype=np.int32)
    return Step(
        tokens=numbers % VOCAB,
        positions=numbers,
        sequences=np.zeros(rows, np.int32),
        block_tables=np.zeros((1, -(-rows // 16)), np.int32),
        outputs=numbers[-1:],
    )


def measure(
    layer: str, rows: int, arms: list[Arm], probe: Probe, peaks: Peaks, asked: argparse.Namespace
) -> dict[str, Any]:
    outputs, inputs = LAYERS[layer]
    clock: Callable[[], float] = time.process_time if asked.cpu_time else time.perf_counter
    step, times, reads = a_step(rows), {arm.name: list[float]() for arm in arms}, []
    for number in range(asked.rounds + 1):
        reads.append(probe.read())
        for arm in arms if number % 2 else arms[::-1]:
            taken = timed(arm.executable, step, clock) / arm.copies
            if number:  # the first round warms up
                times[arm.name].append(taken)
    memory = statistics.median(reads[1:])
    told: dict[str, Any] = {"memory_read_bytes_per_s": memory, "arms": {}}
    print(f"{layer}, {rows} rows: memory {memory / 1e9:.1f} GB/s")
    for arm in arms:
        taken = statistics.median(times[arm.name])
        bits = {"bf16": 16.0, "int8": 8.0, "int8 groups": 8.5, "int4": 4.5}[arm.format]
        read, operations = outputs * inputs * bits / 8 / taken, 2 * rows * outputs * inputs / taken
        peak = None if asked.cpu_time else peaks.best(weight_bits=16 if arm.format == "bf16" else 8)
        told["arms"][arm.name] = {
            "us": taken * 1e6,
            "bytes_per_s": read,
            "operations_per_s": operations,
            "of_read": None if asked.cpu_time else read / memory,
            "of_peak": None if peak is None else operations / peak,
        }
        share = "" if asked.cpu_time else f"  of read {read / memory:4.0%}"
        share += "" if peak is None else f"  of peak {operations / peak:4.0%}"
        print(f"  {arm.name:40} {taken * 1e6:9.0f} us {read / 1e9:6.1f} GB/s {operations / 1e9:7.0f} GOP/s{share}")
    return told


if __name__ == "__main__":
    sys.exit(main())
