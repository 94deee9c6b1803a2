from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thaloom.base.errors import OutOfMemory
from thaloom.hal.arena import Arena, GrowingArena
from thaloom.hal.driver import ALIGNMENT
from thaloom.hal.host import HostBuffer

SIZES = st.lists(st.integers(1, 5000), max_size=30)


class Memory:
    """A device that knows what it has given out."""

    def __init__(self, room: int = 1 << 30) -> None:
        self.room = room
        self.held_bytes = 0

    def allocate(self, num_bytes: int) -> HostBuffer:
        if self.held_bytes + num_bytes > self.room:
            raise OutOfMemory("none left", needed_bytes=num_bytes, free_bytes=self.room - self.held_bytes)
        self.held_bytes += num_bytes
        return HostBuffer(num_bytes, self._give_back)

    def _give_back(self, num_bytes: int) -> None:
        self.held_bytes -= num_bytes


@given(sizes=SIZES, begin=st.integers(0, 9), room=st.integers(0, 40_000))
def test_pieces_lie_within_and_apart_and_aligned(sizes: list[int], begin: int, room: int) -> None:
    arena = Arena(room, offset=begin * ALIGNMENT)
    end = begin * ALIGNMENT
    for size in sizes:
        free = arena.free_bytes
        if size > free:
            with pytest.raises(OutOfMemory) as refused:
                arena.take(size)
            assert refused.value.details == {"needed_bytes": size, "free_bytes": free}
            assert arena.free_bytes == free
            continue
        at = arena.take(size)
        assert at % ALIGNMENT == 0
        assert end <= at <= at + size <= begin * ALIGNMENT + room
        end = at + size
    arena.reset()
    assert arena.free_bytes == room
    if room:
        assert arena.take(1) == begin * ALIGNMENT


@given(sizes=SIZES)
def test_a_growing_one_gives_zeros_of_its_own_and_frees_all_of_them(sizes: list[int]) -> None:
    memory = Memory()
    arena = GrowingArena(memory.allocate, chunk_bytes=4096)
    for number, size in enumerate(sizes):
        piece = arena.take(size)
        data = piece.buffer.data[piece.offset : piece.offset + size]
        assert len(data) == size
        assert data.ctypes.data % ALIGNMENT == 0 or size == 0
        assert not data.any()
        data[:] = number + 1
    assert arena.num_bytes == memory.held_bytes
    assert memory.held_bytes <= 2 * sum(sizes) + 4096 * (1 + len(sizes) * ALIGNMENT // 4096)
    arena.free()
    arena.free()
    assert memory.held_bytes == arena.num_bytes == 0


def test_a_growing_one_that_is_refused_has_taken_nothing() -> None:
    memory = Memory(room=5000)
    arena = GrowingArena(memory.allocate, chunk_bytes=4096)
    arena.take(100)
    with pytest.raises(OutOfMemory):
        arena.take(4096)
    assert arena.num_bytes == 4096
    arena.take(100)
    arena.free()
    assert memory.held_bytes == 0


def test_what_is_adopted_is_freed_with_it() -> None:
    memory = Memory()
    arena = GrowingArena(memory.allocate, chunk_bytes=4096)
    arena.adopt(memory.allocate(17))
    assert arena.num_bytes == 17
    arena.free()
    assert memory.held_bytes == 0


@pytest.mark.parametrize(("num_bytes", "offset"), [(-1, 0), (1, 1), (1, ALIGNMENT - 1)])
def test_impossible_arenas_are_refused(num_bytes: int, offset: int) -> None:
    with pytest.raises(ValueError, match="no arena"):
        Arena(num_bytes, offset=offset)
    with pytest.raises(ValueError, match="-1"):
        Arena(10).take(-1)


@pytest.mark.parametrize("num_bytes", [1, 255, 4096, 1 << 20])
def test_memory_of_a_host_backend_begins_aligned(num_bytes: int) -> None:
    assert HostBuffer(num_bytes, lambda _: None).data.ctypes.data % ALIGNMENT == 0
