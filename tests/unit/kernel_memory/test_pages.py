from __future__ import annotations

import pytest

from thaloom.hal.ops import BLOCK_TOKENS
from thaloom.kernel.memory.eviction import LeastRecentlyUsed
from thaloom.kernel.memory.pages import BlockPool, block_keys, blocks_for, root_key

ROOT = root_key(b"model")


def keys(*blocks: int) -> list[bytes]:
    """Keys of blocks filled with one number each."""
    return list(block_keys(ROOT, [number for number in blocks for _ in range(BLOCK_TOKENS)]))


def test_keys_name_a_block_and_all_before_it() -> None:
    assert keys(1, 2) == keys(1, 2, 3)[:2]
    assert keys(1, 2)[1] != keys(3, 2)[1]
    assert block_keys(ROOT, [1] * 16) != block_keys(root_key(b"other"), [1] * 16)
    assert block_keys(ROOT, [1] * 31) == keys(1), "a block that is not full has no key"
    assert block_keys(keys(1)[0], [2] * 16) == keys(1, 2)[1:]


@pytest.mark.parametrize(("tokens", "blocks"), [(0, 0), (1, 1), (16, 1), (17, 2)])
def test_blocks_for(tokens: int, blocks: int) -> None:
    assert blocks_for(tokens) == blocks


def test_a_pool_needs_a_block() -> None:
    with pytest.raises(ValueError):
        BlockPool(0)


def test_allocate_gives_all_or_nothing() -> None:
    pool = BlockPool(3)
    assert pool.allocate(4) is None
    assert pool.free_blocks == 3
    held = pool.allocate(3)
    assert held is not None
    assert sorted(held) == [0, 1, 2]
    assert pool.allocate(1) is None
    assert pool.allocate(0) == []
    pool.check([held])


def test_a_published_prefix_is_found_until_its_blocks_are_needed() -> None:
    pool = BlockPool(4)
    held = pool.allocate(3) or []
    for block, key in zip(held, keys(1, 2), strict=False):
        assert pool.publish(block, key)
    pool.release(held)
    assert (pool.free_blocks, pool.cached_blocks) == (4, 2)
    assert pool.lookup(keys(1, 2, 3)) == held[:2]
    assert pool.lookup(keys(2)) == []
    pool.share(held[:2])
    assert pool.free_blocks == 2
    pool.release(held[:2])
    taken = pool.allocate(3) or []
    assert held[1] in taken, "the end of the prefix goes before its beginning"
    assert pool.lookup(keys(1, 2)) == held[:1]
    pool.check([taken])


def test_a_shared_block_is_free_when_the_last_lets_go() -> None:
    pool = BlockPool(2)
    held = pool.allocate(1) or []
    pool.publish(held[0], keys(1)[0])
    pool.share(held)
    pool.release(held)
    assert pool.free_blocks == 1
    assert not pool.is_free(held[0])
    pool.release(held)
    assert pool.is_free(held[0])
    pool.check([])


def test_what_goes_first_is_the_policys_to_say() -> None:
    pool = BlockPool(2, eviction=LeastRecentlyUsed())
    first, second = pool.allocate(2) or []
    pool.publish(first, keys(1)[0])
    pool.publish(second, keys(2)[0])
    pool.release([first])
    pool.release([second])
    pool.share([first])
    pool.release([first])
    assert pool.allocate(1) == [second]


def test_the_second_to_compute_the_same_is_not_published() -> None:
    pool = BlockPool(2)
    first, second = pool.allocate(2) or []
    assert pool.publish(first, keys(1)[0])
    assert not pool.publish(second, keys(1)[0])
    assert not pool.publish(first, keys(2)[0]), "a block has one key"
    pool.release([second])
    assert pool.cached_blocks == 0
    pool.check([[first]])


def test_without_reuse_nothing_is_published() -> None:
    pool = BlockPool(1, prefix_reuse=False)
    (block,) = pool.allocate(1) or []
    assert not pool.publish(block, keys(1)[0])
    assert pool.lookup(keys(1)) == []


class TestMisuse:
    def test_release_more_than_held(self) -> None:
        pool = BlockPool(2)
        held = pool.allocate(1) or []
        with pytest.raises(ValueError):
            pool.release(held + held)
        pool.check([held])

    def test_share_a_blank_block(self) -> None:
        pool = BlockPool(2)
        held = pool.allocate(1) or []
        with pytest.raises(ValueError):
            pool.share([held[0], 1 - held[0]])
        pool.check([held])

    def test_publish_a_free_block(self) -> None:
        with pytest.raises(ValueError):
            BlockPool(1).publish(0, keys(1)[0])

    def test_check_sees_a_holder_nobody_counted(self) -> None:
        pool = BlockPool(2)
        with pytest.raises(AssertionError):
            pool.check([[0]])
