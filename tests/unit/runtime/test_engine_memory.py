"""Memory behind the blocks: it comes with the need, goes when nothing is kept in it, and nobody's answer tells."""

from __future__ import annotations

import time

import pytest

from tests.unit.runtime.doubles import Bench, HistoryExecutable, PagedBuffer, ask, greedy, make_bench
from thaloom.base.errors import OutOfMemory
from thaloom.hal.ops import BLOCK_TOKENS
from thaloom.work.runtime.kv.memory import ElasticKv
from thaloom.work.runtime.worker import runner
from thaloom.work.runtime.worker.runner import EngineRunner

NUM_BLOCKS = 40
FLOOR = 4
CONTEXT = FLOOR * BLOCK_TOKENS


def elastic(*, limit: int | None = None) -> tuple[Bench, PagedBuffer]:
    executable = HistoryExecutable(NUM_BLOCKS)
    buffer = PagedBuffer(executable)
    if limit is not None:
        buffer.limit = limit
    memory = ElasticKv(buffer, executable, floor=FLOOR)
    return make_bench(executable, num_blocks=NUM_BLOCKS, context_length=CONTEXT, memory=memory), buffer


def room(bench: Bench) -> int:
    return bench.engine.load().room


def test_there_is_memory_for_one_context_before_anybody_asks() -> None:
    bench, buffer = elastic()
    assert FLOOR <= room(bench) <= FLOOR + 2
    assert buffer.num_bytes < buffer.capacity_bytes


def test_it_grows_with_those_who_come_and_a_pause_gives_back_what_keeps_nothing() -> None:
    bench, _ = elastic()
    prompts = [[number] * 40 for number in range(8)]
    asked = [bench.submit(ask(prompt, 8)) for prompt in prompts]
    bench.step(12)
    assert room(bench) > FLOOR + 4
    bench.run()
    grown = room(bench)
    bench.engine.rest()
    bench.engine.check()
    load = bench.engine.load()
    assert load.cached_blocks <= load.room < grown
    assert [bench.tokens(ticket) for ticket in asked] == [greedy(prompt, 8) for prompt in prompts]


def test_a_prefix_is_found_where_it_moved_to() -> None:
    bench, _ = elastic()
    early, late = [7] * 40, [9] * 40
    bench.submit(ask(early, 4))
    bench.run()
    asked = bench.submit(ask(late, 4))
    bench.run()
    bench.engine.cancel(bench.submit(ask([1] * 40, 4)))
    bench.engine.rest()
    again = [bench.submit(ask(prompt, 6)) for prompt in (late, early)]
    bench.run()
    assert [bench.tokens(ticket) for ticket in again] == [greedy(late, 6), greedy(early, 6)]
    assert all(bench.finished(ticket).cached_tokens == 32 for ticket in again)
    assert bench.tokens(asked) == greedy(late, 4)


def test_who_finds_no_memory_waits_for_those_who_have_it() -> None:
    bench, buffer = elastic(limit=(FLOOR + 3) * BLOCK_TOKENS)
    prompts = [[number] * 30 for number in range(6)]
    asked = [bench.submit(ask(prompt, 20)) for prompt in prompts]
    bench.run()
    assert [bench.tokens(ticket) for ticket in asked] == [greedy(prompt, 20) for prompt in prompts]
    assert buffer.num_bytes <= buffer.limit


def test_what_others_are_to_have_back_is_given_up_by_who_came_last(monkeypatch: pytest.MonkeyPatch) -> None:
    bench, buffer = elastic()
    prompts = [[number] * 40 for number in range(4)]
    asked = [bench.submit(ask(prompt, 20)) for prompt in prompts]
    bench.step(14)
    assert bench.engine.load().running == len(prompts)
    monkeypatch.setattr(ElasticKv, "limit", FLOOR + 2)
    buffer.limit = buffer.page_bytes * -(-(FLOOR + 2) * BLOCK_TOKENS // buffer.page_bytes)
    bench.step()
    assert room(bench) <= FLOOR + 3
    assert 1 <= bench.engine.load().running < len(prompts)
    assert bench.engine.counters.preemptions
    bench.run()
    assert [bench.tokens(ticket) for ticket in asked] == [greedy(prompt, 20) for prompt in prompts]


def test_a_cache_that_others_want_is_given_up_without_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    bench, _ = elastic()
    for number in range(6):
        bench.submit(ask([number] * 40, 8))
    bench.run()
    assert bench.engine.load().cached_blocks > FLOOR + 2
    monkeypatch.setattr(ElasticKv, "limit", FLOOR)
    bench.step()
    load = bench.engine.load()
    assert load.cached_blocks <= load.room <= FLOOR + 2


def test_what_cannot_even_have_its_floor_is_refused() -> None:
    with pytest.raises(OutOfMemory):
        elastic(limit=BLOCK_TOKENS)


def test_the_thread_gives_back_after_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "REST_S", 0.05)
    bench, _ = elastic()
    grown: list[int] = []
    thread = EngineRunner(
        bench.engine, deliver=lambda news: grown.append(room(bench)), broken=lambda error: pytest.fail(str(error))
    )
    for number in range(8):
        bench.submit(ask([number] * 40, 8))
    thread.start()
    until = time.monotonic() + 20
    while (bench.engine.busy or room(bench) >= max(grown)) and time.monotonic() < until:
        time.sleep(0.01)
    assert thread.stop(20)
    load = bench.engine.load()
    assert load.cached_blocks <= load.room < max(grown)
