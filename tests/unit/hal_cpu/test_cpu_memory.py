from __future__ import annotations

import pytest

from thaloom.base.errors import OutOfMemory
from thaloom.hal.drivers.cpu.memory import ALIGNMENT, HostMemory


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
