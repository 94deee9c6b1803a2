"""What a worker serves, whatever computes it: our own engine over a device, a foreign server, a model of another kind.

A worker's life, its socket and its connections are the same for all (`service`, `connection`); what differs is behind
`Served`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from thaloom.base.clock import Clock
from thaloom.base.errors import BadRequest, DeviceLost, QueueFull, ThaloomError
from thaloom.base.events import Emit, Event
from thaloom.work.runtime.core.engine import Engine
from thaloom.work.runtime.core.grammars import Grammars, Matcher
from thaloom.work.runtime.core.sequence import Ticket
from thaloom.work.runtime.events import WorkerReady
from thaloom.work.runtime.messages import Embed, Generate, Grammar, Task, WorkerStats
from thaloom.work.runtime.spec import WorkerSpec
from thaloom.work.runtime.worker.async_engine import AsyncEngine, Submission
from thaloom.work.runtime.worker.loading import LoadedModel, shared_weight_bytes
from thaloom.work.runtime.worker.status import serving_stats

MOST_COMPILING = 64
RETRY_COMPILING_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where something is served: what it is told by its worker."""

    spec: WorkerSpec
    clock: Clock
    emit: Emit
    broken: Callable[[ThaloomError], None]
    """To be called on the event loop's thread once nothing more can be served: the worker ends with that error."""
    max_tokens_behind: int


class Served(Protocol):
    """All on the event loop's thread. Life: made ready, `start`, requests, `fail_all`, `end`."""

    def status(self, phase: str) -> WorkerStats: ...

    def told(self) -> Event:
        """What is told once it is ready."""
        ...

    def start(self) -> None: ...

    async def take(self, request: Task) -> Submission:
        """Raises BadRequest for a kind of request it does not know, and whatever refuses this one."""
        ...

    def drop(self, ticket: Ticket) -> None:
        """Nobody waits for this answer any more. Harmless if it has ended."""
        ...

    def under_way(self) -> tuple[int, int]:
        """Requests that run, and that wait."""
        ...

    def fail_all(self, error: ThaloomError) -> None:
        """End every answer with this error."""
        ...

    async def end(self, timeout_s: float) -> ThaloomError | None:
        """Give everything back; why that was not possible in time, if so."""
        ...


class Servable(Protocol):
    """What loading gave, not served yet."""

    def serve(self, site: Site) -> Served: ...
    def close(self) -> None: ...


class EngineServed:
    """A model of ours, by our own engine."""

    def __init__(self, model: LoadedModel, site: Site) -> None:
        self._model = model
        self._site = site
        self._engine = Engine(
            model.executable,
            model.config,
            monotonic=site.clock.monotonic,
            emit=site.emit,
            memory=model.pool.memory,
            store=model.store,
            turns=model.turns,
        )
        self._async_engine = AsyncEngine(
            self._engine,
            broken=site.broken,
            emit=site.emit,
            max_tokens_behind=site.max_tokens_behind,
            rung=None if model.pool.seat is None else model.pool.seat.wait,
        )
        self._num_compiling = 0

    def status(self, phase: str) -> WorkerStats:
        return serving_stats(self._site.spec, phase, self._model, self._engine)

    def told(self) -> Event:
        model, spec = self._model, self._site.spec
        return WorkerReady(
            worker=spec.worker,
            service=spec.service,
            model=str(model.manifest.name),
            device=model.backend.device.id,
            driver=model.driver,
            num_threads=model.num_threads,
            weight_bytes=model.executable.weight_bytes,
            shared_weight_bytes=shared_weight_bytes(model.executable),
            kv_bytes=model.pool.promised_bytes,
            scratch_bytes=model.executable.scratch_bytes,
            context_length=model.config.context_length,
            exact=model.backend.support.exact,
            degraded=model.backend.degraded,
        )

    def start(self) -> None:
        self._async_engine.start()

    async def take(self, request: Task) -> Submission:
        """Raises whatever Grammars.matcher and Engine.submit raise."""
        if not isinstance(request, Generate | Embed):
            raise BadRequest("this worker knows tokens only")
        matcher = None
        if isinstance(request, Generate) and request.grammar is not None:
            matcher = await self._compile(request.grammar, self._model.grammars)
        return self._async_engine.submit(request, matcher)

    def drop(self, ticket: Ticket) -> None:
        self._async_engine.cancel(ticket)

    def under_way(self) -> tuple[int, int]:
        load = self._engine.load()
        return load.running, load.waiting

    def fail_all(self, error: ThaloomError) -> None:
        self._async_engine.fail_all(error)

    async def end(self, timeout_s: float) -> ThaloomError | None:
        if await self._async_engine.stop(timeout_s):
            self._model.close()
            return None
        device = self._model.backend.device.id  # its memory is in use: only the end of the process frees that
        return DeviceLost(f"a step on device {device!r} does not end", device=device)

    async def _compile(self, grammar: Grammar, grammars: Grammars) -> Matcher:
        """Few at a time, in threads: others go on being served. Raises QueueFull if too many wait."""
        if self._num_compiling >= MOST_COMPILING:
            raise QueueFull(f"{MOST_COMPILING} constraints are being compiled already", retry_after_s=RETRY_COMPILING_S)
        self._num_compiling += 1
        try:
            return await asyncio.to_thread(grammars.matcher, grammar)
        finally:
            self._num_compiling -= 1
