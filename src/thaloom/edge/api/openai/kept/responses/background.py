"""Responses that nobody waits for: made when there is time, and asked for later."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from thaloom.base.clock import Clock
from thaloom.base.errors import DeadlineExceeded, DiskFull, StateUnusable, ThaloomError, Unavailable
from thaloom.base.ids import RequestId
from thaloom.edge.api.entrance.visits import CURRENT, Doorkeeper, Tab
from thaloom.edge.api.openai.kept.errands import REST_S, News, unless
from thaloom.edge.api.openai.kept.keeping import Keeping
from thaloom.edge.api.openai.kept.responses.before import said_before
from thaloom.edge.api.openai.kept.responses.following import Bells
from thaloom.edge.api.openai.kept.responses.making import Collecting, Making, Telling
from thaloom.edge.api.openai.kept.responses.reading import ResponseWanted, read, wanted
from thaloom.edge.api.openai.kept.responses.writing import ResponseForm
from thaloom.edge.api.openai.kept.turns import Turns
from thaloom.edge.api.routes.follow import Item, follow, start_all
from thaloom.kernel.state.types import ResponseJob
from thaloom.work.runtime.types import Generation

DEADLINE_S = 86_400.0
"""What is not made in a day is given up, as with batches."""
RETRY_S = 2.0
"""Before what met a full queue or a loading model is tried again, unless the refusal says how long."""
MAX_LOST = 3
"""Workers that may die on one response before it is taken for what kills them."""


class BackgroundResponses:
    """errands.Kind."""

    name = "response"
    most = 4

    def __init__(
        self,
        generation: Generation,
        *,
        keeping: Keeping,
        turns: Turns,
        news: News,
        bells: Bells,
        clock: Clock,
        doorkeeper: Doorkeeper | None,
    ) -> None:
        self._generation = generation
        self._keeping = keeping
        self._turns = turns
        self._news = news
        self._bells = bells
        self._clock = clock
        self._doorkeeper = doorkeeper

    def claim(self, beside: Collection[str]) -> ResponseJob | None:
        return self._keeping.responses.claim(beside=beside)

    def release(self, errand_id: str) -> None:
        self._keeping.responses.release(errand_id)

    async def work(self, errand: ResponseJob) -> None:
        """Made, failed, cancelled or deleted: whatever comes first."""
        asked = read(errand.request)
        form = ResponseForm(wanted(asked, RequestId(errand.id)), now=self._clock.now)
        form.body["created_at"] = int(errand.created_at)
        making = self._making(errand, form, is_told=bool(asked.stream))
        try:
            await self._made(errand, making)
            await making.finish()
        finally:
            await making.close()

    def _making(self, job: ResponseJob, form: ResponseForm, *, is_told: bool) -> Making:
        store = self._keeping.responses
        if is_told:
            return Telling(job, form, store=store, bells=self._bells, clock=self._clock)
        return Collecting(job, form, store=store)

    async def _made(self, job: ResponseJob, making: Making) -> None:
        try:
            await making.begin()
        except DiskFull as error:
            making.fail(error)
            return
        if not await unless(self._make(job, making), self._until_stopped(job)):
            making.fail(DeadlineExceeded(f"the response was not made within {DEADLINE_S:g} s"))

    async def _make(self, job: ResponseJob, making: Making) -> None:
        num_lost = 0
        while True:
            try:
                before = await said_before(self._keeping, job.previous, holder=job.key)
                asked = wanted(read(job.request), RequestId(job.id), before=before)
                async with self._turns.patient():
                    making.again()
                    await self._held_by(job.key, asked, making)
            except StateUnusable:
                raise  # of what is kept, not of the answer: whoever claims it next goes on
            except ThaloomError as error:
                num_lost += not isinstance(error, Unavailable)
                if not error.retryable or num_lost >= MAX_LOST:
                    making.fail(error)
                    return
                await self._clock.sleep(min(error.retry_after_s or RETRY_S, REST_S))
            else:
                making.end()
                return

    async def _held_by(self, key: str | None, asked: ResponseWanted, making: Making) -> None:
        """Generated under the limits of the key it was asked with, as they are now. Raises Unauthorized too."""
        keeper = self._doorkeeper
        visit = None if keeper is None else keeper.enter([]) if key is None else keeper.enter_as(key)
        tab = Tab(visit=visit, patient=True)
        CURRENT.set(tab)  # of the task that makes this response, and nothing else
        try:
            await self._generate(asked, making)
        finally:
            tab.end()

    async def _generate(self, asked: ResponseWanted, making: Making) -> None:
        async def take(batch: list[tuple[int, Item]]) -> None:
            for _, item in batch:
                making.take(item)

        await follow(await start_all(self._generation, asked.requests), take)

    async def _until_stopped(self, job: ResponseJob) -> None:
        """Until it is cancelled or deleted, or its time is over."""
        while self._clock.now() < job.created_at + DEADLINE_S:
            coming = self._news.coming
            if not await asyncio.to_thread(self._keeping.responses.is_wanted, job.id):
                return
            await self._news.wait(coming)
