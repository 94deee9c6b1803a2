"""Which cached block is given away, and that it is learned from what comes back."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.shared_data import shared_data
from thaloom.kernel.memory.eviction import Eviction, LearnedReuse, LeastRecentlyUsed
from thaloom.kernel.memory.pages import BlockKey, BlockPool

ROOM = 400


def replay(requests: Iterable[Sequence[int]], pool: BlockPool) -> float:
    """The share of all blocks that were found. Each request names its blocks, and ends before the next one comes."""
    num_found = num_blocks = 0
    for request in requests:
        keys = [BlockKey(number.to_bytes(8)) for number in request]
        found = pool.lookup(keys)
        pool.share(found)
        fresh = pool.allocate(len(keys) - len(found))
        assert fresh is not None
        for block, key in zip(fresh, keys[len(found) :], strict=True):
            pool.publish(block, key)
        pool.release(found + fresh)
        num_found += len(found)
        num_blocks += len(keys)
    return num_found / num_blocks


def conversations(num_requests: int, *, seed: int, pause: int) -> list[list[int]]:
    """Prompts of ten blocks of which most never come back; one in five does, longer by two, some `pause` prompts on."""
    draw = random.Random(seed)
    names = iter(range(10_000_000))
    due: dict[int, list[int]] = {}
    requests = []
    for number in range(num_requests):
        request = due.pop(number, None) or [next(names) for _ in range(10)]
        requests.append(request)
        if draw.random() < (0.8 if len(request) > 10 else 0.2):
            due[number + pause + draw.randrange(20)] = request + [next(names) for _ in range(2)]
    return requests


@pytest.mark.parametrize("make", [LeastRecentlyUsed, LearnedReuse])
def test_before_anything_is_known_the_oldest_goes_first_and_the_end_before_the_beginning(
    make: Callable[[], Eviction],
) -> None:
    eviction = make()
    eviction.keep([1, 2], ["a", "b"])
    for key in "xyz":
        eviction.compute(key)
    eviction.keep([3], ["c"])
    assert (len(eviction), set(eviction), 3 in eviction, 4 in eviction) == (3, {1, 2, 3}, True, False)
    assert [eviction.evict() for _ in range(3)] == [2, 1, 3]
    assert len(eviction) == 0


def test_it_holds_what_comes_back_where_the_oldest_would_go_first() -> None:
    """What returns does so after some 60 prompts, 600 blocks; there is room for 400."""
    requests = conversations(4000, seed=1, pause=50)
    plain = replay(requests, BlockPool(ROOM, eviction=LeastRecentlyUsed()))
    learned = replay(requests, BlockPool(ROOM))
    assert plain < 0.02
    assert learned > 0.15


def test_it_learns_anew_when_times_change() -> None:
    late, soon = conversations(3000, seed=2, pause=50), conversations(3000, seed=3, pause=5)
    pool = BlockPool(ROOM)
    replay(late, pool)
    shifted = [[number + 20_000_000 for number in request] for request in soon]
    plain = replay(shifted, BlockPool(ROOM, eviction=LeastRecentlyUsed()))
    assert replay(shifted, pool) > 0.9 * plain


def test_what_it_remembers_is_bounded() -> None:
    eviction = LearnedReuse()
    for number in range(40_000):
        eviction.compute(number)
        eviction.keep([0], [number])
        assert eviction.evict() == 0
    assert len(eviction._ghosts) <= 16_384
    assert (len(eviction._present), len(eviction._key_of), len(eviction._runs)) == (0, 0, 0)
    for _ in range(100):  # a conversation that is never evicted leaves nothing behind either
        eviction.keep([0, 1], ["a", "b"])
        eviction.use(0, "a")
        eviction.use(1, "b")
    assert len(eviction._runs) == 0


def test_before_anything_is_known_the_oldest_goes_first_whatever_the_room() -> None:
    eviction = LearnedReuse()
    for number in range(180):
        eviction.compute(number)
        eviction.keep([number], [number])
    assert [eviction.evict() for _ in range(180)] == list(range(180))


def test_what_many_begin_with_does_not_pile_up() -> None:
    """Each prompt leaves a run behind of which only the end is its own."""
    eviction = LearnedReuse()
    common = list(range(500))
    for block in common:
        eviction.compute(block)
    for number in range(500, 900):
        eviction.compute(number)
        eviction.keep([*common, number], [*common, number])
        for block in common:
            eviction.use(block, block)
    assert sum(len(run.blocks) for run in eviction._runs.values()) < 10_000


def test_what_is_held_or_cached_is_not_forgotten_for_what_is_gone() -> None:
    eviction = LearnedReuse()
    for _ in range(3):
        eviction.compute("held")
    eviction.compute("cached")
    eviction.keep([1], ["cached"])
    for number in range(20_000):
        eviction.compute(number)
        eviction._ghosts[number] = eviction._present.pop(number)
        if len(eviction._ghosts) > 16_384:
            eviction._ghosts.popitem(last=False)
    assert eviction._present["held"].uses == 3
    eviction.use(1, "cached")
    assert eviction._returns.sum() == 1


def test_the_same_requests_are_answered_the_same() -> None:
    requests = conversations(500, seed=4, pause=30)
    assert len({replay(requests, BlockPool(ROOM)) for _ in range(2)}) == 1


@given(st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=6), max_size=60), st.booleans())
def test_a_pool_keeps_its_books_whatever_the_policy(requests: list[list[int]], is_learned: bool) -> None:
    pool = BlockPool(8, eviction=LearnedReuse() if is_learned else LeastRecentlyUsed())
    for request in requests:
        prefix = [sum(31**i * number for i, number in enumerate(request[:end])) for end in range(1, len(request) + 1)]
        replay([prefix], pool)
        pool.check([])


@pytest.mark.data
@pytest.mark.parametrize(("room", "gain"), [(2_000, 1.6), (5_000, 1.3), (10_000, 1.0), (20_000, 1.0)])
def test_on_real_conversations_it_finds_no_less_than_the_oldest_first(room: int, gain: float) -> None:
    path = shared_data("sched/mooncake/conversation_trace.0-40min.jsonl.gz")
    with gzip.open(path) as lines:
        requests = [json.loads(line)["hash_ids"] for line in lines]
    plain = replay(requests, BlockPool(room, eviction=LeastRecentlyUsed()))
    assert replay(requests, BlockPool(room)) >= gain * plain
