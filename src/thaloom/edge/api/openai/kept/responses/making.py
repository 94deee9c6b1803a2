"""What becomes of a response while it is made in the background: collected, or told in events as it grows."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

from thaloom.base.clock import Clock
from thaloom.base.errors import NotKept, ThaloomError
from thaloom.edge.api.openai.kept.keeping import ResponseStore
from thaloom.edge.api.openai.kept.responses.again import Again
from thaloom.edge.api.openai.kept.responses.following import Bells
from thaloom.edge.api.openai.kept.responses.writing import Event, ResponseForm, last_event
from thaloom.edge.api.routes.follow import Item
from thaloom.edge.api.routes.generation import Choice
from thaloom.kernel.state.types import ResponseJob
from thaloom.work.runtime.types import Done

TELL_S = 0.1
"""Between two writes to the disk of what a model says: what it says meanwhile is one event. A reader that sees text ten
times a second sees it flow."""


class Making(Protocol):
    """`begin`; then `again`, `take` of every item and `end` for each try, or `fail` instead; then `finish`. In any case
    `close`. What waits for a disk raises what the store raises."""

    async def begin(self) -> None: ...

    def again(self) -> None:
        """A try begins, from the first word of the answer."""
        ...

    def take(self, item: Item) -> None: ...
    def end(self) -> None: ...
    def fail(self, error: ThaloomError) -> None: ...
    async def finish(self) -> None: ...
    async def close(self) -> None: ...


class Collecting:
    """A Making that nobody listens to: all of it appears at the end."""

    def __init__(self, job: ResponseJob, form: ResponseForm, *, store: ResponseStore) -> None:
        self._id = job.id
        self._form = form
        self._store = store
        self._choice = Choice(index=0)

    async def begin(self) -> None:
        await asyncio.to_thread(self._store.progress, self._id, self._form.body)

    def again(self) -> None:
        self._choice = Choice(index=0)

    def take(self, item: Item) -> None:
        if isinstance(item, Done):
            self._choice.done = item
        else:
            self._choice.add(item)

    def end(self) -> None:
        self._form.whole([self._choice])

    def fail(self, error: ThaloomError) -> None:
        self._form.fail(error)

    async def finish(self) -> None:
        await asyncio.to_thread(self._store.finish, self._id, self._form.body)

    async def close(self) -> None:
        pass


class Telling:
    """A Making whose events are kept as they come, for whoever follows them now or later.

    Nobody hears of an event before it is on the disk: none is told twice or in two ways, whatever dies. The next try,
    here or in another process, goes on behind what was told, for its answer is the same.
    """

    def __init__(
        self, job: ResponseJob, form: ResponseForm, *, store: ResponseStore, bells: Bells, clock: Clock
    ) -> None:
        self._id = job.id
        self._holder = job.key
        self._form = form
        self._store = store
        self._bells = bells
        self._clock = clock
        self._num_told = 0
        self._pending: list[Event] = []
        self._last: list[Event] = []
        """Told together with the response as it is in the end."""
        self._writing: asyncio.Task[None] | None = None
        self._choice = Choice(index=0)
        self._before = Again(())

    async def begin(self) -> None:
        """Where another process left it, if one has begun already."""
        has_begun = False
        while True:
            try:
                told = await asyncio.to_thread(
                    self._store.told, self._id, after=self._num_told - 1, holder=self._holder
                )
            except NotKept:
                return  # it was deleted meanwhile, and who looks for that will stop us
            if not told.events:
                break
            self._form.take_up(told.events)
            self._num_told += len(told.events)
            has_begun = has_begun or any(event["type"] == _BEGUN for event in told.events)
        if not has_begun:
            await self._tell([{"type": _BEGUN, "response": self._form.body}], body=self._form.body)

    def again(self) -> None:
        self._choice = Choice(index=0)
        self._last = []
        self._before = Again(self._form.body["output"])

    def take(self, item: Item) -> None:
        """Raises WorkerLost if this is not the answer that was told; DiskFull if there is no room to tell more."""
        if self._writing is not None and self._writing.done():
            self._writing.result()
        choice = self._choice
        if isinstance(item, Done):
            self._before.end()
            choice.done = item
            self._last = self._form.news(choice)
            return
        choice.add(self._before.rest(item))
        if choice.text or choice.reasoning or choice.tool_calls:
            self._later(self._form.news(choice))
            choice.told()

    def end(self) -> None:
        self._last.append(last_event(self._form.body))

    def fail(self, error: ThaloomError) -> None:
        self._last += self._form.failure(error)

    async def finish(self) -> None:
        await self.close()
        events = [*self._pending, *self._last]
        await asyncio.to_thread(self._store.finish, self._id, self._form.body, events=events, after=self._num_told)
        self._bells.ring(self._id)

    async def close(self) -> None:
        """Nothing of it is on its way to the disk any more."""
        if self._writing is not None:
            await asyncio.wait([self._writing])
            self._writing.exception()  # raised by `take`, if there was another; else `finish` meets it, too

    def _later(self, events: Sequence[Event]) -> None:
        """Told with the next write. What one item grew by is one event."""
        for event in events:
            before = self._pending[-1] if self._pending else {}
            if not event["type"].endswith(".delta") or not _is_of_one(before, event):
                self._pending.append(event)
                continue
            before["delta"] += event["delta"]
            if "logprobs" in event:
                before["logprobs"] = [*before["logprobs"], *event["logprobs"]]
        if self._pending and (self._writing is None or self._writing.done()):
            self._writing = asyncio.create_task(self._write())

    async def _write(self) -> None:
        while self._pending:
            events, self._pending = self._pending, []
            try:
                await self._tell(events)
            except ThaloomError:
                self._pending = [*events, *self._pending]
                raise
            await self._clock.sleep(TELL_S)

    async def _tell(self, events: Sequence[Event], *, body: dict[str, Any] | None = None) -> None:
        if await asyncio.to_thread(self._store.tell, self._id, events, after=self._num_told, body=body):
            self._num_told += len(events)
            self._bells.ring(self._id)


_BEGUN = "response.in_progress"


def _is_of_one(one: Event, other: Event) -> bool:
    return (one.get("type"), one.get("item_id")) == (other["type"], other["item_id"])
