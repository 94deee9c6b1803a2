"""The part of OpenAI's protocol that must be kept: responses, files and batches, as one part of the door."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager

from starlette.routing import Route
from starlette.types import ASGIApp, Scope

from thaloom.base.clock import Clock
from thaloom.base.events import Emit
from thaloom.edge.api.entrance.visits import OF_A_BATCH, Doorkeeper
from thaloom.edge.api.measures.metrics import DoorMetrics
from thaloom.edge.api.openai.kept.batches.routes import BatchRoutes
from thaloom.edge.api.openai.kept.batches.runner import Batches
from thaloom.edge.api.openai.kept.errands import Errands, News
from thaloom.edge.api.openai.kept.files.routes import FileRoutes
from thaloom.edge.api.openai.kept.keeping import Keeping
from thaloom.edge.api.openai.kept.responses.background import BackgroundResponses
from thaloom.edge.api.openai.kept.responses.following import Bells, Following
from thaloom.edge.api.openai.kept.responses.routes import KeptResponseRoutes, ResponsesRoute
from thaloom.edge.api.openai.kept.turns import Turns
from thaloom.work.runtime.types import Generation


class KeptPart:
    """`streaming`: by path, what is to be reached without a framework's layers; `routes`: all else."""

    def __init__(
        self,
        generation: Generation,
        keeping: Keeping,
        clock: Clock,
        emit: Emit,
        metrics: DoorMetrics,
        doorkeeper: Doorkeeper | None = None,
    ) -> None:
        self._generation = generation
        self._keeping = keeping
        self._clock = clock
        self._emit = emit
        self._doorkeeper = doorkeeper
        self._turns = Turns()
        self._news = News(clock)
        self._bells = Bells()
        kick = self._news.tell
        following = Following(keeping.responses, self._bells, clock)
        self.streaming: dict[str, ASGIApp] = {
            "/v1/responses": ResponsesRoute(
                generation=generation,
                keeping=keeping,
                following=following,
                turns=self._turns,
                clock=clock,
                metrics=metrics,
                kick=kick,
            )
        }
        self.routes: list[Route] = [
            *KeptResponseRoutes(generation, keeping, following, self._changed).routes(),
            *FileRoutes(keeping).routes(),
            *BatchRoutes(keeping, clock, kick).routes(),
        ]

    @contextlib.asynccontextmanager
    async def working(self, app: ASGIApp) -> AsyncIterator[None]:
        """Meanwhile what nobody waits for is worked on. `app` is the whole door, which answers the lines of batches."""
        keeping, turns, news, clock = self._keeping, self._turns, self._news, self._clock
        kinds = (
            BackgroundResponses(
                self._generation,
                keeping=keeping,
                turns=turns,
                news=news,
                bells=self._bells,
                clock=clock,
                doorkeeper=self._doorkeeper,
            ),
            Batches(app, keeping=keeping, turns=turns, news=news, clock=clock, emit=self._emit),
        )
        errands = Errands(kinds, sweep=self._sweep, news=news, clock=clock, emit=self._emit)
        running = asyncio.create_task(errands.run())
        try:
            yield
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    def turn(self, scope: Scope) -> AbstractContextManager[None]:
        """Around a request for an answer: while somebody waits for one, batches hold back."""
        return contextlib.nullcontext() if OF_A_BATCH in scope else self._turns.interactive()

    def _changed(self, response_id: str) -> None:
        """Whoever makes it stops, and whoever follows it hears of it."""
        self._news.tell()
        self._bells.ring(response_id)

    def _sweep(self) -> None:
        self._keeping.files.sweep()
        self._keeping.responses.sweep()
