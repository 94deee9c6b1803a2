"""Readers who stand at the same place look together, and none of them misses what was told meanwhile."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, cast

import pytest

from thaloom.base.clock import SystemClock
from thaloom.base.errors import NotKept
from thaloom.edge.api.openai.kept.keeping import ResponseStore
from thaloom.edge.api.openai.kept.responses.following import Bells, Following
from thaloom.kernel.state.types import ToldEvents


class Store:
    """Has `num` events; every look sees how many there were when it began, and waits for `gate`."""

    def __init__(self) -> None:
        self.num = 1
        self.num_looks = 0
        self.gate = threading.Event()
        self.looks = threading.Semaphore(0)

    def told(self, response_id: str, *, after: int, holder: str | None) -> ToldEvents:
        if response_id == "gone":
            raise NotKept("gone")
        self.num_looks += 1
        events: tuple[dict[str, Any], ...] = tuple({"type": "t"} for _ in range(after + 1, self.num))
        self.looks.release()
        self.gate.wait(10)
        return ToldEvents(first=after + 1, events=events, is_all=False)


class Readers:
    def __init__(self) -> None:
        self.store = Store()
        self.bells = Bells()
        self.following = Following(cast("ResponseStore", self.store), self.bells, SystemClock())

    def look(self, after: int = -1, holder: str | None = None, response_id: str = "r") -> asyncio.Task[Any]:
        coming = self.bells.coming(response_id)
        return asyncio.create_task(self.following._look(response_id, after, holder, coming))


def test_those_at_one_place_look_once() -> None:
    async def run() -> None:
        readers = Readers()
        some = [readers.look() for _ in range(20)]
        other = [readers.look(after=0), readers.look(holder="mine")]
        await asyncio.to_thread(readers.store.looks.acquire)
        some[0].cancel()
        await asyncio.gather(some[0], return_exceptions=True)
        readers.store.gate.set()
        pages = await asyncio.gather(*some[1:])
        await asyncio.gather(*other)
        assert readers.store.num_looks == 3
        assert {id(page) for page in pages} == {id(pages[0])}
        assert (pages[0].next, pages[0].body.count(b"event: t")) == (1, 1)

    asyncio.run(run())


def test_a_look_that_began_before_something_was_told_is_not_shared_by_who_comes_after() -> None:
    async def run() -> None:
        readers = Readers()
        early = readers.look(after=0)
        coming = readers.bells.coming("r")
        await asyncio.to_thread(readers.store.looks.acquire)
        readers.store.num = 2
        readers.bells.ring("r")
        assert coming.is_set(), "who shared it looks again at once"
        late = readers.look(after=0)
        await asyncio.to_thread(readers.store.looks.acquire)
        readers.store.gate.set()
        assert ((await early).body, (await late).next) == (b"", 2)

    asyncio.run(run())


def test_a_look_that_nobody_waits_for_any_more_ends_by_itself() -> None:
    async def run() -> None:
        readers = Readers()
        look = readers.look(response_id="gone")
        await asyncio.sleep(0)
        look.cancel()
        with pytest.raises(asyncio.CancelledError):
            await look
        async with asyncio.timeout(10):
            while readers.following._looking:
                await asyncio.sleep(0)
        with pytest.raises(NotKept):
            await readers.look(response_id="gone")

    asyncio.run(run())
