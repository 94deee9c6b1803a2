"""Drivers that are broken on purpose, each in one way. The kit must catch every one, by the check that is for it."""

from __future__ import annotations

import ctypes
import dataclasses
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from thaloom.base.errors import DeviceLost, MalformedFile
from thaloom.base.ids import DeviceId
from thaloom.hal.driver import ABI
from thaloom.hal.drivers.virtual import DRIVER
from thaloom.hal.drivers.virtual.driver import VirtualDevice, VirtualDriver
from thaloom.hal.ops import (
    Embedding,
    Gated,
    Instruction,
    Linear,
    Logits,
    Lora,
    Moe,
    PagedAttention,
    Pool,
    RmsNorm,
    Rope,
    RopeScaling,
    Step,
)
from thaloom.hal.tensors import Tensor
from thaloom.hal.testing import run_conformance
from thaloom.hal.types import Reading

DEVICE = DeviceId("virtual:0")


class Wrapped:
    """Everything of `inner`, but for what a mutant overrides."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class Mutant(Wrapped):
    """A driver whose backends and executables are wrapped too. As it stands, it is broken in no way."""

    name = "virtual"
    abi = ABI

    def __init__(self) -> None:
        super().__init__(VirtualDriver([VirtualDevice(id=DEVICE)], sleep=lambda seconds: None))
        self.backend_kind: type[Wrapped] = MutantBackend
        self.executable_kind: type[Wrapped] = Wrapped

    def probe(self) -> Any:
        return self.inner.probe()

    def read(self, device: DeviceId) -> Any:
        return self.inner.read(device)

    def open(self, device: DeviceId, *, num_threads: int) -> Any:
        backend = self.backend_kind(self.inner.open(device, num_threads=num_threads))
        backend.driver, backend.num_threads = self, num_threads
        return backend

    def links(self) -> Any:
        return self.inner.links()

    def inject(self, device: DeviceId, fault: Any) -> None:
        self.inner.inject(device, fault)

    def clear(self, device: DeviceId) -> None:
        self.inner.clear(device)


class MutantBackend(Wrapped):
    driver: Any
    num_threads: int

    def compile(self, program: Any, weights: Any, limits: Any) -> Any:
        executable = self.driver.executable_kind(self.inner.compile(program, weights, limits))
        executable.backend = self
        return executable


def driver_like(**methods: Any) -> Mutant:
    """A mutant whose driver object has these methods."""
    return type("DriverMutant", (Mutant,), methods)()


def backend_like(**methods: Any) -> Mutant:
    mutant = Mutant()
    mutant.backend_kind = type("BackendMutant", (MutantBackend,), methods)
    return mutant


def executable_like(**methods: Any) -> Mutant:
    mutant = Mutant()
    mutant.executable_kind = type("ExecutableMutant", (Wrapped,), methods)
    return mutant


def rewriting(kind: type[Instruction], **changes: Any) -> Mutant:
    """Compiles another program than it was given: every instruction of `kind` is changed."""

    def compile(self: Any, program: Any, weights: Any, limits: Any) -> Any:
        instructions = tuple(
            dataclasses.replace(step, **{name: _value(value, step) for name, value in changes.items()})
            if isinstance(step, kind)
            else step
            for step in program.instructions
        )
        return self.inner.compile(dataclasses.replace(program, instructions=instructions), weights, limits)

    return backend_like(compile=compile)


def _value(value: Any, step: Instruction) -> Any:
    return value(step) if callable(value) else value


def changing_result(change: Callable[[Any, Step, np.ndarray], np.ndarray]) -> Mutant:
    def run(self: Any, step: Step) -> np.ndarray:
        return change(self, step, np.array(self.inner.run(step)))

    return executable_like(run=run)


def _nudged(result: np.ndarray, by: int) -> np.ndarray:
    """Moved by units in the last place: far within any tolerance."""
    return result + np.spacing(np.abs(result)) * np.float32(by)


def _taken_out(self: Any, block: int, into: memoryview) -> None:
    self.inner.read_block(block, into)


def _put_back(self: Any, block: int, data: memoryview) -> None:
    self.inner.write_block(block, data)


def _device_with(**changes: Any) -> Mutant:
    return driver_like(probe=lambda self: [dataclasses.replace(d, **changes) for d in self.inner.probe()])


def _reading_with(**changes: Any) -> Mutant:
    return driver_like(read=lambda self, device: dataclasses.replace(self.inner.read(device), **changes))


def _probe_then(act: Callable[[Any], Any]) -> Mutant:
    def probe(self: Any) -> Any:
        act(self)
        return self.inner.probe()

    return driver_like(probe=probe)


def _open_then(act: Callable[[Any], Any]) -> Mutant:
    def open(self: Any, device: DeviceId, *, num_threads: int) -> Any:
        act(self)
        return Mutant.open(self, device, num_threads=num_threads)

    return driver_like(open=open)


def _renumbers(self: Any) -> Any:
    self.__dict__["count"] = self.__dict__.get("count", 0) + 1
    return [
        *self.inner.probe(),
        dataclasses.replace(self.inner.probe()[0], id=DeviceId(f"virtual:{self.__dict__['count']}")),
    ]


def _keeps_open(self: Any) -> None:
    self.__dict__.setdefault("kept", []).append(os.open("/dev/null", os.O_RDONLY))


def _connects(self: Any) -> None:
    with socket.socket() as probe:
        probe.settimeout(0.1)
        try:
            probe.connect(("127.0.0.1", 9))
        except OSError:
            pass


def _loads_from_here(self: Any) -> None:
    try:
        ctypes.CDLL("./vendor/libdevice.so")
    except OSError:
        pass


def _forgets_free(self: Any, num_bytes: int) -> Any:
    buffer = self.inner.allocate(num_bytes)
    self.__dict__.setdefault("kept", []).append(buffer)
    return type("Kept", (Wrapped,), {"free": lambda self: None})(buffer)


class _Odd:
    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = num_bytes
        room = np.zeros(num_bytes + 512, np.uint8)
        begin = -room.ctypes.data % 256 + 64
        self.data = room[begin : begin + num_bytes]

    def free(self) -> None:
        pass


def _gives_too_much(self: Any, num_bytes: int) -> Any:
    return self.inner.allocate(min(num_bytes, 1 << 20))


def _drops_last(self: Any, program: Any, weights: Any, limits: Any) -> Any:
    if program.instructions[-1].op == "sample":
        program = dataclasses.replace(program, instructions=program.instructions[:-1])
    return self.inner.compile(program, weights, limits)


def _fills_in_zeros(self: Any, program: Any, weights: Any, limits: Any) -> Any:
    class Source:
        def names(self) -> Any:
            return weights.names()

        def read(self, name: str) -> Tensor:
            try:
                return weights.read(name)
            except MalformedFile:
                return Tensor("f32", np.zeros(program.weights[name], np.float32))

    return self.inner.compile(program, Source(), limits)


def _stores_f32(self: Any, program: Any, weights: Any, limits: Any) -> Any:
    return self.inner.compile(program, weights, dataclasses.replace(limits, kv_dtype="f32"))


def _answers_anything(self: Any, step: Step) -> np.ndarray:
    try:
        return self.inner.run(step)
    except ValueError:
        return np.zeros((len(step.outputs), 61), np.float32)


def _spoils_then_refuses(self: Any, step: Step) -> np.ndarray:
    try:
        return self.inner.run(step)
    except ValueError:
        for block in range(1, 20):
            self.inner.copy_block(0, block)
        raise


def _writes_into_step(self: Any, step: Step) -> np.ndarray:
    result = self.inner.run(step)
    step.positions[:] = 0
    return result


def _shares_result(self: Any, step: Step) -> np.ndarray:
    shared = self.backend.__dict__
    shared["result"] = self.inner.run(step)
    time.sleep(0.0005)
    return shared["result"]


def _sorts_outputs(self: Any, step: Step) -> np.ndarray:
    return self.inner.run(dataclasses.replace(step, outputs=np.sort(step.outputs)))


def _untyped_loss(self: Any, step: Step) -> np.ndarray:
    try:
        return self.inner.run(step)
    except DeviceLost as error:
        raise RuntimeError("CUDA error: unspecified launch failure") from error


def _wrong_after_a_while(self: Any, step: Step, result: np.ndarray) -> np.ndarray:
    self.__dict__["runs"] = self.__dict__.get("runs", 0) + 1
    return _nudged(result, 1) if self.__dict__["runs"] > 10 else result


def _by_chunk(self: Any, step: Step, result: np.ndarray) -> np.ndarray:
    """A step that begins with a prefill is computed by another kernel than one that begins with a decode row."""
    starts = (step.positions == 0) & np.isin(np.arange(step.num_rows), step.outputs)
    return _nudged(result, 0 if starts.any() else 1)


def _other_threads_numbers(self: Any, step: Step, result: np.ndarray) -> np.ndarray:
    return _nudged(result, self.backend.num_threads - 1)


def _blind_to_others_devices(self: Any, device: DeviceId) -> Reading:
    return Reading(device=device, health="healthy")


def _opens_anything(self: Any, device: DeviceId, *, num_threads: int) -> Any:
    return Mutant.open(self, DEVICE, num_threads=num_threads)


MUTANTS: dict[str, tuple[Callable[[], Mutant], str]] = {
    "made for another contract": (lambda: driver_like(abi=ABI + 1), "manifest.abi_matches"),
    "claims an operator nobody knows": (
        lambda: backend_like(
            support=property(
                lambda self: dataclasses.replace(self.inner.support, levels=self.inner.support.levels | {"fft": "L3"})
            )
        ),
        "manifest.operators_are_known",
    ),
    "gives no reason": (lambda: backend_like(degraded=""), "manifest.degraded_has_a_reason"),
    "finds other devices each time": (lambda: driver_like(probe=_renumbers), "probe.same_devices_every_time"),
    "probes slowly": (lambda: _probe_then(lambda self: time.sleep(0.06)), "probe.is_quick"),
    "probes with a child process": (
        lambda: _probe_then(lambda self: subprocess.run([sys.executable, "-S", "-c", ""], check=True)),
        "probe.starts_no_process",
    ),
    "leaves files open": (lambda: _probe_then(_keeps_open), "probe.leaves_nothing_open"),
    "raises where there is no hardware": (
        lambda: _probe_then(lambda self: (_ for _ in ()).throw(OSError("no /dev/kfd"))),
        "probe.lists_the_device",
    ),
    "counts memory in MiB": (lambda: _device_with(memory_bytes=1024), "inventory.has_memory_and_cores"),
    "promises an isolation nobody knows": (
        lambda: _device_with(isolation="mostly"),
        "inventory.kind_and_isolation_are_known",
    ),
    "says it is another's": (lambda: _device_with(driver="cuda"), "inventory.names_its_driver"),
    "reads devices that are not there": (
        lambda: driver_like(read=_blind_to_others_devices),
        "inventory.unknown_device_is_refused",
    ),
    "opens devices that are not there": (
        lambda: driver_like(open=_opens_anything),
        "inventory.unknown_device_is_refused",
    ),
    "reports 0 for what it does not know": (lambda: _reading_with(power_mw=0), "telemetry.absent_is_none"),
    "reports impossible use": (lambda: _reading_with(utilisation=37.0), "telemetry.is_plausible"),
    "counts memory twice": (
        lambda: _reading_with(memory_used_bytes=1 << 29, memory_free_bytes=1 << 30),
        "telemetry.memory_adds_up",
    ),
    "reads another device": (lambda: _reading_with(device=DeviceId("virtual:9")), "telemetry.is_of_the_device"),
    "gives memory it does not have": (lambda: backend_like(allocate=_gives_too_much), "memory.too_much_is_refused"),
    "never gives memory back": (lambda: backend_like(allocate=_forgets_free), "memory.comes_back"),
    "takes nothing out of blocks": (
        lambda: executable_like(read_block=lambda self, block, into: None, write_block=_put_back),
        "memory.blocks_leave_and_come_back",
    ),
    "puts nothing back into blocks": (
        lambda: executable_like(read_block=_taken_out, write_block=lambda self, block, data: None),
        "memory.blocks_leave_and_come_back",
    ),
    "does not copy blocks": (
        lambda: executable_like(copy_block=lambda self, source, target: None),
        "memory.blocks_can_be_copied",
    ),
    "begins anywhere": (lambda: backend_like(allocate=lambda self, size: _Odd(size)), "memory.begins_aligned"),
    "stores f32 where bf16 was asked for": (
        lambda: backend_like(compile=_stores_f32),
        "execute.store_dtype_is_kept",
    ),
    "ignores windows": (lambda: rewriting(PagedAttention, window=0), "execute.operator.paged_attention"),
    "a window that is one too wide": (
        lambda: rewriting(PagedAttention, window=lambda step: step.window and step.window + 1),
        "execute.operator.paged_attention",
    ),
    "ignores soft caps": (lambda: rewriting(PagedAttention, softcap=0.0), "execute.operator.paged_attention"),
    "ignores ALiBi": (lambda: rewriting(PagedAttention, alibi=()), "execute.operator.paged_attention"),
    "never looks ahead": (lambda: rewriting(PagedAttention, causal=True), "execute.operator.paged_attention"),
    "scales scores by head size only": (
        lambda: rewriting(PagedAttention, scale=lambda step: step.head_size**-0.5),
        "execute.operator.paged_attention",
    ),
    "forgets biases": (lambda: rewriting(Linear, bias=None), "execute.operator.linear"),
    "forgets the norm's offset": (lambda: rewriting(RmsNorm, offset=0.0), "execute.operator.rmsnorm"),
    "has one epsilon for all": (lambda: rewriting(RmsNorm, eps=1e-6), "execute.operator.rmsnorm"),
    "forgets the embedding's scale": (lambda: rewriting(Embedding, scale=1.0), "execute.operator.embedding"),
    "turns only halves": (lambda: rewriting(Rope, interleaved=False), "execute.operator.rope"),
    "turns whole heads": (
        lambda: rewriting(Rope, rotary_size=lambda step: step.head_size),
        "execute.operator.rope",
    ),
    "does not scale rope": (lambda: rewriting(Rope, scaling=RopeScaling()), "execute.operator.rope"),
    "has one gelu": (
        lambda: rewriting(Gated, activation=lambda step: step.activation.removesuffix("_tanh")),
        "execute.operator.gated",
    ),
    "always renormalises experts": (lambda: rewriting(Moe, normalise=True), "execute.operator.moe"),
    "asks one expert less": (
        lambda: rewriting(Moe, top_k=lambda step: max(step.top_k - 1, 1)),
        "execute.operator.moe",
    ),
    "takes adapter 0 for 1": (lambda: rewriting(Lora, adapter=0), "execute.operator.lora"),
    "scales every adapter alike": (lambda: rewriting(Lora, scale=1.0), "execute.operator.lora"),
    "never normalises": (lambda: rewriting(Pool, normalise=False), "execute.operator.pool"),
    "does not cap logits": (lambda: rewriting(Logits, softcap=0.0), "execute.operator.logits"),
    "gives rows in its own order": (lambda: executable_like(run=_sorts_outputs), "execute.only_wanted_rows"),
    "gives doubles": (
        lambda: changing_result(lambda self, step, result: result.astype(np.float64)),
        "execute.results_are_f32",
    ),
    "writes into the step": (lambda: executable_like(run=_writes_into_step), "execute.step_is_only_read"),
    "depends on the number of rows": (
        lambda: changing_result(lambda self, step, result: _nudged(result, step.num_rows % 2)),
        "exact.rows_independent",
    ),
    "depends on the order of sequences": (
        lambda: changing_result(
            lambda self, step, result: _nudged(result, int(step.tokens[0] > step.tokens[-1]))
        ),
        "exact.order_of_sequences",
    ),
    "depends on the chunk": (lambda: changing_result(_by_chunk), "exact.chunking"),
    "depends on the blocks": (
        lambda: changing_result(lambda self, step, result: _nudged(result, int(step.block_tables[0, 0]) % 2)),
        "exact.block_placement",
    ),
    "depends on the threads": (lambda: changing_result(_other_threads_numbers), "exact.threads"),
    "splits long contexts when it has nothing else to do": (
        lambda: changing_result(
            lambda self, step, result: _nudged(result, int(step.num_rows == 1 and step.positions[0] > 100))
        ),
        "exact.long_contexts",
    ),
    "depends on how often it ran": (lambda: changing_result(_wrong_after_a_while), "exact.repeated"),
    "leaves out what it cannot run": (lambda: backend_like(compile=_drops_last), "refuse.unknown_operator"),
    "makes weights up": (lambda: backend_like(compile=_fills_in_zeros), "refuse.missing_weight"),
    "answers anything": (lambda: executable_like(run=_answers_anything), "refuse.bad_steps"),
    "refuses when it is too late": (lambda: executable_like(run=_spoils_then_refuses), "refuse.bad_steps"),
    "gives one thread's result to another": (
        lambda: executable_like(run=_shares_result),
        "concurrency.many_threads",
    ),
    "loses devices without saying so": (lambda: executable_like(run=_untyped_loss), "faults.lost_is_typed"),
    "is never ill": (lambda: _reading_with(health="healthy"), "health.lost_shows_and_heals"),
    "calls home": (lambda: _open_then(_connects), "security.no_network"),
    "starts a helper": (
        lambda: _open_then(lambda self: subprocess.run([sys.executable, "-S", "-c", ""], check=True)),
        "security.no_processes",
    ),
    "loads libraries from where it stands": (
        lambda: _open_then(_loads_from_here),
        "security.libraries_from_safe_places",
    ),
}  # fmt: skip


@pytest.mark.slow
def test_unbroken_mutant_passes() -> None:
    """Else every mutant below would be caught for being wrapped."""
    report = run_conformance(Mutant(), DEVICE, manifest=DRIVER.manifest)
    assert report.passed, report


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_caught(name: str) -> None:
    make, id = MUTANTS[name]
    report = run_conformance(make(), DEVICE, manifest=DRIVER.manifest, only=[id])
    caught = [result.id for result in report.failures()]
    assert id in caught, f"a driver that {name} passes {id}"


def test_environment_changes_are_caught(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VENDOR_HOME", "before")
    mutant = _open_then(lambda self: os.environ.update(VENDOR_HOME="/opt/vendor"))
    report = run_conformance(mutant, DEVICE, only=["security.leaves_the_process_alone"])
    assert not report.passed


def test_stuck_device_is_caught() -> None:
    """A step that does not notice that its device is gone is given up, not waited for."""
    release = threading.Event()

    def run(self: Any, step: Step) -> np.ndarray:
        faults = self.backend.driver.inner._faults[DEVICE].now()
        if "hang" in faults:
            release.wait(0.5)
            return np.zeros((len(step.outputs), 61), np.float32)
        return self.inner.run(step)

    report = run_conformance(executable_like(run=run), DEVICE, only=["faults.hang_ends"])
    release.set()
    assert not report.passed
