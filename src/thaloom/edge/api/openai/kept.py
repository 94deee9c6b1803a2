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
from thaloom.edge.api.keeping import Keeping
from thaloom.edge.api.metrics import DoorMetrics
from thaloom.edge.api.openai.batches.asking import OF_A_BATCH
from thaloom.edge.api.openai.batches.routes import BatchRoutes
from thaloom.edge.api.openai.batches.runner import BatchRunner
from thaloom.edge.api.openai.batches.turns import Turns
from thaloom.edge.api.openai.files.routes import FileRoutes
from thaloom.edge.api.openai.responses.routes import KeptResponseRoutes, ResponsesRoute
from thaloom.work.runtime.types import Generation


class KeptPart:
    """`streaming`: by path, what is to be reached without a framework's layers; `routes`: all else."""

    def __init__(
        self, generation: Generation, keeping: Keeping, clock: Clock, emit: Emit, metrics: DoorMetrics
    ) -> None:
        self._keeping = keeping
        self._clock = clock
        self._emit = emit
        self._turns = Turns()
        self._runner: BatchRunner | None = None
        self.streaming: dict[str, ASGIApp] = {
            "/v1/responses": ResponsesRoute(generation=generation, keeping=keeping, clock=clock, metrics=metrics)
        }
        self.routes: list[Route] = [
            *KeptResponseRoutes(generation, keeping).routes(),
            *FileRoutes(keeping).routes(),
            *BatchRoutes(keeping, clock, self._kick).routes(),
        ]

    @contextlib.asynccontextmanager
    async def working(self, app: ASGIApp) -> AsyncIterator[None]:
        """Batches are worked on meanwhile. `app` is the whole door, which answers their lines."""
        self._runner = BatchRunner(app, keeping=self._keeping, turns=self._turns, clock=self._clock, emit=self._emit)
        running = asyncio.create_task(self._runner.run())
        try:
            yield
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    def turn(self, scope: Scope) -> AbstractContextManager[None]:
        """Around a request for an answer: while somebody waits for one, batches hold back."""
        return contextlib.nullcontext() if scope.get(OF_A_BATCH) else self._turns.interactive()

    def _kick(self) -> None:
        if self._runner is not None:
            self._runner.kick()
