from __future__ import annotations

import pytest

from tests.unit.kernel_memory.test_pages import keys
from thaloom.kernel.memory.eviction import LearnedReuse, LeastRecentlyUsed
from thaloom.kernel.memory.pages import BlockPool
from thaloom.kernel.memory.pins import PassingOver, Pins


@pytest.fixture(params=[LeastRecentlyUsed, LearnedReuse])
def pool(request: pytest.FixtureRequest) -> BlockPool:
    """Of six blocks, of which four may be pinned; it is 0 o'clock."""
    made = BlockPool(6, eviction=request.param(), most_pinned=4)
    made.pass_to(0.0)
    return made


def leave(pool: BlockPool, *numbers: int) -> None:
    """A prompt of blocks filled with these numbers comes and goes."""
    held = pool.allocate(len(numbers)) or []
    for block, key in zip(held, keys(*numbers), strict=True):
        pool.publish(block, key)
    pool.release(held)


def pin(pool: BlockPool, *numbers: int, owner: str = "me", seconds: float = 10.0) -> list[bool]:
    return [pool.pin(key, owner, seconds) for key in keys(*numbers)]


def take(pool: BlockPool, count: int) -> None:
    """A prompt that leaves nothing."""
    pool.release(pool.allocate(count) or [])


def test_what_is_pinned_stays_while_there_is_anything_else(pool: BlockPool) -> None:
    leave(pool, 1, 2)
    assert pin(pool, 1, 2) == [True, True]
    leave(pool, 3, 4)
    take(pool, 4)
    assert len(pool.lookup(keys(1, 2))) == 2
    assert pool.lookup(keys(3)) == []
    assert (pool.pinned_blocks, pool.num_broken_pins, pool.free_blocks) == (2, 0, 6)
    pool.check([])


def test_a_pin_keeps_no_request_out_and_what_would_end_first_goes_first(pool: BlockPool) -> None:
    leave(pool, 1, 2)
    leave(pool, 3, 4)
    pin(pool, 1, 2, owner="me", seconds=5.0)
    pin(pool, 3, 4, owner="you", seconds=50.0)
    held = pool.allocate(3)
    assert held is not None
    assert len(pool.lookup(keys(1, 2))) == 1, "the end of the prefix goes before its beginning"
    assert len(pool.lookup(keys(3, 4))) == 2
    assert (pool.pinned_blocks, pool.num_broken_pins) == (3, 1), "what is still there is still pinned"
    pool.release(held)
    assert len(pool.allocate(6) or []) == 6
    assert (pool.pinned_blocks, pool.num_broken_pins) == (0, 4)
    pool.check()


def test_one_block_that_is_needed_breaks_one_pin(pool: BlockPool) -> None:
    leave(pool, 1, 2)
    leave(pool, 3, 4)
    pin(pool, 1, 2)
    pin(pool, 3, 4, owner="you")
    take(pool, 2)
    pool.pass_to(1.0)
    pool.share(pool.lookup(keys(1, 2)))  # its time begins anew
    held = pool.allocate(3)
    assert held is not None
    assert len(pool.lookup(keys(3, 4))) == 1
    assert (pool.pinned_blocks, pool.num_broken_pins, pool.unpinned_blocks) == (3, 1, 0)
    pool.check()


class Counted:
    """A key that counts how often one is looked for."""

    num_looks = 0

    def __hash__(self) -> int:
        Counted.num_looks += 1
        return id(self)


def test_what_ends_first_is_found_without_looking_at_all_pins() -> None:
    num, num_broken = 4000, 100
    pins = Pins(2 * num)
    cached = PassingOver(LeastRecentlyUsed(), pins)
    for block in range(num):
        key = Counted()
        cached.pass_to(float(block))
        assert cached.pin(block, key, "me", 1e6)
        cached.keep([block], [key])
    Counted.num_looks = 0
    assert [cached.evict() for _ in range(num_broken)] == list(range(num_broken))
    assert Counted.num_looks < num_broken * 20
    Counted.num_looks = 0
    cached.pass_to(1e6 + 2 * num_broken - 0.5)
    assert len(pins) == num - 2 * num_broken
    assert Counted.num_looks < num_broken * 40
    cached.check()


def test_uses_leave_little_to_whoever_looks_next() -> None:
    num = 2000
    pins = Pins(2 * num)
    cached = PassingOver(LeastRecentlyUsed(), pins)
    keys = [Counted() for _ in range(num)]
    most = 0
    for number in range(3 * num):
        block, key = number % num, keys[number % num]
        Counted.num_looks = 0
        cached.pass_to(float(number))
        if number < num:
            cached.pin(block, key, "me", 1e6)
        else:
            cached.use(block, key)
        cached.keep([block], [key])
        most = max(most, Counted.num_looks)
    Counted.num_looks = 0
    assert cached.evict() == 0
    assert max(most, Counted.num_looks) < 50
    cached.check()


def test_who_is_pinned_again_for_less_ends_sooner() -> None:
    cached = PassingOver(LeastRecentlyUsed(), Pins(4))
    cached.pass_to(0.0)
    cached.pin(0, "key", "me", 100.0)
    cached.keep([0], ["key"])
    assert cached.evict() == 0
    cached.pin(0, "key", "me", 2.0)
    cached.keep([0], ["key"])
    cached.check()
    cached.pass_to(2.0)
    assert cached.num_pinned == 0


def test_a_block_that_comes_and_goes_leaves_nothing_behind() -> None:
    pins = Pins(4)
    cached = PassingOver(LeastRecentlyUsed(), pins)
    cached.pass_to(0.0)
    cached.pin(0, "key", "me", 1e6)
    for number in range(1000):
        cached.keep([0], ["key"])
        cached.pass_to(float(number))
        if number % 2:
            cached.use(0, "key")
        else:
            assert cached.evict() == 0
            cached.pin(0, "key", "me", 1e6)
    cached.check()


def test_a_pin_ends_after_its_time_and_each_use_begins_it_anew(pool: BlockPool) -> None:
    leave(pool, 1, 2)
    pin(pool, 1, 2)
    pool.pass_to(9.0)
    found = pool.lookup(keys(1))
    pool.share(found)
    pool.release(found)
    pool.pass_to(10.0)
    assert pool.pinned_blocks == 1
    take(pool, 5)
    assert len(pool.lookup(keys(1, 2))) == 1
    pool.pass_to(19.0)
    assert (pool.pinned_blocks, pool.num_broken_pins) == (0, 0)
    take(pool, 6)
    assert pool.lookup(keys(1)) == []
    pool.check([])


def test_of_two_pins_of_one_key_the_longer_counts(pool: BlockPool) -> None:
    leave(pool, 1)
    pin(pool, 1, seconds=100.0)
    pin(pool, 1, seconds=1.0)
    pool.pass_to(99.0)
    assert pool.pinned_blocks == 1


def test_one_owner_has_at_most_half_of_what_may_be_pinned(pool: BlockPool) -> None:
    leave(pool, 1, 2, 3)
    assert pin(pool, 1, 2, 3) == [True, True, False]
    leave(pool, 4, 5, 6)
    assert pin(pool, 4, 5, 6, owner="you") == [True, True, False]
    assert pool.pinned_blocks == 4
    pool.pass_to(10.0)
    leave(pool, 7)
    assert pin(pool, 7) == [True], "what has ended makes room"
    pool.check([])


def test_what_is_not_there_cannot_be_pinned(pool: BlockPool) -> None:
    assert pin(pool, 1) == [False]
    assert BlockPool(1).pinned_blocks == 0


def test_where_nothing_may_be_pinned_nothing_is() -> None:
    pool = BlockPool(2)
    pool.pass_to(0.0)
    leave(pool, 1)
    assert pin(pool, 1) == [False]
    assert not Pins(0).pin("key", "me", 1.0)


def test_what_another_computed_too_is_pinned_where_it_lies(pool: BlockPool) -> None:
    leave(pool, 1)
    held = pool.allocate(1) or []
    assert not pool.publish(held[0], keys(1)[0])
    assert pin(pool, 1) == [True]
    pool.check([held])
    pool.release(held)
    take(pool, 5)
    assert len(pool.lookup(keys(1))) == 1


def test_what_is_pinned_moves_with_the_others(pool: BlockPool) -> None:
    held = pool.allocate(4) or []
    leave(pool, 1, 2)
    pin(pool, 1, 2)
    pool.release(held)
    pool.shrink(2)
    assert sorted(pool.lookup(keys(1, 2))) == [0, 1]
    pool.check([])
    pool.shrink(1)
    assert pool.num_broken_pins == 1, "whoever takes the memory away is stronger than a pin"
    assert len(pool.lookup(keys(1, 2))) == 1
    pool.check([])
