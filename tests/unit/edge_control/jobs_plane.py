"""The part of a control plane that is about jobs, in memory: nothing runs."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence

from thaloom.base.errors import JobNotFound
from thaloom.kernel.state.jobs.types import Job, JobPhase, JobSpec, JobState, JobStatus
from thaloom.kernel.state.types import Condition


class JobsPlane:
    def __init__(self) -> None:
        super().__init__()
        self.jobs_now: dict[str, Job] = {}

    async def jobs(self, phase: JobPhase | None, limit: int) -> tuple[Sequence[JobStatus], Mapping[str, int]]:
        found = [job for job in reversed(self.jobs_now.values()) if phase in (None, job.state.phase)]
        counts = Counter(job.state.phase for job in self.jobs_now.values())
        return [_status(job) for job in found[:limit]], {str(name): count for name, count in counts.items()}

    async def job(self, name: str) -> JobStatus:
        if name not in self.jobs_now:
            raise JobNotFound(f"no job {name!r}", param="name")
        return _status(self.jobs_now[name])

    async def run_job(self, spec: JobSpec, *, replace: bool) -> JobStatus:
        self.jobs_now[spec.name] = Job(spec=spec, state=JobState(since=1.0, stop_asked=replace), created_at=1.0)
        return await self.job(spec.name)

    async def stop_job(self, name: str) -> JobStatus:
        job = (await self.job(name)).job
        state = dataclasses.replace(job.state, phase="stopped", ended_by="stopped")
        self.jobs_now[name] = dataclasses.replace(job, state=state)
        return await self.job(name)

    async def remove_job(self, name: str, *, stop: bool) -> None:
        if stop:
            await self.stop_job(name)
        await self.job(name)
        del self.jobs_now[name]

    async def wait_job(self, name: str, timeout_s: float) -> JobStatus:
        await self.job(name)
        return await self.stop_job(name) if timeout_s else await self.job(name)

    async def job_logs(self, name: str, *, follow: bool, tail: int) -> AsyncIterator[bytes]:
        await self.job(name)

        async def lines() -> AsyncIterator[bytes]:
            for number in range(min(tail, 3)):
                yield b"line %d\n" % number
            if follow:
                yield b"more\n"

        return lines()


def _status(job: Job) -> JobStatus:
    ready = Condition(kind="Ready", status=False, reason="WaitsForTurn", message="it waits", since=1.0)
    return JobStatus(job=job, conditions=(ready,), pid=7, memory_bytes=4096)
