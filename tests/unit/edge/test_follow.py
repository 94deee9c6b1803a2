"""Several answers followed at once: nothing lost, nothing left open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from thaloom.base.errors import InternalError, QueueFull, WorkerLost
from thaloom.base.ids import RequestId
from thaloom.edge.api.routes.follow import Item, follow, start_all
from thaloom.work.runtime.types import Delta, Done, GenerateRequest

DONE = Done(reason="stop", prompt_tokens=1, completion_tokens=1, cached_tokens=0, queue_s=0, prefill_s=0, decode_s=0)


class Script(AsyncIterator[Item]):
    """Plays items; an exception among them is raised; `...` waits for ever."""

    def __init__(self, *items: object) -> None:
        self._items = iter(items)
        self.closed = False

    async def __anext__(self) -> Item:
        item = next(self._items, None)
        if item is None:
            raise StopAsyncIteration
        if item is ...:
            await asyncio.Event().wait()
        if isinstance(item, Exception):
            raise item
        assert isinstance(item, Delta | Done)
        return item

    async def aclose(self) -> None:
        self.closed = True


def text(words: str) -> Delta:
    return Delta(text=words, num_tokens=1)


def play(*scripts: Script) -> list[tuple[int, Item]]:
    told: list[tuple[int, Item]] = []

    async def take(batch: list[tuple[int, Item]]) -> None:
        told.extend(batch)

    try:
        asyncio.run(follow(scripts, take))
    finally:
        assert all(script.closed for script in scripts)
    return told


def test_items_keep_their_order_within_an_answer() -> None:
    told = play(Script(text("a"), text("b"), DONE), Script(text("c"), DONE))
    assert [item for index, item in told if index == 0] == [text("a"), text("b"), DONE]
    assert [item for index, item in told if index == 1] == [text("c"), DONE]


def test_what_came_before_an_error_is_told_first() -> None:
    script = Script(text("a"), WorkerLost("gone"))
    told: list[Item] = []

    async def take(batch: list[tuple[int, Item]]) -> None:
        told.extend(item for _, item in batch)

    with pytest.raises(WorkerLost):
        asyncio.run(follow([script, Script(...)], take))
    assert told == [text("a")]
    assert script.closed


def test_an_answer_without_last_word_is_a_defect_and_not_an_end() -> None:
    with pytest.raises(InternalError):
        play(Script(text("a")))


def test_a_defect_in_an_answer_is_raised_and_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        play(Script(ZeroDivisionError()), Script(...))


def test_an_error_while_telling_closes_everything() -> None:
    scripts = [Script(text("a"), ...), Script(...)]

    async def take(batch: list[tuple[int, Item]]) -> None:
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        asyncio.run(follow(scripts, take))
    assert all(script.closed for script in scripts)


def test_all_answers_start_or_none_stays_open() -> None:
    begun: list[Script] = []

    class Full:
        async def start(self, request: GenerateRequest) -> AsyncIterator[Item]:
            if len(begun) == 2:
                raise QueueFull("full")
            begun.append(Script(...))
            return begun[-1]

    requests = [GenerateRequest(id=RequestId(str(index)), model="m") for index in range(3)]
    with pytest.raises(QueueFull):
        asyncio.run(start_all(Full(), requests))  # type: ignore[arg-type]  # all that start_all needs of it
    assert [script.closed for script in begun] == [True, True]
