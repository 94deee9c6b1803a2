"""The memory that bodies may take: all together, one alone, and when it is given back."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
import weakref

import pytest
from pydantic_core import from_json

from thaloom.base.clock import ManualClock
from thaloom.base.errors import QueueFull, TooLarge
from thaloom.base.units import MIB
from thaloom.edge.api.entrance.room import CALM_S, OWN_BYTES, WORTH_BYTES, Room
from thaloom.edge.api.entrance.visits import Tab
from thaloom.edge.api.routes.body import parsed_bytes


def test_all_requests_together_hold_no_more_than_there_is() -> None:
    room = Room(max_bytes=10 * MIB)
    first, second = room.holding(), room.holding()
    first.hold(6 * MIB)
    with pytest.raises(QueueFull) as refused:
        second.hold(5 * MIB)
    assert refused.value.retry_after_s
    second.hold(4 * MIB)
    room.check()
    first.release()
    second.hold(5 * MIB)
    second.release()
    second.release()
    assert room.held_bytes == 0
    room.check()


def test_small_requests_are_never_refused_for_others_sake() -> None:
    room = Room(max_bytes=MIB)
    room.holding().hold(MIB + OWN_BYTES)
    for _ in range(1000):
        room.holding().hold(OWN_BYTES)
    with pytest.raises(QueueFull):
        room.holding().hold(OWN_BYTES + 1)


def test_what_is_refused_holds_what_it_held_before() -> None:
    room = Room(max_bytes=10 * MIB, max_of_one=8 * MIB)
    holding = room.holding()
    holding.hold(MIB)
    with pytest.raises(TooLarge, match=r"one may take 8\.0 MiB"):
        holding.hold(8 * MIB)
    assert room.held_bytes == MIB - OWN_BYTES
    holding.hold(7 * MIB)
    holding.release()
    assert room.held_bytes == 0


def test_memory_is_given_back_after_large_requests_and_not_all_the_time() -> None:
    async def test() -> None:
        room, clock = Room(), ManualClock()
        given: list[float] = []
        tidying = asyncio.create_task(room.tidy(clock, lambda: given.append(clock.monotonic())))

        async def serve(num_bytes: int) -> None:
            holding = room.holding()
            holding.hold(num_bytes)
            holding.release()
            for _ in range(3):  # a thread's answer comes when it comes
                await asyncio.sleep(0)
                await asyncio.to_thread(lambda: None)

        await serve(WORTH_BYTES // 2)
        assert given == []
        await serve(WORTH_BYTES)
        await _until(lambda: given == [0.0])
        await serve(10 * WORTH_BYTES)
        await serve(10 * WORTH_BYTES)
        assert given == [0.0], "once in a while is enough"
        await clock.advance(CALM_S)
        await _until(lambda: given == [0.0, CALM_S])
        await clock.advance(10 * CALM_S)
        assert len(given) == 2, "nothing new, nothing to give back"
        tidying.cancel()

    asyncio.run(test())


async def _until(holds: object) -> None:
    assert callable(holds)
    while not holds():  # what hangs, the test's own time limit ends
        await asyncio.sleep(0)


_MANY = 20_000


@pytest.mark.parametrize(
    "text",
    [
        "[" + "[]," * _MANY + "0]",
        "[" + "{}," * _MANY + "0]",
        "[" + '{"a":1},' * _MANY + "0]",
        "[" + '{"a":{"b":[1]}},' * _MANY + "0]",
        "[" * 190 + "0" + "]" * 190,
        json.dumps(["x"] * _MANY),
        json.dumps([1000 + i for i in range(_MANY)]),
        json.dumps([i / 7 for i in range(_MANY)]),
        json.dumps([f"word {i}" for i in range(_MANY)]),
        json.dumps({f"k{i}": i for i in range(_MANY)}),
        json.dumps([{f"name {i}": f"value {i}"} for i in range(_MANY)]),
        json.dumps({"a": "x" * 1_000_000}),
        json.dumps({"a": "x" * 1_000_000 + "😀"}),
        json.dumps({"a": "x" * 1_000_000 + "😀"}, ensure_ascii=False),
        json.dumps({"a": "汉" * 300_000}, ensure_ascii=False),
    ],
    ids=lambda text: text[:12],
)
def test_no_less_is_held_than_a_body_takes_when_it_is_read(text: str) -> None:
    body = text.encode()
    tracemalloc.start()
    try:
        data = from_json(body, allow_inf_nan=False, cache_strings="keys")
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert data
    assert taken <= parsed_bytes(body) + 4096


def test_a_conversation_is_small_and_a_long_prompt_is_let_in() -> None:
    talk = {"messages": [{"role": "user", "content": "some twenty words of a question " * 4}] * 30}
    assert parsed_bytes(json.dumps(talk).encode()) < OWN_BYTES
    million = json.dumps({"prompt": [15_000] * 1_000_000}).encode()
    Room().holding().hold(len(million) + parsed_bytes(million))


def test_a_request_that_is_over_keeps_no_prompt() -> None:
    """Its tab outlives it wherever a context does: in asyncio's timers that were cancelled, for minutes."""

    class Prompt:
        pass

    tab, prompt = Tab(), Prompt()
    kept = weakref.ref(prompt)
    assert tab.is_new(prompt)
    assert not tab.is_new(prompt)
    tab.end()
    del prompt
    assert kept() is None


def test_a_request_that_is_over_holds_no_room() -> None:
    room = Room()
    tab = Tab(holding=room.holding())
    assert tab.holding is not None
    tab.holding.hold(MIB)
    tab.end()
    assert room.held_bytes == 0
