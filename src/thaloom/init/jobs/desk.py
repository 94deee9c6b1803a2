"""What may be asked of jobs, for those who ask: the kinds of action, and those who look."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

from thaloom.base.clock import Clock
from thaloom.base.ids import JobName
from thaloom.init.jobs.guarding import JobGuard
from thaloom.init.jobs.logs import follow_job_log
from thaloom.init.jobs.loop import JobLoop
from thaloom.init.jobs.reporting import status
from thaloom.kernel.state.jobs.store import JobStore
from thaloom.kernel.state.jobs.types import Job, JobPhase, JobStatus

_PATIENCE_S = 10.0
"""How long who removes a job waits until it is gone: less than callers wait for an answer."""
_POLL_S = 0.05


class JobDesk:
    """Everything here may raise a leaf of ThaloomError."""

    def __init__(
        self, store: JobStore, *, loop: JobLoop, guard: JobGuard, clock: Clock, require_up: Callable[[], None]
    ) -> None:
        self.store = store
        self.guard = guard
        self.require_up = require_up
        self._loop = loop
        self._clock = clock

    def find(self, name: str) -> Job | None:
        return self.store.find(name)

    def wake(self) -> None:
        self._loop.wake()

    def kill_all(self) -> None:
        """Who goes down does not want to wait for graces."""
        self._loop.runs.kill_all()

    def ask_to_end(self, name: JobName) -> None:
        """Written down first: a daemon that is killed now asks again."""
        job = self.store.get(name)
        if not (job.state.over or job.state.stop_asked):
            self.store.set_state(name, dataclasses.replace(job.state, stop_asked=True))

    async def stop(self, name: JobName) -> None:
        """Once it has been asked, if it runs."""
        self.ask_to_end(name)
        await self._loop.settle()

    async def remove(self, name: JobName) -> None:
        """Ask it to end, and forget it once it has: soon, or when its grace is over. That outlives the daemon; removing
        one twice is no error."""
        job = self.store.find(name)
        if job is None:
            return
        if not job.state.remove_asked:
            self.store.set_state(name, dataclasses.replace(job.state, stop_asked=True, remove_asked=True))
        give_up = self._clock.monotonic() + _PATIENCE_S
        while self.store.find(name) is not None and self._clock.monotonic() < give_up:
            await self._loop.settle()
            await self._loop.changed(_POLL_S)

    def remove_files(self, name: JobName) -> None:
        """Of one that is forgotten: its logs and its folder."""
        self._loop.runs.files(name).remove()

    # -- who only looks

    def latest(self, phase: JobPhase | None, limit: int) -> tuple[list[JobStatus], dict[str, int]]:
        """Newest first, those in this phase; and how many there are in each."""
        snapshot = self._loop.look()
        counts: Counter[str] = Counter(job.state.phase for job in snapshot.known.values())
        wanted = (job for job in reversed(self.store.all()) if phase is None or job.state.phase == phase)
        return [self._status(job, snapshot) for job in itertools.islice(wanted, limit)], dict(counts)

    def status(self, name: str) -> JobStatus:
        """Raises JobNotFound."""
        return self._status(self.store.get(name), self._loop.look())

    def _status(self, job: Job, snapshot: Any) -> JobStatus:
        if job.state.phase != "running":
            return status(job, snapshot, pid=None, memory_bytes=None)
        return status(job, snapshot, pid=self._loop.pid(job), memory_bytes=self._loop.used_bytes(job.spec.name))

    async def wait(self, name: str, timeout_s: float) -> JobStatus:
        """Its status once it is over, or when the time is."""
        end = self._clock.monotonic() + timeout_s
        while not self.store.get(name).state.over and self._clock.monotonic() < end:
            await self._loop.changed(min(1.0, max(0.0, end - self._clock.monotonic())))
        return self.status(name)

    def logs(self, name: str, *, follow: bool, tail: int) -> AsyncIterator[bytes]:
        """Raises JobNotFound."""
        self.store.get(name)

        def going_on() -> bool:
            job = self.store.find(name)
            return follow and job is not None and not job.state.over and not self._loop.going_down()

        return follow_job_log(self._loop.runs.files(JobName(name)), tail, self._clock, going_on)
