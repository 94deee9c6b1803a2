"""Routes about jobs: programs that are run to their end."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from fastapi import Depends, FastAPI, Query
from fastapi.responses import StreamingResponse

from thaloom.base.ids import JobName
from thaloom.edge.api.control.messages import same
from thaloom.edge.api.control.plane import ControlPlane
from thaloom.edge.api.control.terms import only_by_the_socket
from thaloom.edge.wire import control as wire
from thaloom.kernel.state.jobs.types import Dependency, JobResources, JobSpec, JobStatus

MOST_WAIT_S = 30.0
"""Of one request; who waits longer asks again."""
_Phase = Literal["pending", "running", "succeeded", "failed", "stopped"]


def add_job_routes(app: FastAPI, plane: ControlPlane) -> None:
    """Only through the socket: who may run programs here is the node's owner."""
    guards = [Depends(only_by_the_socket)]
    path = f"{wire.PREFIX}/jobs"

    @app.get(path, tags=["jobs"], dependencies=guards)
    async def jobs(phase: _Phase | None = None, limit: Annotated[int, Query(ge=1, le=100_000)] = 100) -> wire.Jobs:
        found, counts = await plane.jobs(phase, limit)
        return wire.Jobs(jobs=[job_message(status) for status in found], counts=dict(counts))

    @app.get(f"{path}/{{name}}", tags=["jobs"], dependencies=guards)
    async def job(name: str) -> wire.Job:
        return job_message(await plane.job(name))

    @app.put(f"{path}/{{name}}", tags=["jobs"], dependencies=guards)
    async def run_job(name: str, body: wire.JobRequest) -> wire.Job:
        return job_message(await plane.run_job(job_spec(name, body), replace=body.replace))

    @app.post(f"{path}/{{name}}/stop", tags=["jobs"], dependencies=guards)
    async def stop_job(name: str) -> wire.Job:
        return job_message(await plane.stop_job(name))

    @app.delete(f"{path}/{{name}}", tags=["jobs"], dependencies=guards)
    async def remove_job(name: str, stop: bool = False) -> wire.Removed:
        await plane.remove_job(name, stop=stop)
        return wire.Removed(name=name)

    @app.get(f"{path}/{{name}}/wait", tags=["jobs"], dependencies=guards)
    async def wait_job(name: str, timeout_s: Annotated[float, Query(ge=0, le=MOST_WAIT_S)] = MOST_WAIT_S) -> wire.Job:
        return job_message(await plane.wait_job(name, timeout_s))

    @app.get(f"{path}/{{name}}/logs", tags=["jobs"], response_class=StreamingResponse, dependencies=guards)
    async def logs(
        name: str, follow: bool = False, tail: Annotated[int, Query(ge=0, le=wire.MAX_TAIL_LINES)] = 100
    ) -> StreamingResponse:
        lines = await plane.job_logs(name, follow=follow, tail=tail)
        return StreamingResponse(lines, media_type="text/plain; charset=utf-8")


def job_spec(name: str, body: wire.JobRequest) -> JobSpec:
    """Raises BadParameter that names the wrong field."""
    fields = body.model_dump(exclude={"replace", "resources", "depends_on"})
    lists = {key: tuple(value) for key, value in fields.items() if isinstance(value, list)}
    return JobSpec(
        name=JobName(name),
        **fields | lists,
        resources=JobResources(**body.resources.model_dump()),
        depends_on=tuple(Dependency(job=JobName(each.job), ending=each.ending) for each in body.depends_on),
    )


def job_message(status: JobStatus) -> wire.Job:
    job = status.job
    return same(
        wire.Job,
        job.state,
        name=job.spec.name,
        created_at=job.created_at,
        revision=job.revision,
        pid=status.pid,
        memory_bytes=status.memory_bytes,
        conditions=[dataclasses.asdict(condition) for condition in status.conditions],
        spec=dataclasses.asdict(job.spec),
    )
