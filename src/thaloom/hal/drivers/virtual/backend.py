"""A backend that computes rightly, under a device's faults."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from thaloom.base.errors import OutOfMemory
from thaloom.hal.checks import check_limits, check_program, read_weights
from thaloom.hal.driver import Buffer, Executable, Limits, MovesBlocks, WeightSource
from thaloom.hal.drivers.virtual.faults import Faults
from thaloom.hal.host import Budget, HostBackend
from thaloom.hal.lower import LoweredBackend
from thaloom.hal.numpy_ops import Array, NumpyOps
from thaloom.hal.ops import Program, Step
from thaloom.hal.reference import ReferenceBackend
from thaloom.hal.types import Device, Support, WeightFormat


def open_backend(
    device: Device,
    level: Literal["L1", "L3"],
    weight_formats: frozenset[WeightFormat],
    budget: Budget,
    faults: Faults,
    sleep: Callable[[float], None],
) -> VirtualBackend:
    """L3: the reference runs whole steps; L1: everything is composed from plain tensor operators."""
    inner: HostBackend | LoweredBackend[Array] = ReferenceBackend(device, budget=budget)
    if level == "L1":
        inner = LoweredBackend(NumpyOps(), device, budget=budget)
    return VirtualBackend(inner, weight_formats, faults, sleep)


class VirtualBackend:
    """driver.Backend around one that works."""

    def __init__(
        self,
        inner: HostBackend | LoweredBackend[Array],
        weight_formats: frozenset[WeightFormat],
        faults: Faults,
        sleep: Callable[[float], None],
    ) -> None:
        self._inner = inner
        self._faults = faults
        self._sleep = sleep
        dtypes = inner.device.dtypes
        self._support = dataclasses.replace(
            inner.support,
            weight_dtypes=inner.support.weight_dtypes & dtypes,
            kv_dtypes=inner.support.kv_dtypes & (dtypes | {"f32"}),
            weight_formats=inner.support.weight_formats & weight_formats,
        )

    @property
    def device(self) -> Device:
        return self._inner.device

    @property
    def support(self) -> Support:
        return self._support

    @property
    def degraded(self) -> str | None:
        return self._inner.degraded

    def allocate(self, num_bytes: int) -> Buffer:
        self._pass()
        if "exhausted" in self._faults.now():
            raise OutOfMemory(
                f"device {self.device.id!r} has no byte free, {num_bytes} are needed",
                needed_bytes=num_bytes,
                free_bytes=0,
            )
        return self._inner.allocate(num_bytes)

    def compile(self, program: Program, weights: WeightSource, limits: Limits) -> Executable:
        self._pass()
        check_program(program, self._support)
        check_limits(limits, self._support)
        read_weights(program, weights, self._support)
        inner = self._inner.compile(program, weights, limits)
        kind = VirtualMover if isinstance(inner, MovesBlocks) else VirtualExecutable
        return kind(inner, self._pass, self._stop_if_lost)

    def _pass(self) -> None:
        self._faults.pass_or_raise(self.device.id, self._sleep)

    def _stop_if_lost(self) -> None:
        self._faults.raise_if_lost(self.device.id)


class VirtualExecutable:
    """driver.Executable around one that works; faults strike before a step and after it."""

    def __init__(self, inner: Executable, pass_or_raise: Callable[[], None], stop_if_lost: Callable[[], None]) -> None:
        self._inner = inner
        self._pass = pass_or_raise
        self._stop_if_lost = stop_if_lost

    @property
    def block_bytes(self) -> int:
        return self._inner.block_bytes

    @property
    def weight_bytes(self) -> int:
        return self._inner.weight_bytes

    @property
    def scratch_bytes(self) -> int:
        return self._inner.scratch_bytes

    def bind_pool(self, pool: Buffer, num_blocks: int) -> None:
        self._inner.bind_pool(pool, num_blocks)

    def run(self, step: Step) -> NDArray[np.float32]:
        self._pass()
        result = self._inner.run(step)
        self._stop_if_lost()
        return result

    def copy_block(self, source: int, target: int) -> None:
        self._inner.copy_block(source, target)

    def close(self) -> None:
        self._inner.close()


class VirtualMover(VirtualExecutable):
    """Also driver.MovesBlocks, as the one inside."""

    def read_block(self, block: int, into: memoryview) -> None:
        self._mover().read_block(block, into)

    def write_block(self, block: int, data: memoryview) -> None:
        self._mover().write_block(block, data)

    def _mover(self) -> MovesBlocks:
        assert isinstance(self._inner, MovesBlocks), "a mover around what moves nothing"
        return self._inner
