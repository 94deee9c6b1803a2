"""The events of a response made in the background, for whoever follows them: from any event on, live to the end."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from weakref import WeakValueDictionary

from starlette.types import Receive, Scope, Send

from thaloom.base.clock import Clock
from thaloom.base.errors import ThaloomError
from thaloom.edge.api.entrance.visits import key_of_request
from thaloom.edge.api.openai.kept.errands import heard
from thaloom.edge.api.openai.kept.keeping import ResponseStore
from thaloom.edge.api.openai.kept.responses.writing import as_lines
from thaloom.edge.api.routes.body import ClientGone, while_connected
from thaloom.edge.api.routes.generation import EVENT_STREAM, stream_headers

MAX_EVENT = 999_999_999
"""The highest number of an event that can be asked for; no response has as many."""
LOOK_S = 2.0
"""Between two looks for what other doors told; what is told here is heard at once."""
SILENCE_S = 15.0
"""Without an event: then a comment shows that we are there, and that the reader is. Proxies commonly give up a minute's
silence, and one that is gone without a word is met by writing to it only."""
_STILL_HERE = b": not yet\n\n"


class Bells:
    """Whoever follows a response is woken when more of it was told in this process. For one event loop."""

    def __init__(self) -> None:
        self._coming: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()

    def coming(self, response_id: str) -> asyncio.Event:
        """To be taken before one looks, so that nothing is missed between."""
        coming = self._coming.get(response_id)
        if coming is None:
            coming = self._coming[response_id] = asyncio.Event()
        return coming

    def ring(self, response_id: str) -> None:
        coming = self._coming.pop(response_id, None)
        if coming is not None:
            coming.set()


@dataclass(frozen=True, slots=True)
class _Page:
    """Some events as they travel."""

    body: bytes
    next: int
    """The number of the event behind them."""
    is_last: bool


class Following:
    """Answers with a stream of events. Each reader reads what is kept, at his own pace: he holds a page of it, and
    nobody waits for him. Those who stand at the same place look together, so that many cost little more than one."""

    def __init__(self, store: ResponseStore, bells: Bells, clock: Clock) -> None:
        self._store = store
        self._bells = bells
        self._clock = clock
        self._looking: dict[tuple[asyncio.Event, int, str | None], asyncio.Task[_Page]] = {}

    async def answer(self, response_id: str, after: int, scope: Scope, receive: Receive, send: Send) -> None:
        """The events behind number `after`. Raises NotKept, BadParameter, ClientGone."""
        holder = key_of_request()
        page = await self._look(response_id, after, holder, self._bells.coming(response_id))
        await send({"type": "http.response.start", "status": 200, "headers": stream_headers(EVENT_STREAM)})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body"})
            return
        await while_connected(receive, self._follow(response_id, page, holder, send))

    async def _follow(self, response_id: str, page: _Page, holder: str | None, send: Send) -> None:
        spoke_at = self._clock.monotonic()
        after = page.next - 1
        try:
            while True:
                if page.body:
                    await _write(send, page.body)
                    spoke_at = self._clock.monotonic()
                after = page.next - 1
                if page.is_last:
                    break
                coming = self._bells.coming(response_id)
                page = await self._look(response_id, after, holder, coming)
                if page.body or page.is_last:
                    continue
                await heard(self._clock, coming, LOOK_S)
                if self._clock.monotonic() >= spoke_at + SILENCE_S:
                    await _write(send, _STILL_HERE)
                    spoke_at = self._clock.monotonic()
        except ThaloomError as error:
            await _write(send, as_lines(_error(error), after), more=False)
        else:
            await _write(send, b"", more=False)

    async def _look(self, response_id: str, after: int, holder: str | None, coming: asyncio.Event) -> _Page:
        """`coming`: of what is told after this look has begun; who has the same one has missed nothing by sharing."""
        place = (coming, after, holder)
        looking = self._looking.get(place)
        if looking is None:
            looking = asyncio.create_task(asyncio.to_thread(self._read, response_id, after, holder))
            self._looking[place] = looking
            looking.add_done_callback(lambda done: self._looked(place, done))
        return await asyncio.shield(looking)

    def _looked(self, place: tuple[asyncio.Event, int, str | None], looking: asyncio.Task[_Page]) -> None:
        del self._looking[place]
        if not looking.cancelled():
            looking.exception()  # whoever asked has got it; if they have all gone, nobody need know

    def _read(self, response_id: str, after: int, holder: str | None) -> _Page:
        told = self._store.told(response_id, after=after, holder=holder)
        lines = [as_lines(event, number) for number, event in enumerate(told.events, told.first)]
        return _Page(b"".join(lines), told.first + len(lines), told.is_all)


def _error(error: ThaloomError) -> dict[str, object]:
    """Of the stream, not of the response: it was deleted, or cannot be read. It has the number of the event before it:
    who comes back misses none."""
    return {"type": "error", "code": error.code, "message": error.message, "param": error.param}


async def _write(send: Send, body: bytes, *, more: bool = True) -> None:
    try:
        await send({"type": "http.response.body", "body": body, "more_body": more})
    except OSError as error:
        raise ClientGone from error
