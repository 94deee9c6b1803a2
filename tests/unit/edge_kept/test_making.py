"""What is told of a response on its way to the disk: what grew meanwhile is one event, and what failed is not lost."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any, cast

import pytest

from tests.unit.edge_kept.test_responses_writing import call, done, form, text, thought
from thaloom.base.clock import SystemClock
from thaloom.base.errors import DiskFull, NotKept
from thaloom.edge.api.openai.kept.keeping import ResponseStore
from thaloom.edge.api.openai.kept.responses import making
from thaloom.edge.api.openai.kept.responses.following import Bells
from thaloom.edge.api.openai.kept.responses.making import Telling
from thaloom.kernel.state.types import ResponseJob, ToldEvents

JOB = ResponseJob(id="resp_1", previous=None, created_at=0.0, request={})
Event = dict[str, Any]


class Store:
    """Remembers what it was told; each write waits for `gate`."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.writes: list[list[Event]] = []
        self.gate = threading.Event()
        self.fails: Exception | None = None
        self.is_gone = False

    def told(self, response_id: str, *, after: int, holder: str | None) -> ToldEvents:
        if self.is_gone:
            raise NotKept("gone")
        return ToldEvents(first=after + 1, events=tuple(self.events[after + 1 :]), is_all=False)

    def tell(self, response_id: str, events: Sequence[Event], *, after: int, body: Any = None) -> bool:
        self.gate.wait(10)
        if self.fails is not None:
            raise self.fails
        return self._append(events, after)

    def finish(self, response_id: str, body: Event, *, events: Sequence[Event], after: int) -> bool:
        return self._append(events, after)

    def _append(self, events: Sequence[Event], after: int) -> bool:
        if self.is_gone:
            return False
        assert after == len(self.events)
        self.events += events
        self.writes.append(list(events))
        return True


def telling(store: Store) -> Telling:
    return Telling(JOB, form(), store=cast("ResponseStore", store), bells=Bells(), clock=SystemClock())


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(making, "TELL_S", 0.0)


async def begun(store: Store) -> Telling:
    store.gate.set()
    made = telling(store)
    await made.begin()
    made.again()
    store.gate.clear()
    return made


def test_what_comes_during_a_write_is_told_together_and_each_item_for_itself() -> None:
    store = Store()

    async def run() -> None:
        made = await begun(store)
        made.take(thought("a"))
        await asyncio.sleep(0)  # that one is on its way
        for delta in (thought("b"), thought("c"), text("d"), text("e"), call(0, "{", id="c", name="f"), call(0, "}")):
            made.take(delta)
        store.gate.set()
        made.take(done())
        made.end()
        await made.finish()

    asyncio.run(run())
    closed = ["content_part.done", "output_item.done"]
    opened = ["output_item.added", "content_part.added"]
    assert [[event["type"].removeprefix("response.") for event in events] for events in store.writes] == [
        ["in_progress"],
        [*opened, "reasoning_text.delta"],
        [
            *("reasoning_text.delta", "reasoning_text.done", *closed),
            *(*opened, "output_text.delta", "output_text.done", *closed),
            *("output_item.added", "function_call_arguments.delta"),
        ],
        ["function_call_arguments.done", "output_item.done", "completed"],
    ]
    deltas = [event["delta"] for event in store.events if event["type"].endswith(".delta")]
    assert deltas == ["a", "bc", "de", "{}"]


def test_what_could_not_be_written_is_told_with_the_end() -> None:
    store = Store()

    async def run() -> None:
        made = await begun(store)
        store.fails = DiskFull("full")
        store.gate.set()
        made.take(text("a"))
        await made.close()
        with pytest.raises(DiskFull) as refused:
            made.take(text("b"))
        made.fail(refused.value)
        await made.finish()

    asyncio.run(run())
    assert [event["delta"] for event in store.events if event["type"].endswith(".delta")] == ["a"]
    assert store.events[-1]["response"]["error"]["type"] == "disk_full"
    assert store.events[-1]["response"]["output"][0]["content"][0]["text"] == "a"


def test_one_that_was_deleted_before_it_was_begun_is_made_for_nobody_and_troubles_nobody() -> None:
    store = Store()
    store.is_gone = True

    async def run() -> None:
        made = await begun(store)
        made.take(text("a"))
        store.gate.set()
        made.take(done())
        made.end()
        await made.finish()

    asyncio.run(run())
    assert store.events == []
