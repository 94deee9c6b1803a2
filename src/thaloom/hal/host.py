"""A backend in the host's own memory, over any function that can evaluate a step.

The reference uses it, the virtual devices use it, and a driver without its native part falls back to it. It does
everything of the contract that is not arithmetic: buffers and their budget, weights, checks of programs and steps,
the pool of key/value blocks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from thaloom.base.errors import OutOfMemory
from thaloom.hal.blocks import BlockStore, block_bytes
from thaloom.hal.checks import StepChecker, check_limits, check_program, read_weights
from thaloom.hal.driver import ALIGNMENT, Buffer, Limits, WeightSource
from thaloom.hal.ops import Program, Step
from thaloom.hal.quantise import convert
from thaloom.hal.types import Device, Support

F32 = NDArray[np.float32]
Evaluate = Callable[[Program, Mapping[str, F32], Step, "BlockStore"], F32]
"""(program, weights in f32, a checked step, the keys and values) -> the last instruction's result."""


class Budget:
    """Bytes of one device that may be handed out, and how many are. Backends of one device share it. Thread-safe."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._used_bytes = 0
        self._lock = threading.Lock()

    @property
    def used_bytes(self) -> int:
        return self._used_bytes

    def reserve(self, num_bytes: int) -> None:
        """Raises OutOfMemory, with both numbers, if that is more than is free."""
        if num_bytes < 0:
            raise ValueError(f"cannot allocate {num_bytes} bytes")
        with self._lock:
            free = self._device.memory_bytes - self._used_bytes
            if num_bytes <= free:
                self._used_bytes += num_bytes
                return
        raise OutOfMemory(
            f"device {self._device.id!r} has {free} bytes free, {num_bytes} are needed",
            needed_bytes=num_bytes,
            free_bytes=free,
        )

    def give_back(self, num_bytes: int) -> None:
        with self._lock:
            self._used_bytes -= num_bytes


class HostBuffer:
    """Zeroed memory of this process, counted against its backend's budget until freed. Freeing twice is harmless."""

    def __init__(self, num_bytes: int, release: Callable[[int], None]) -> None:
        room = np.zeros(num_bytes + ALIGNMENT, np.uint8)
        begin = -room.ctypes.data % ALIGNMENT
        self._data: NDArray[np.uint8] | None = room[begin : begin + num_bytes]
        self._num_bytes = num_bytes
        self._release = release

    @property
    def num_bytes(self) -> int:
        return self._num_bytes

    @property
    def data(self) -> NDArray[np.uint8]:
        """Raises ValueError once freed."""
        if self._data is None:
            raise ValueError("this buffer was freed")
        return self._data

    def free(self) -> None:
        if self._data is not None:
            self._data = None
            self._release(self._num_bytes)


class HostBackend:
    """driver.Backend over `evaluate`. Without a budget shared with others it has the device's memory to itself."""

    def __init__(
        self,
        device: Device,
        support: Support,
        evaluate: Evaluate,
        *,
        degraded: str | None = None,
        budget: Budget | None = None,
    ) -> None:
        self._device = device
        self._support = support
        self._evaluate = evaluate
        self._degraded = degraded
        self._budget = budget or Budget(device)

    @property
    def device(self) -> Device:
        return self._device

    @property
    def support(self) -> Support:
        return self._support

    @property
    def degraded(self) -> str | None:
        return self._degraded

    def allocate(self, num_bytes: int) -> HostBuffer:
        self._budget.reserve(num_bytes)
        try:
            return HostBuffer(num_bytes, self._budget.give_back)
        except MemoryError as error:
            self._budget.give_back(num_bytes)
            raise OutOfMemory(f"the host refused {num_bytes} bytes", needed_bytes=num_bytes) from error

    def compile(self, program: Program, weights: WeightSource, limits: Limits) -> HostExecutable:
        check_program(program, self._support)
        check_limits(limits, self._support)
        tensors = convert(program, read_weights(program, weights, self._support), limits.weight_format)
        num_bytes = sum(4 * tensor.data.size for tensor in tensors.values())
        self._budget.reserve(num_bytes)
        packed = {name: np.ascontiguousarray(tensor.to_f32()) for name, tensor in tensors.items()}
        return HostExecutable(program, packed, limits, self._evaluate, self._budget.give_back)


class HostExecutable:
    """driver.Executable that evaluates each step in this process."""

    def __init__(
        self,
        program: Program,
        weights: Mapping[str, F32],
        limits: Limits,
        evaluate: Evaluate,
        release: Callable[[int], None],
    ) -> None:
        self._program = program
        self._weights: Mapping[str, F32] | None = weights
        self._limits = limits
        self._evaluate = evaluate
        self._release = release
        self._checker = StepChecker(program, limits)
        self._weight_bytes = sum(array.nbytes for array in weights.values())
        self._store: BlockStore | None = None

    @property
    def block_bytes(self) -> int:
        return block_bytes(self._program, self._limits.kv_dtype)

    @property
    def weight_bytes(self) -> int:
        return self._weight_bytes

    @property
    def scratch_bytes(self) -> int:
        """None is kept between steps; what a step needs, NumPy allocates and frees."""
        return 0

    def bind_pool(self, pool: Buffer, num_blocks: int) -> None:
        if not isinstance(pool, HostBuffer):
            raise ValueError("the pool was not allocated by this backend")
        needed = num_blocks * self.block_bytes
        if num_blocks < 0 or needed > pool.num_bytes:
            raise ValueError(f"{num_blocks} blocks need {needed} bytes; the pool has {pool.num_bytes}")
        self._store = BlockStore(self._program, self._limits.kv_dtype, pool.data[:needed])

    def run(self, step: Step) -> F32:
        if self._weights is None:
            raise ValueError("this executable was closed")
        store = self._bound_store()
        self._checker.check(step, store.num_blocks)
        return self._evaluate(self._program, self._weights, step, store)

    def copy_block(self, source: int, target: int) -> None:
        self._bound_store().copy_block(source, target)

    def read_block(self, block: int, into: memoryview) -> None:
        """driver.MovesBlocks."""
        self._bound_store().read_block(block, into)

    def write_block(self, block: int, data: memoryview) -> None:
        """driver.MovesBlocks."""
        self._bound_store().write_block(block, data)

    def close(self) -> None:
        if self._weights is not None:
            self._weights = None
            self._store = None
            self._release(self._weight_bytes)

    def _bound_store(self) -> BlockStore:
        if self._store is None:
            if self._program.kv:
                raise ValueError("no pool is bound")
            self._store = BlockStore(self._program, self._limits.kv_dtype, np.zeros(0, np.uint8))
        return self._store
