"""Keys and values that leave the pool for a store: who has them back, and when they are computed again instead."""

from __future__ import annotations

import pytest

from tests.unit.runtime.doubles import Bench, ColdStore, HistoryExecutable, ask, greedy, line, make_bench
from thaloom.hal.ops import Step
from thaloom.kernel.sched.chunks import StepTargets
from thaloom.work.runtime.core.roster import RESTORE_WAIT_S
from thaloom.work.runtime.core.sequence import Ticket

LONG = [7] * 8 * 16
"""Eight blocks and what follows them."""


def bench(store: ColdStore | None, *, num_blocks: int = 12, move_s: float = 0.0, **others: object) -> Bench:
    return make_bench(
        HistoryExecutable(num_blocks), num_blocks=num_blocks, chunk_tokens=64, store=store, move_s=move_s, **others
    )


def answer(made: Bench, prompt: list[int], count: int = 3) -> int:
    """What of the prompt was there already; the answer is right."""
    ticket = made.submit(ask(prompt, count))
    made.run()
    assert made.tokens(ticket) == greedy(prompt, count)
    return made.finished(ticket).cached_tokens


def moved(made: Bench) -> tuple[int, int]:
    tiers = made.engine.tiers
    assert tiers is not None
    return tiers.saved_blocks, tiers.restored_blocks


def test_a_prompt_comes_back_after_its_blocks_were_given_away() -> None:
    made = bench(ColdStore(100))
    assert answer(made, [*LONG, 1]) == 0
    assert answer(made, [9] * 150) == 0
    assert answer(made, [*LONG, 2]) == 128
    saved, restored = moved(made)
    assert saved >= restored > 0
    assert made.engine.counters.cached_tokens == 128


def test_without_a_store_it_does_not() -> None:
    made = bench(None)
    answer(made, [*LONG, 1])
    answer(made, [9] * 150)
    assert answer(made, [*LONG, 2]) < 128


def test_who_does_not_share_prefixes_keeps_nothing() -> None:
    store = ColdStore(100)
    made = bench(store, prefix_reuse=False)
    for prompt in ([*LONG, 1], [9] * 150, [*LONG, 2]):
        assert answer(made, prompt) == 0
    assert moved(made) == (0, 0)
    assert not store.kept["host"]


def test_of_a_prompt_in_three_places_all_is_found() -> None:
    """Its beginning in the pool, its middle in the store, its end in the pool again."""
    store = ColdStore(100)
    made = bench(store, num_blocks=30)
    answer(made, [*LONG, 1])
    pool = made.engine._roster._pool
    keys = list(pool._by_key)
    middle = [pool._by_key[key] for key in keys[3:5]]
    for key, block in zip(keys[3:5], middle, strict=True):
        made.engine.tiers.leave(block, key, None)  # type: ignore[union-attr]
        pool._cached.use(block, key)
        pool._key_of[block] = None
        del pool._by_key[key]
        pool._references[block] = 1
    pool.release(middle)
    assert answer(made, [*LONG, 2]) == 128
    assert moved(made) == (2, 2)


def test_a_preempted_request_has_its_keys_and_values_back() -> None:
    prompts = [[number] * 60 for number in range(3)]
    for store in (None, ColdStore(100)):
        made = bench(store, num_blocks=13, max_sequences=3, cost=line(0.0, 1e-3), targets=StepTargets(least_rows=1))
        tickets = [made.submit(ask(prompt, 40)) for prompt in prompts]
        made.run()
        assert [made.tokens(ticket) for ticket in tickets] == [greedy(prompt, 40) for prompt in prompts]
        assert made.engine.counters.preemptions > 0
        rows = sum(step.num_rows for step in executed(made))
        if store is None:
            computed_again = rows
    assert moved(made)[1] > 0
    assert rows < computed_again


def executed(made: Bench) -> list[Step]:
    return made.engine._executable._inner.steps  # type: ignore[attr-defined,no-any-return]


def test_what_takes_longer_to_move_is_computed_again() -> None:
    made = bench(ColdStore(100), move_s=1.0, cost=line(1e-4, 1e-3))
    for _ in range(4):
        for first in (7, 8, 9):
            answer(made, [first] * 150)
    saved, restored = moved(made)
    assert saved <= 10, "a few were tried"
    assert restored <= 10


def test_a_full_store_loses_what_it_is_not_given() -> None:
    store = ColdStore(100)
    store.full = True
    made = bench(store)
    answer(made, [*LONG, 1])
    answer(made, [9] * 150)
    assert answer(made, [*LONG, 2]) < 128
    assert moved(made) == (0, 0)


@pytest.mark.parametrize("is_damaged", [False, True])
def test_the_plan_reckons_with_what_will_come(is_damaged: bool) -> None:
    store = ColdStore(100)
    made = bench(store)
    answer(made, [*LONG, 1])
    answer(made, [9] * 180)
    waiting = made.submit(ask([*LONG, 2], 3))
    if is_damaged:
        store.damaged |= set(store.kept["host"])
    (arrival,) = made.engine._roster._arrivals()
    assert arrival.reused_tokens == 128
    assert arrival.new_blocks == 9
    made.run()
    assert made.tokens(waiting) == greedy([*LONG, 2], 3)
    assert made.finished(waiting).cached_tokens == (0 if is_damaged else 128)


def test_a_damaged_block_is_computed_again_with_all_that_follow() -> None:
    store = ColdStore(100)
    made = bench(store)
    answer(made, [*LONG, 1])
    answer(made, [9] * 180)
    keys = list(store.kept["host"])
    assert len(keys) == 8, "all of it has left"
    store.damaged.add(sorted(keys, key=lambda key: store.kept["host"][key])[0])
    before = moved(made)[1]
    assert answer(made, [*LONG, 2]) < 128
    assert moved(made)[1] - before < 8


def test_who_waits_has_what_it_will_ask_for_brought_nearer_once() -> None:
    store = ColdStore(2, 100)
    made = bench(store, max_sequences=1)
    answer(made, [*LONG, 1])
    answer(made, [9] * 180)
    made.submit(ask([5] * 20, 20))
    made.step()
    store.asked.clear()
    waiting = made.submit(ask([*LONG, 2], 3))
    made.step(5)
    assert [len(keys) for keys in store.asked] == [8]
    made.run()
    assert made.finished(waiting).cached_tokens == 128


def beside_another(store: ColdStore, **others: object) -> tuple[Bench, Ticket, Ticket]:
    """Of two requests the first runs, and the blocks of the second have left the pool."""
    made = bench(store, num_blocks=14, **others)
    answer(made, [*LONG, 1])
    answer(made, [9] * 200)
    running = made.submit(ask([5] * 20, 40))
    made.step()
    return made, running, made.submit(ask([*LONG, 2], 3))


def test_who_runs_does_not_wait_for_a_whole_prompt_to_come_back() -> None:
    made, running, waiting = beside_another(ColdStore(100), move_s=0.02, targets=StepTargets(token_s=0.05))
    before, brought = moved(made)[1], []
    while made.engine.load().waiting:
        rows = len(made.tokens(running))
        made.step()
        assert len(made.tokens(running)) > rows, "he goes on in every step"
        brought.append(moved(made)[1] - before)
        before += brought[-1]
    assert len(brought) > 1
    assert max(brought) <= 3
    made.run()
    assert made.tokens(waiting) == greedy([*LONG, 2], 3)
    assert made.finished(waiting).cached_tokens == 128


def test_a_disk_is_not_waited_for_while_others_run() -> None:
    store = ColdStore(2, 100)
    store.hangs = True
    made, running, waiting = beside_another(store)
    made.step(5)
    assert made.engine.load().waiting == 1
    assert len(made.tokens(running)) >= 5
    store.hangs = False
    while made.engine.load().waiting:
        made.step()
    assert made.engine.load().running == 2
    made.run()
    assert made.tokens(waiting) == greedy([*LONG, 2], 3)
    assert made.finished(waiting).cached_tokens == 128


def test_what_does_not_come_from_the_disk_is_computed() -> None:
    store = ColdStore(2, 100)
    store.hangs = True
    made, _, waiting = beside_another(store)
    made.step()
    made.clock._now += RESTORE_WAIT_S
    made.step(2)
    assert made.engine.load().waiting == 0
    made.run()
    assert made.tokens(waiting) == greedy([*LONG, 2], 3)
    assert made.finished(waiting).cached_tokens < 128
