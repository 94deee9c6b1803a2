"""Buffers, budget and pool of a backend in host memory: the reference's, and that of composed operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from thaloom.base.errors import NotServable, OutOfMemory
from thaloom.base.ids import DeviceId
from thaloom.hal import host
from thaloom.hal.blocks import BlockStore
from thaloom.hal.checks import MemoryWeights
from thaloom.hal.driver import Limits
from thaloom.hal.host import Budget
from thaloom.hal.lower import LoweredBackend
from thaloom.hal.numpy_ops import NumpyOps
from thaloom.hal.reference import ReferenceBackend, ReferencePool
from thaloom.hal.testing.bench import NUM_BLOCKS, sequences_for
from thaloom.hal.testing.programs import tiny_model
from thaloom.hal.testing.schedules import make_step, together
from thaloom.hal.types import Device

MEMORY_BYTES = 1 << 20
DEVICE = Device(
    id=DeviceId("host"),
    driver="test",
    kind="cpu",
    name="host",
    vendor="thaloom",
    memory_bytes=MEMORY_BYTES,
    num_cores=1,
    dtypes=frozenset({"f32"}),
    isolation="process",
)
LIMITS = Limits(max_rows=96, max_sequences=8, max_context=64)
Make = Callable[[Budget], Any]
BACKENDS: list[Make] = [
    lambda budget: ReferenceBackend(DEVICE, budget=budget),
    lambda budget: LoweredBackend(NumpyOps(), DEVICE, budget=budget),
]


@pytest.fixture
def budget() -> Budget:
    return Budget(DEVICE)


@pytest.fixture(params=BACKENDS, ids=["reference", "lowered"])
def backend(request: pytest.FixtureRequest, budget: Budget) -> Any:
    return request.param(budget)


def compiled(backend: Any, seed: int = 1) -> Any:
    case = tiny_model(seed)
    return backend.compile(case.program, MemoryWeights(case.weights), LIMITS)


def test_memory_is_a_budget(backend: Any, budget: Budget) -> None:
    first = backend.allocate(MEMORY_BYTES - 10)
    with pytest.raises(OutOfMemory) as refusal:
        backend.allocate(11)
    assert refusal.value.details == {"needed_bytes": 11, "free_bytes": 10}
    first.free()
    first.free()
    assert budget.used_bytes == 0
    assert backend.allocate(MEMORY_BYTES).num_bytes == MEMORY_BYTES


def test_negative_sizes_are_refused(backend: Any) -> None:
    with pytest.raises(ValueError, match="-1"):
        backend.allocate(-1)


def test_weights_count_until_closed(backend: Any, budget: Budget) -> None:
    executable = compiled(backend)
    assert budget.used_bytes == executable.weight_bytes > 0
    executable.close()
    executable.close()
    assert budget.used_bytes == 0


def test_weights_that_do_not_fit_are_refused(backend: Any) -> None:
    backend.allocate(MEMORY_BYTES - 100)
    with pytest.raises(OutOfMemory):
        compiled(backend)


def test_backends_of_one_device_share_its_memory(backend: Any, budget: Budget) -> None:
    ReferenceBackend(DEVICE, budget=budget).allocate(MEMORY_BYTES - 10)
    with pytest.raises(OutOfMemory):
        backend.allocate(11)


def test_host_that_refuses_memory_is_typed(monkeypatch: pytest.MonkeyPatch, budget: Budget) -> None:
    def refuse(*arguments: object) -> None:
        raise MemoryError

    backend = ReferenceBackend(DEVICE, budget=budget)
    monkeypatch.setattr(host.np, "zeros", refuse)
    with pytest.raises(OutOfMemory, match="refused 512 bytes"):
        backend.allocate(512)
    assert budget.used_bytes == 0


def test_store_in_an_unknown_dtype_is_refused(backend: Any) -> None:
    case = tiny_model(1)
    limits = Limits(max_rows=8, max_sequences=2, max_context=32, kv_dtype="i32")
    with pytest.raises(NotServable, match="i32"):
        backend.compile(case.program, MemoryWeights(case.weights), limits)
    with pytest.raises(ValueError, match="i32"):
        BlockStore(case.program, "i32", np.zeros(0, np.uint8))


def test_pool_must_be_large_enough_and_of_this_backend(backend: Any) -> None:
    executable = compiled(backend)
    pool = backend.allocate(2 * executable.block_bytes)
    with pytest.raises(ValueError, match="3 blocks need"):
        executable.bind_pool(pool, 3)
    with pytest.raises(ValueError, match="blocks need"):
        executable.bind_pool(pool, -1)
    with pytest.raises(ValueError, match="not allocated by this backend"):
        executable.bind_pool(object(), 1)


def test_what_is_closed_freed_or_unbound_does_not_run(backend: Any) -> None:
    case = tiny_model(1)
    sequences = sequences_for(case, lengths=(3,))
    step = make_step(sequences, together(sequences)[0])
    executable = compiled(backend)
    with pytest.raises(ValueError):
        executable.run(step)
    with pytest.raises(ValueError, match="pool"):
        executable.copy_block(0, 0)
    executable.close()
    with pytest.raises(ValueError, match="closed"):
        executable.run(step)


def test_freed_buffer_cannot_be_bound() -> None:
    backend = ReferenceBackend(DEVICE)
    executable = compiled(backend)
    pool = backend.allocate(executable.block_bytes)
    pool.free()
    with pytest.raises(ValueError, match="freed"):
        executable.bind_pool(pool, 1)


def test_freed_pool_of_arrays_cannot_be_used() -> None:
    backend = LoweredBackend(NumpyOps(), DEVICE)
    executable = compiled(backend)
    pool = backend.allocate(NUM_BLOCKS * executable.block_bytes)
    executable.bind_pool(pool, NUM_BLOCKS)
    pool.free()
    with pytest.raises(ValueError, match="no pool"):
        executable.copy_block(0, 1)


def test_copying_outside_the_pool_is_refused(backend: Any) -> None:
    executable = compiled(backend)
    pool = backend.allocate(2 * executable.block_bytes)
    executable.bind_pool(pool, 2)
    executable.copy_block(0, 1)
    for pair in ((2, 0), (0, 2), (-1, 0), (0, -1)):
        with pytest.raises(ValueError, match="outside the pool"):
            executable.copy_block(*pair)


def test_blocks_lie_where_the_contract_says() -> None:
    """Block i is bytes [i * block_bytes, (i + 1) * block_bytes): what another program's blocks hold is not touched."""
    case = tiny_model(1)
    backend = ReferenceBackend(DEVICE)
    executable = backend.compile(case.program, MemoryWeights(case.weights), LIMITS)
    pool = backend.allocate(4 * executable.block_bytes + 5)
    executable.bind_pool(pool, 4)
    sequences = sequences_for(case, lengths=(3,))
    sequences[0].table[:] = 2
    executable.run(make_step(sequences, together(sequences)[0]))
    size = executable.block_bytes
    blocks = [pool.data[index * size : (index + 1) * size].any() for index in range(4)]
    assert blocks == [False, False, True, False]
    assert not pool.data[4 * size :].any()


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_store_gives_back_what_it_was_given(dtype: Any) -> None:
    case = tiny_model(1)
    pool = ReferencePool(case.program, NUM_BLOCKS, dtype)
    sequences = sequences_for(case, lengths=(18, 5))
    step = make_step(sequences, together(sequences)[0])
    spec = case.program.kv[0]
    k = np.arange(23 * spec.num_kv_heads * spec.head_size, dtype=np.float32).reshape(23, -1) % 64
    v = k[:, : spec.num_kv_heads * spec.value_size] + 1
    pool.write(0, step, k, v)
    keys, values = pool.read(0, sequences[0].table, 18)
    assert np.array_equal(keys.reshape(18, -1), k[:18])
    assert np.array_equal(values.reshape(18, -1), v[:18])
    keys, _ = pool.read(0, sequences[1].table, 5)
    assert np.array_equal(keys.reshape(5, -1), k[18:])
