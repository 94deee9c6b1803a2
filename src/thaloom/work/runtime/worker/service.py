"""A worker as others see it: a unix socket that speaks work/runtime/messages.py, with an engine behind it.

The socket is there before the model is, so that a worker can always be asked how it is. Life: loading, ready,
stopping. One connection carries one request; a connection that goes away takes its request with it.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from thaloom.base.clock import Clock
from thaloom.base.errors import QueueFull, ServiceLoading, ThaloomError, WorkerLost
from thaloom.base.events import Emit
from thaloom.work.runtime.core.sequence import Ticket
from thaloom.work.runtime.events import ConnectionFailed, WorkerDraining, WorkerListening, WorkerStopped
from thaloom.work.runtime.messages import Task, WorkerStats
from thaloom.work.runtime.outbox import MAX_TOKENS_BEHIND
from thaloom.work.runtime.spec import WorkerSpec
from thaloom.work.runtime.worker import listening
from thaloom.work.runtime.worker.async_engine import Submission
from thaloom.work.runtime.worker.connection import Connection, Patience
from thaloom.work.runtime.worker.loading import LoadedModel, LoadingStopped
from thaloom.work.runtime.worker.serving import EngineServed, Servable, Served, Site
from thaloom.work.runtime.worker.status import loading_stats

Load = Callable[[threading.Event], LoadedModel | Servable]
"""Blocking; raises LoadingStopped soon after the event is set."""

DEFAULT_GRACE_S = 20.0
"""What SIGTERM gives to running requests."""
LAST_WORDS_S = 1.0
"""For telling the last clients that the worker ends."""
LAST_STEP_S = 10.0
"""For the step that is running when the worker ends. A device that takes longer hangs."""
SPARE_CONNECTIONS = 64
"""Connections beyond those a full queue needs: for status, and for hearing that the queue is full."""
RETRY_LOADING_S = 1.0


class WorkerService:
    """`run` serves until the worker is to end. Everything but `load` happens on the event loop's thread."""

    def __init__(
        self,
        spec: WorkerSpec,
        load: Load,
        *,
        clock: Clock,
        emit: Emit,
        max_tokens_behind: int = MAX_TOKENS_BEHIND,
        patience: Patience | None = None,
        last_step_s: float = LAST_STEP_S,
    ) -> None:
        self.phase: Literal["loading", "ready", "stopping"] = "loading"
        self._spec = spec
        self._load = load
        self._clock = clock
        self._emit = emit
        self._max_tokens_behind = max_tokens_behind
        self._patience = patience or Patience()
        self._last_step_s = last_step_s
        self._served: Served | None = None
        self._connections: dict[asyncio.Task[None], Connection] = {}
        self._stop_loading = threading.Event()
        self._changed = asyncio.Event()  # somebody asked to stop, or sooner, or the engine broke
        self._deadline: float | None = None
        self._asked_at = clock.monotonic()
        """When it became ready, or the last answer ended."""
        self._failure: ThaloomError | None = None

    async def run(self) -> None:
        """Returns after `stop` was called and its grace is over. Raises the ThaloomError that ends the worker."""
        path = Path(self._spec.socket)
        _clear(self._spec.failure_path)
        listener = listening.listen(path)
        mine = listening.identity(path)
        server = await asyncio.start_unix_server(self._connected, sock=listener)
        self._emit(
            WorkerListening(
                worker=self._spec.worker, service=self._spec.service, socket=self._spec.socket, pid=os.getpid()
            )
        )
        try:
            model = await self._loaded()
            if model is not None:
                await self._serve(model)
        finally:
            self._stop_loading.set()
            server.close()
            listening.remove(path, mine)
            await self._hang_up()

    def stop(self, grace_s: float) -> None:
        """Take no new requests, let the running ones end within `grace_s`, then return from `run`. A second call
        can only shorten the grace."""
        self.phase = "stopping"
        self._stop_loading.set()
        deadline = self._clock.monotonic() + grace_s
        self._deadline = deadline if self._deadline is None else min(self._deadline, deadline)
        self._changed.set()

    def stop_if_idle(self, idle_s: float, grace_s: float) -> None:
        """Decided here and at once, so that whoever asks in this moment is either answered or refused."""
        idle = self._idle_s()
        if idle is not None and idle >= idle_s:
            self.stop(grace_s)

    def status(self) -> WorkerStats:
        if self._served is None:
            return loading_stats(self._spec, self.phase)
        return msgspec.structs.replace(self._served.status(self.phase), idle_s=self._idle_s())

    def _idle_s(self) -> float | None:
        """None: somebody is owed an answer."""
        if any(connection.asking for connection in self._connections.values()):
            return None
        return self._clock.monotonic() - self._asked_at

    async def take(self, request: Task) -> Submission:
        """Raises ServiceLoading unless ready, and whatever Served.take raises."""
        served = self._ready()
        submission = await served.take(request)
        try:
            self._ready()
        except ServiceLoading:  # it was asked to end meanwhile
            served.drop(submission.ticket)
            raise
        return submission

    def _ready(self) -> Served:
        if self.phase != "ready" or self._served is None:
            raise ServiceLoading(f"service {self._spec.service!r} is {self.phase}", retry_after_s=RETRY_LOADING_S)
        return self._served

    def drop(self, ticket: Ticket) -> None:
        if self._served is not None:
            self._served.drop(ticket)

    async def _loaded(self) -> LoadedModel | Servable | None:
        """The model, or None if the worker is to end before it is there."""
        try:
            model = await asyncio.to_thread(self._load, self._stop_loading)
        except LoadingStopped:
            return None
        if self.phase == "stopping":
            model.close()
            return None
        return model

    async def _serve(self, model: LoadedModel | Servable) -> None:
        site = Site(
            spec=self._spec,
            clock=self._clock,
            emit=self._emit,
            broken=self._fail,
            max_tokens_behind=self._max_tokens_behind,
        )
        served = EngineServed(model, site) if isinstance(model, LoadedModel) else model.serve(site)
        self._served = served
        served.start()
        try:
            self.phase = "ready"
            self._asked_at = self._clock.monotonic()
            self._emit(served.told())
            await self._changed.wait()
            await self._drain(served)
            cut_off = sum(served.under_way())
            served.fail_all(self._failure or WorkerLost(f"service {self._spec.service!r} was stopped"))
            await self._wait_for_answers(LAST_WORDS_S)
            self._emit(WorkerStopped(worker=self._spec.worker, service=self._spec.service, cut_off=cut_off))
        finally:
            self._served = None
            self._failure = await served.end(self._last_step_s) or self._failure
        if self._failure is not None:
            raise self._failure

    def _fail(self, error: ThaloomError) -> None:
        self._failure = error
        self.stop(0.0)

    async def _drain(self, served: Served) -> None:
        running, waiting = served.under_way()
        self._emit(
            WorkerDraining(
                worker=self._spec.worker,
                service=self._spec.service,
                grace_s=round(self._grace_left_s(), 3),
                running=running,
                waiting=waiting,
            )
        )
        while self._answering() and self._grace_left_s() > 0:
            self._changed.clear()
            changed = asyncio.create_task(self._changed.wait())
            await asyncio.wait(
                {*self._answering(), changed}, timeout=self._grace_left_s(), return_when=asyncio.FIRST_COMPLETED
            )
            changed.cancel()
            await asyncio.gather(changed, return_exceptions=True)

    def _grace_left_s(self) -> float:
        return 0.0 if self._deadline is None else max(0.0, self._deadline - self._clock.monotonic())

    def _answering(self) -> set[asyncio.Task[None]]:
        return {task for task, connection in self._connections.items() if connection.generating}

    async def _wait_for_answers(self, timeout_s: float) -> None:
        answering = self._answering()
        if answering:
            await asyncio.wait(answering, timeout=timeout_s)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(reader, writer, self, self._patience)
        most = self._spec.max_sequences + self._spec.max_queue + SPARE_CONNECTIONS
        crowded = QueueFull(f"{most} connections are open already", retry_after_s=RETRY_LOADING_S)
        task = asyncio.create_task(self._attend(connection, crowded if len(self._connections) >= most else None))
        self._connections[task] = connection
        task.add_done_callback(self._connections.pop)

    async def _attend(self, connection: Connection, refusal: ThaloomError | None) -> None:
        try:
            await connection.attend(refusal)
        except Exception as error:  # noqa: BLE001 - supervisor of connections: one client may not end the others
            self._emit(ConnectionFailed(message=f"{type(error).__name__}: {error}"))
        finally:
            if connection.asking:
                self._asked_at = self._clock.monotonic()

    async def _hang_up(self) -> None:
        """Close every connection that is left, and wait for its end."""
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)


def _clear(failure: Path) -> None:
    """Of an earlier worker of that name. An empty one is left: behind walls it is the only file that can be written."""
    if failure.exists() and failure.stat().st_size:
        failure.unlink()
