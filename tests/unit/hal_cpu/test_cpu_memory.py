from __future__ import annotations

import mmap
from pathlib import Path

import pytest

from thaloom.base.errors import OutOfMemory
from thaloom.base.ids import DeviceId
from thaloom.base.units import MIB
from thaloom.hal.drivers.cpu import memory as cpu_memory
from thaloom.hal.drivers.cpu.memory import ALIGNMENT, ElasticHostMemory, HostMemory
from thaloom.hal.host import Budget
from thaloom.hal.types import Device


def ignore(num_bytes: int) -> None:
    pass


@pytest.mark.parametrize("num_bytes", [0, 1, 4096, ALIGNMENT, 3 * ALIGNMENT + 5])
def test_it_is_aligned_zeroed_and_of_the_size_asked_for(num_bytes: int) -> None:
    memory = HostMemory(num_bytes, ignore)
    assert memory.num_bytes == memory.data.size == num_bytes
    assert memory.address % ALIGNMENT == 0
    assert not memory.data.any()
    memory.data[:] = 7


def test_freeing_is_told_once() -> None:
    told: list[int] = []
    memory = HostMemory(100, told.append)
    memory.free()
    memory.free()
    assert told == [100]


def test_freed_memory_cannot_be_used() -> None:
    memory = HostMemory(100, ignore)
    view = memory.data
    memory.free()
    with pytest.raises(ValueError, match="freed"):
        _ = memory.data
    with pytest.raises(ValueError, match="freed"):
        _ = memory.address
    view[:] = 1  # an older view still has its pages


def test_too_much_is_refused() -> None:
    with pytest.raises(OutOfMemory):
        HostMemory(1 << 62, ignore)


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(ValueError, match="-1"):
        HostMemory(-1, ignore)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


def test_decommitted_pages_are_zeros_and_really_gone() -> None:
    memory = HostMemory(32 * ALIGNMENT, ignore)
    memory.data[:] = 7
    before = resident_bytes()
    assert memory.decommit(ALIGNMENT, 30 * ALIGNMENT) == 30 * ALIGNMENT
    assert before - resident_bytes() > 28 * ALIGNMENT
    assert not memory.data[ALIGNMENT : 31 * ALIGNMENT].any()
    assert memory.data[:ALIGNMENT].all()
    assert memory.data[31 * ALIGNMENT :].all()


def test_only_whole_pages_are_decommitted() -> None:
    memory = HostMemory(3 * ALIGNMENT, ignore)
    memory.data[:] = 7
    assert memory.decommit(1, 2 * ALIGNMENT) == ALIGNMENT
    assert memory.decommit(1, ALIGNMENT) == 0
    assert memory.data.sum() == 2 * 7 * ALIGNMENT


def test_committing_brings_pages_and_changes_nothing() -> None:
    memory = HostMemory(32 * ALIGNMENT, ignore)
    memory.data[5] = 9
    before = resident_bytes()
    memory.commit(3, 31 * ALIGNMENT)
    assert resident_bytes() - before > 28 * ALIGNMENT
    assert memory.data.sum() == 9


def test_an_older_kernel_commits_by_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_memory, "_MADV_POPULATE_WRITE", 9999)
    test_committing_brings_pages_and_changes_nothing()


def test_bytes_outside_are_neither_committed_nor_decommitted() -> None:
    memory = HostMemory(2 * ALIGNMENT, ignore)
    for offset, num_bytes in [(-1, 5), (0, 2 * ALIGNMENT + 1), (5, -1)]:
        with pytest.raises(ValueError, match="do not lie"):
            memory.decommit(offset, num_bytes)
        with pytest.raises(ValueError, match="do not lie"):
            memory.commit(offset, num_bytes)
    memory.free()
    with pytest.raises(ValueError, match="freed"):
        memory.decommit(0, 1)
    with pytest.raises(ValueError, match="freed"):
        memory.commit(0, 1)


def test_a_freed_buffer_is_really_gone() -> None:
    memory = HostMemory(32 * ALIGNMENT, ignore)
    memory.data[:] = 7
    before = resident_bytes()
    memory.free()
    assert before - resident_bytes() > 28 * ALIGNMENT


# -- memory that comes and goes ---------------------------------------------------------------------------------------


def budget(num_bytes: int) -> Budget:
    return Budget(
        Device(
            id=DeviceId("cpu"),
            driver="cpu",
            kind="cpu",
            name="a processor",
            vendor="somebody",
            memory_bytes=num_bytes,
            num_cores=1,
            dtypes=frozenset({"f32"}),
            isolation="none",
        )
    )


def test_addresses_alone_take_nothing_of_the_budget() -> None:
    shared = budget(8 * ALIGNMENT)
    memory = ElasticHostMemory(8 * ALIGNMENT, shared)
    assert (memory.num_bytes, memory.capacity_bytes, shared.used_bytes) == (0, 8 * ALIGNMENT, 0)


def test_it_is_resized_in_whole_pages_up_to_its_capacity() -> None:
    shared = budget(8 * ALIGNMENT)
    memory = ElasticHostMemory(2 * ALIGNMENT + 100, shared)
    memory.resize(1)
    assert (memory.num_bytes, shared.used_bytes) == (ALIGNMENT, ALIGNMENT)
    memory.resize(memory.capacity_bytes)
    assert (memory.num_bytes, shared.used_bytes) == (2 * ALIGNMENT + 100, 3 * ALIGNMENT)
    memory.resize(0)
    assert (memory.num_bytes, shared.used_bytes) == (0, 0)


def test_what_goes_back_is_the_systems_again_and_comes_back_as_zeros() -> None:
    memory = ElasticHostMemory(96 * MIB, budget(96 * MIB))
    memory.resize(96 * MIB)
    memory.data[:] = 7
    full = resident_bytes()
    memory.resize(32 * MIB)
    assert full - resident_bytes() > 60 * MIB
    memory.resize(96 * MIB)
    assert (memory.data[: 32 * MIB] == 7).all()
    assert not memory.data[32 * MIB :].any()


def test_more_than_the_budget_has_is_refused_and_changes_nothing() -> None:
    shared = budget(4 * ALIGNMENT)
    first, second = ElasticHostMemory(4 * ALIGNMENT, shared), ElasticHostMemory(4 * ALIGNMENT, shared)
    first.resize(3 * ALIGNMENT)
    second.resize(ALIGNMENT)
    with pytest.raises(OutOfMemory):
        second.resize(2 * ALIGNMENT)
    assert (second.num_bytes, shared.used_bytes) == (ALIGNMENT, 4 * ALIGNMENT)
    first.free()
    first.free()
    assert shared.used_bytes == ALIGNMENT
    with pytest.raises(ValueError, match="freed"):
        first.resize(0)


@pytest.mark.parametrize("num_bytes", [-1, ALIGNMENT + 1])
def test_a_size_beyond_its_addresses_is_refused(num_bytes: int) -> None:
    with pytest.raises(ValueError, match=str(num_bytes)):
        ElasticHostMemory(ALIGNMENT, budget(4 * ALIGNMENT)).resize(num_bytes)
