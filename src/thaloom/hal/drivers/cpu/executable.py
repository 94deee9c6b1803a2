"""Compile and run on the native library: weights packed once into huge pages, then one native call a step."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from thaloom.base.errors import InternalError, OutOfMemory
from thaloom.hal.blocks import copy_bytes
from thaloom.hal.checks import check_limits, check_program
from thaloom.hal.draws import Draw, Drawn
from thaloom.hal.driver import Buffer, Limits, WeightSource
from thaloom.hal.drivers.cpu import native
from thaloom.hal.drivers.cpu.drawing import draw_rows
from thaloom.hal.drivers.cpu.encode import OPERATORS, encode
from thaloom.hal.drivers.cpu.memory import ElasticHostMemory, HostMemory
from thaloom.hal.drivers.cpu.native import Library
from thaloom.hal.drivers.cpu.shared_memory import SharedMemory
from thaloom.hal.drivers.cpu.weights import PackedWeights
from thaloom.hal.host import Budget
from thaloom.hal.ops import Logits, Lora, Program, Step
from thaloom.hal.types import Device, DType, Support

_KV_DTYPES: dict[DType, int] = {"f32": native.F32, "bf16": native.BF16, "f16": native.F16, "i8": native.I8}
SUPPORT = Support(
    levels=dict.fromkeys(sorted(OPERATORS), "L3"),
    exact=True,
    weight_dtypes=frozenset({"f32", "bf16", "f16"}),
    kv_dtypes=frozenset(_KV_DTYPES),
    weight_formats=frozenset({"stored", "int8", "int4"}),
)


class CpuBackend:
    """driver.Backend over one build of the library. Backends that are given one budget share the device's memory."""

    def __init__(
        self, device: Device, library: Library, budget: Budget, *, num_threads: int, degraded: str | None = None
    ) -> None:
        self._device = device
        self._library = library
        self._budget = budget
        self._num_threads = num_threads
        self._degraded = degraded

    @property
    def device(self) -> Device:
        return self._device

    @property
    def support(self) -> Support:
        return SUPPORT

    @property
    def degraded(self) -> str | None:
        return self._degraded

    @property
    def variant(self) -> str:
        return self._library.variant

    @property
    def num_threads(self) -> int:
        return self._num_threads

    def allocate(self, num_bytes: int) -> HostMemory:
        self._budget.reserve(num_bytes)
        try:
            return HostMemory(num_bytes, self._budget.give_back)
        except OutOfMemory:
            self._budget.give_back(num_bytes)
            raise

    def reserve(self, capacity_bytes: int) -> ElasticHostMemory:
        """driver.ReservesMemory."""
        return ElasticHostMemory(capacity_bytes, self._budget)

    def map_shared(self, descriptor: int) -> SharedMemory:
        """A whole memory file for reading. Raises OSError, OutOfMemory."""
        num_bytes = os.fstat(descriptor).st_size
        self._budget.reserve(num_bytes)
        try:
            memory = SharedMemory(descriptor, self._budget.give_back)
        except BaseException:
            self._budget.give_back(num_bytes)
            raise
        memory.touch()
        return memory

    def compile(self, program: Program, weights: WeightSource, limits: Limits) -> CpuExecutable:
        check_program(program, SUPPORT)
        check_limits(limits, SUPPORT)
        packed = PackedWeights(program, weights, self, self._library, limits.weight_format)
        try:
            return CpuExecutable(program, packed, limits, self, self._library)
        except BaseException:
            packed.free()
            raise


class CpuExecutable:
    """driver.Executable. The result of `run` lies in memory of ours that the next run writes to."""

    def __init__(
        self, program: Program, weights: PackedWeights, limits: Limits, backend: CpuBackend, library: Library
    ) -> None:
        self._library = library
        self._backend = backend
        self._weights = weights
        self._has_store = bool(program.kv)
        self._max_rows = limits.max_rows
        last = program.instructions[-1]
        self._state_width = program.weights[last.weight][-1] if isinstance(last, Logits) else 0
        self._adapters = {step.adapter for step in program.instructions if isinstance(step, Lora)}
        encoded = encode(
            program,
            weights.structs,
            kv_dtype=_KV_DTYPES[limits.kv_dtype],
            num_threads=backend.num_threads,
            max_rows=limits.max_rows,
            max_sequences=limits.max_sequences,
            max_context=limits.max_context,
        )
        self._plan = library.plan(encoded.program)
        self._scratch = backend.allocate(self._plan.scratch_bytes)
        num_results = min(limits.max_outputs or limits.max_sequences, limits.max_rows)
        self._result: HostMemory | None = None
        self._handle: ctypes.c_void_p | None = None
        try:
            self._result = backend.allocate(num_results * self._plan.result_stride * 4)
            self._handle = library.create(encoded.program, self._scratch.address, self._scratch.num_bytes)
        except BaseException:
            self._free_scratch()
            raise
        self._pool: HostMemory | None = None
        self._num_blocks = 0
        self._num_results = 0
        self._is_greedy = False
        self._message = native.Message()

    @property
    def block_bytes(self) -> int:
        return int(self._plan.block_bytes)

    @property
    def weight_bytes(self) -> int:
        return self._weights.num_bytes

    @property
    def shared_weight_bytes(self) -> int:
        """driver.HoldsShared."""
        return self._weights.shared_bytes

    @property
    def scratch_bytes(self) -> int:
        """Slots and workspaces, and the results of `Limits.max_outputs` rows; more once a step asked for more."""
        return self._scratch.num_bytes + (0 if self._result is None else self._result.num_bytes)

    def bind_pool(self, pool: Buffer, num_blocks: int) -> None:
        if not isinstance(pool, HostMemory):
            raise ValueError("the pool was not allocated by this backend")
        if not 0 <= num_blocks < 2**31:
            raise ValueError(f"a pool cannot have {num_blocks} blocks")
        self._library.bind_pool(self._living(), pool.address, pool.capacity_bytes, num_blocks)
        self._pool, self._num_blocks = pool, num_blocks

    def run(self, step: Step) -> NDArray[np.float32]:
        handle = self._living()
        self._check_pool()
        told, keep = self._encode(step)
        if len(step.outputs) > self._max_rows:
            raise ValueError(f"{len(step.outputs)} outputs; at most {self._max_rows}")
        self._num_results = 0
        self._is_greedy = bool(told.is_greedy)
        if self._is_greedy:
            self._library.step(handle, told, self._message)
            self._num_results = len(step.outputs)
            return np.empty((len(step.outputs), 0), np.float32)
        width = self._state_width if step.states else self._plan.result_width
        stride = -(-width // 16) * 16 if step.states else self._plan.result_stride
        memory = self._result_for(len(step.outputs) * stride)
        told.result = memory.address
        told.result_values = memory.num_bytes // 4
        self._library.step(handle, told, self._message)
        del keep  # until here the library read from them
        self._num_results = 0 if step.states else len(step.outputs)
        values = memory.data.view(np.float32)[: len(step.outputs) * stride]
        return values.reshape(len(step.outputs), stride)[:, :width]

    def draw(self, draws: Sequence[Draw]) -> list[Drawn]:
        """driver.SamplesNatively."""
        if len(draws) != self._num_results:
            raise ValueError(f"{len(draws)} draws from {self._num_results} rows of logits")
        return self.redraw(range(len(draws)), draws)

    def redraw(self, rows: Sequence[int], draws: Sequence[Draw]) -> list[Drawn]:
        """driver.SamplesNatively."""
        if len(rows) != len(draws):
            raise ValueError(f"{len(draws)} draws from {len(rows)} rows")
        if self._result is None or any(not 0 <= row < self._num_results for row in rows):
            raise ValueError(f"draws from the rows {list(rows)} of {self._num_results} rows of logits")
        result = None if self._is_greedy else self._result
        return draw_rows(self._library, self._living(), result, self._plan, rows, draws, num_rows=self._num_results)

    def copy_block(self, source: int, target: int) -> None:
        for block in (source, target):
            if not 0 <= block < 2**31:
                raise ValueError(f"block {block} is outside the pool")
        self._check_pool()
        self._library.copy_block(self._living(), source, target)

    def read_block(self, block: int, into: memoryview) -> None:
        """driver.MovesBlocks."""
        copy_bytes(self._bytes_of(block), into)

    def write_block(self, block: int, data: memoryview) -> None:
        """driver.MovesBlocks."""
        copy_bytes(data, self._bytes_of(block))

    def _bytes_of(self, block: int) -> memoryview:
        self._living()
        if self._pool is None or not 0 <= block < self._num_blocks:
            raise ValueError(f"block {block} is outside the pool")
        start = block * self.block_bytes
        if start + self.block_bytes > self._pool.num_bytes:
            raise ValueError(f"block {block} has no memory now")
        return self._pool.data[start : start + self.block_bytes].data

    def close(self) -> None:
        """Harmless when repeated."""
        if self._handle is not None:
            self._library.destroy(self._handle)
            self._handle = None
            self._pool = None
            self._free_scratch()
            self._weights.free()

    def _living(self) -> ctypes.c_void_p:
        if self._handle is None:
            raise ValueError("this executable was closed")
        return self._handle

    def _check_pool(self) -> None:
        if self._pool is None and self._has_store:
            raise ValueError("no pool is bound")
        if self._pool is not None:
            _ = self._pool.data  # raises if its owner freed it

    def _free_scratch(self) -> None:
        self._scratch.free()
        if self._result is not None:
            self._result.free()

    def _result_for(self, num_values: int) -> HostMemory:
        if self._result is None:
            raise InternalError("an executable without memory for results")
        needed = num_values * 4
        if needed > self._result.num_bytes:
            larger = self._backend.allocate(needed)
            self._result.free()
            self._result = larger
        return self._result

    def _encode(self, step: Step) -> tuple[native.Step, list[NDArray[np.int32]]]:
        """The step for the library, and the arrays it points into, to be kept until it has run."""
        rows = len(step.tokens)
        if step.block_tables.ndim != 2:
            raise ValueError(f"step.block_tables has {step.block_tables.ndim} dimensions, not 2")
        told = native.Step(
            num_rows=rows,
            num_sequences=len(step.block_tables),
            table_columns=step.block_tables.shape[1],
            num_outputs=len(step.outputs),
            gives_states=step.states,
            is_greedy=step.greedy and not step.states and self._state_width > 0,
        )
        keep = []
        for name, shape in (
            ("tokens", (rows,)),
            ("positions", (rows,)),
            ("sequences", (rows,)),
            ("block_tables", step.block_tables.shape),
            ("outputs", (len(step.outputs),)),
            ("adapters", (rows,)),
        ):
            array: NDArray[np.int32] | None = getattr(step, name)
            if array is None:
                continue
            if array.dtype != np.int32:
                raise ValueError(f"step.{name} is {array.dtype}, not int32")
            if array.shape != shape:
                raise ValueError(f"step.{name} has shape {array.shape}, not {shape}")
            keep.append(np.ascontiguousarray(array))
            setattr(told, name, keep[-1].ctypes.data)
        if step.adapters is not None:
            unknown = set(step.adapters.tolist()) - self._adapters - {-1}
            if unknown:
                raise ValueError(f"step.adapters names {min(unknown)}, which the program does not have")
        return told, keep
