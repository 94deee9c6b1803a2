"""Jobs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence

from thaloom.base.actions import TERMS
from thaloom.base.errors import ActionNotFound
from thaloom.init.acting.jobs import JobRemoval, JobWish, RemoveJob, RunJob, StopJob
from thaloom.init.acting.kinds import Named, call
from thaloom.init.syscalls.asking import Asking
from thaloom.kernel.state.jobs.types import JobPhase, JobSpec, JobStatus


class JobCalls(Asking):
    """Of jobs."""

    async def jobs(self, phase: JobPhase | None, limit: int) -> tuple[Sequence[JobStatus], Mapping[str, int]]:
        return self._node.jobs.latest(phase, limit)

    async def job(self, name: str) -> JobStatus:
        return self._node.jobs.status(name)

    async def run_job(self, spec: JobSpec, *, replace: bool) -> JobStatus:
        after = await asyncio.to_thread(self._asked_after, spec.name)
        await self._do(call(RunJob.name, JobWish(spec=spec, replace=replace, after=after)))
        return self._node.jobs.status(spec.name)

    async def stop_job(self, name: str) -> JobStatus:
        await self._do(call(StopJob.name, Named(name=name)))
        return self._node.jobs.status(name)

    async def remove_job(self, name: str, *, stop: bool) -> None:
        await self._do(call(RemoveJob.name, JobRemoval(name=name, stop=stop)))

    async def wait_job(self, name: str, timeout_s: float) -> JobStatus:
        return await self._node.jobs.wait(name, timeout_s)

    async def job_logs(self, name: str, *, follow: bool, tail: int) -> AsyncIterator[bytes]:
        return self._node.jobs.logs(name, follow=follow, tail=tail)

    def _asked_after(self, name: str) -> int:
        """How many attempts there were under this name when the request was made: by its id, if it is made again."""
        action = TERMS.get().action
        if action is not None:
            with contextlib.suppress(ActionNotFound):
                earlier = self._node.past.get(action).plan.get("call", {})
                if earlier.get("kind") == RunJob.name and isinstance(after := earlier["parameters"]["after"], int):
                    return after
        present = self._node.jobs.find(name)
        return 0 if present is None else present.state.num_attempts
