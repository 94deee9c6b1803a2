"""What an executable refuses, and how it lives and ends."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from thaloom.base.errors import MalformedFile, NotServable, OutOfMemory
from thaloom.hal.checks import MemoryWeights
from thaloom.hal.driver import Backend, Buffer, Executable, Limits
from thaloom.hal.drivers.cpu.driver import CpuDriver
from thaloom.hal.drivers.cpu.memory import HostMemory
from thaloom.hal.drivers.cpu.probe import DEVICE_ID
from thaloom.hal.ops import OPERATORS, Program, Step
from thaloom.hal.tensors import Tensor
from thaloom.hal.testing.programs import Case, make_weights, operator_cases, store, tiny_model

LIMITS = Limits(max_rows=8, max_sequences=2, max_context=40)
NUM_BLOCKS = 6


def opened(num_threads: int = 2) -> Backend:
    return CpuDriver().open(DEVICE_ID, num_threads=num_threads)


@contextmanager
def ready(case: Case, limits: Limits = LIMITS, *, num_threads: int = 2) -> Iterator[Executable]:
    backend = opened(num_threads)
    executable = backend.compile(case.program, MemoryWeights(case.weights), limits)
    pool = backend.allocate(NUM_BLOCKS * executable.block_bytes)
    executable.bind_pool(pool, NUM_BLOCKS)
    try:
        yield executable
    finally:
        executable.close()
        pool.free()


def i32(*values: int) -> np.typing.NDArray[np.int32]:
    return np.array(values, np.int32)


GOOD = Step(
    tokens=i32(1, 2, 3, 4),
    positions=i32(0, 1, 2, 17),
    sequences=i32(0, 0, 0, 1),
    block_tables=np.array([[3, -1], [0, 5]], np.int32),
    outputs=i32(2, 3),
)


def bent(**changes: object) -> Step:
    return dataclasses.replace(GOOD, **changes)  # type: ignore[arg-type]


BAD_STEPS = {
    "no rows": bent(tokens=i32(), positions=i32(), sequences=i32(), outputs=i32()),
    "more rows than the limit": bent(
        tokens=i32(*[1] * 9), positions=np.arange(9, dtype=np.int32), sequences=i32(*[0] * 9)
    ),
    "more sequences than the limit": bent(block_tables=np.zeros((3, 2), np.int32)),
    "no sequence": bent(block_tables=np.zeros((0, 2), np.int32)),
    "more table columns than the context": bent(block_tables=np.zeros((2, 4), np.int32)),
    "a negative token": bent(tokens=i32(1, 2, -3, 4)),
    "a token outside the vocabulary": bent(tokens=i32(1, 2, 61, 4)),
    "a negative position": bent(positions=i32(-1, 0, 1, 17)),
    "a position outside the context": bent(positions=i32(0, 1, 2, 40)),
    "positions that jump": bent(positions=i32(0, 1, 3, 17)),
    "a sequence that is not there": bent(sequences=i32(0, 0, 0, 2)),
    "a negative sequence": bent(sequences=i32(-1, 0, 0, 1)),
    "sequences out of order": bent(sequences=i32(0, 1, 1, 0)),
    "a block outside the pool": bent(block_tables=np.array([[6, -1], [0, 5]], np.int32)),
    "a block that is missing": bent(block_tables=np.array([[3, -1], [-1, 5]], np.int32)),
    "a table that is too short": bent(block_tables=np.array([[3], [0]], np.int32)),
    "two rows in one place": bent(positions=i32(0, 1, 2, 1), block_tables=np.array([[3, -1], [3, -1]], np.int32)),
    "an output that is not a row": bent(outputs=i32(4)),
    "a negative output": bent(outputs=i32(-1)),
    "more outputs than rows can be": bent(outputs=i32(*[0] * 9)),
    "tokens of another dtype": bent(tokens=np.array([1, 2, 3, 4], np.int64)),
    "tables of another dtype": bent(block_tables=np.array([[3, -1], [0, 5]], np.int64)),
    "fewer positions than tokens": bent(positions=i32(0, 1, 2)),
    "tables of one dimension": bent(block_tables=i32(3, 5)),
    "an adapter the program does not have": bent(adapters=i32(-1, -1, 7, -1)),
}


@pytest.mark.parametrize("name", BAD_STEPS)
def test_a_bad_step_is_refused_and_leaves_nothing(build: str, name: str) -> None:
    with ready(tiny_model(1)) as executable:
        before = np.array(executable.run(GOOD))
        with pytest.raises(ValueError, match=r"\w"):
            executable.run(BAD_STEPS[name])
        after = executable.run(GOOD)
        assert before.tobytes() == np.array(after).tobytes()


def test_a_table_that_is_not_contiguous_is_read_right(build: str) -> None:
    tables = np.full((2, 4), -1, np.int32)
    tables[:, ::2] = GOOD.block_tables
    with ready(tiny_model(1)) as executable:
        wanted = np.array(executable.run(GOOD))
        found = executable.run(bent(block_tables=tables[:, ::2]))
        assert np.array(found).tobytes() == wanted.tobytes()


def test_results_are_by_output_and_of_the_width_asked_for(build: str) -> None:
    with ready(tiny_model(1)) as executable:
        both = np.array(executable.run(GOOD))
        assert both.shape == (2, 61)
        assert both.dtype == np.float32
        swapped = np.array(executable.run(bent(outputs=i32(3, 2, 3))))
        assert swapped.tobytes() == both[[1, 0, 1]].tobytes()
        assert executable.run(bent(outputs=i32())).shape == (0, 61)


def test_more_outputs_than_sequences_are_counted(build: str) -> None:
    with ready(tiny_model(1), Limits(max_rows=8, max_sequences=2, max_context=40)) as executable:
        before = executable.scratch_bytes
        executable.run(bent(outputs=i32(0, 1, 2, 3, 3, 3)))
        assert executable.scratch_bytes >= before


def test_two_executables_do_not_meet(build: str) -> None:
    with ready(tiny_model(1)) as first, ready(tiny_model(2)) as second:
        alone = np.array(first.run(GOOD))
        other = np.array(second.run(GOOD))
        assert np.array(first.run(GOOD)).tobytes() == alone.tobytes()
        assert np.array(second.run(GOOD)).tobytes() == other.tobytes()


def test_two_executables_run_at_the_same_time(build: str) -> None:
    found: dict[int, list[bytes]] = {1: [], 2: []}

    def work(seed: int) -> None:
        with ready(tiny_model(seed)) as executable:
            for _ in range(20):
                found[seed].append(np.array(executable.run(GOOD)).tobytes())

    threads = [threading.Thread(target=work, args=(seed,)) for seed in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(results) for results in found.values()] == [20, 20]
    assert all(len(set(results)) == 1 for results in found.values())


def test_many_are_made_and_closed(build: str) -> None:
    driver = CpuDriver()
    backend = driver.open(DEVICE_ID, num_threads=3)
    for _ in range(20):
        case = tiny_model(1)
        executable = backend.compile(case.program, MemoryWeights(case.weights), LIMITS)
        executable.close()
        executable.close()
    assert driver.used_bytes == 0


def test_after_close_everything_is_refused(build: str) -> None:
    backend, case = opened(), tiny_model(1)
    executable = backend.compile(case.program, MemoryWeights(case.weights), LIMITS)
    pool = backend.allocate(NUM_BLOCKS * executable.block_bytes)
    executable.bind_pool(pool, NUM_BLOCKS)
    executable.close()
    for call in (
        lambda: executable.run(GOOD),
        lambda: executable.copy_block(0, 1),
    ):
        with pytest.raises(ValueError, match=r"closed|bound"):
            call()
    pool.free()


def test_without_a_pool_a_step_is_refused(build: str) -> None:
    backend, case = opened(), tiny_model(1)
    executable = backend.compile(case.program, MemoryWeights(case.weights), LIMITS)
    with pytest.raises(ValueError, match="pool"):
        executable.run(GOOD)
    executable.close()


def test_a_pool_that_was_freed_is_refused(build: str) -> None:
    backend, case = opened(), tiny_model(1)
    executable = backend.compile(case.program, MemoryWeights(case.weights), LIMITS)
    pool = backend.allocate(NUM_BLOCKS * executable.block_bytes)
    if isinstance(pool, HostMemory):
        executable.bind_pool(pool, NUM_BLOCKS)
        pool.free()
        with pytest.raises(ValueError, match="freed"):
            executable.run(GOOD)
    executable.close()


class Strange:
    """A buffer of somebody else."""

    num_bytes = 1 << 30

    def free(self) -> None:
        pass


def test_bad_pools_are_refused(build: str) -> None:
    backend, case = opened(), tiny_model(1)
    executable = backend.compile(case.program, MemoryWeights(case.weights), LIMITS)
    strange: Buffer = Strange()
    pool = backend.allocate(2 * executable.block_bytes)
    for buffer, num_blocks in ((strange, 1), (pool, 3), (pool, -1)):
        with pytest.raises(ValueError, match=r"\w"):
            executable.bind_pool(buffer, num_blocks)
    executable.close()
    pool.free()


def test_blocks_are_copied(build: str) -> None:
    moved = bent(block_tables=np.array([[4, -1], [0, 5]], np.int32), positions=i32(3, 4, 5, 18))
    stayed = bent(positions=i32(3, 4, 5, 18))
    with ready(tiny_model(1)) as executable:
        executable.run(GOOD)
        executable.copy_block(3, 4)
        wanted = np.array(executable.run(stayed))
        assert np.array(executable.run(moved)).tobytes() == wanted.tobytes()
        executable.copy_block(2, 2)
        for source, target in ((0, NUM_BLOCKS), (NUM_BLOCKS, 0), (-1, 0), (0, -1), (0, 1 << 40)):
            with pytest.raises(ValueError, match="block"):
                executable.copy_block(source, target)


def compile_(program: Program, weights: dict[str, Tensor], limits: Limits = LIMITS) -> None:
    opened().compile(program, MemoryWeights(weights), limits).close()


def test_an_operator_that_is_not_supported_is_named(build: str) -> None:
    case = tiny_model(1)
    sample = OPERATORS["sample"](out=case.program.instructions[-1].out, x=0)  # type: ignore[call-arg]
    program = dataclasses.replace(case.program, instructions=(*case.program.instructions[:-1], sample))
    with pytest.raises(NotServable, match="sample"):
        compile_(program, case.weights)


def test_a_weight_of_an_unknown_dtype_is_named(build: str) -> None:
    case = tiny_model(1)
    name = next(iter(case.weights))
    bytes_ = Tensor("i8", np.zeros(case.weights[name].shape, np.int8))
    with pytest.raises(NotServable, match="i8"):
        compile_(case.program, case.weights | {name: bytes_})


def test_a_weight_of_the_wrong_shape_is_named(build: str) -> None:
    case = tiny_model(1)
    with pytest.raises(MalformedFile, match="norm"):
        compile_(case.program, case.weights | {"norm": store(np.ones(3, np.float32), "f32")})


def test_a_missing_weight_is_named(build: str) -> None:
    case = tiny_model(1)
    with pytest.raises(MalformedFile, match="norm"):
        compile_(case.program, {name: weight for name, weight in case.weights.items() if name != "norm"})


def test_a_compile_that_fails_gives_everything_back(build: str) -> None:
    case, driver = tiny_model(1), CpuDriver()
    backend = driver.open(DEVICE_ID, num_threads=1)
    weights = {name: weight for name, weight in case.weights.items() if name != "norm"}
    with pytest.raises(MalformedFile):
        backend.compile(case.program, MemoryWeights(weights), LIMITS)
    assert driver.used_bytes == 0


def test_more_than_the_device_has_is_refused(build: str) -> None:
    backend = opened()
    with pytest.raises(OutOfMemory):
        backend.allocate(backend.device.memory_bytes + 1)


def test_backends_share_the_device(build: str) -> None:
    driver = CpuDriver()
    first, second = (driver.open(DEVICE_ID, num_threads=1) for _ in range(2))
    most = first.device.memory_bytes
    buffer = first.allocate(1 << 20)
    with pytest.raises(OutOfMemory):
        second.allocate(most)
    buffer.free()
    assert driver.used_bytes == 0


def test_a_mixture_with_broken_numbers_stays_in_bounds(build: str) -> None:
    """NaN in the router: nonsense out, no crash."""
    for case in operator_cases("moe"):
        weights = make_weights(case.program, 0)
        shape = weights["moe.router"].shape
        weights["moe.router"] = store(np.full(shape, np.nan, np.float32), "f32")
        backend = opened()
        executable = backend.compile(case.program, MemoryWeights(weights), LIMITS)
        pool = backend.allocate(64)
        executable.bind_pool(pool, 1)
        executable.run(GOOD)
        executable.close()
        pool.free()
