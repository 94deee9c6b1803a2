"""All jobs of a node: on the disk, and in memory for those who look often.

Who looks at ten thousand jobs in every pass must not read ten thousand rows: the rows are read once, and a `version`
tells whether anything has changed since. Only this process writes them.
"""

from __future__ import annotations

import dataclasses
import sqlite3
import threading
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from thaloom.base.clock import Clock
from thaloom.base.errors import BadParameter, JobNotFound, RevisionConflict, WrongState
from thaloom.base.ids import JobName
from thaloom.kernel.state.database import Database
from thaloom.kernel.state.jobs.types import Job, JobSpec, JobState
from thaloom.kernel.state.rows import decode, encode, read

MAX_JOBS = 100_000
"""Kept at once, over or not."""


class JobStore:
    """Every method that changes something returns when it is on the disk. Safe from several threads."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._lock = threading.Lock()
        self.version = 0
        """Another one after every change."""
        self.reread()

    def reread(self) -> None:
        """All of it, from the disk: after changes that were taken back."""
        rows = self._database.read("SELECT * FROM jobs ORDER BY created_at")
        self._jobs = {job.spec.name: job for job in map(_read, rows)}
        self._active = {name: job for name, job in self._jobs.items() if not job.state.over}
        self.version += 1

    @property
    def active(self) -> Mapping[JobName, Job]:
        """Those that are not over, oldest first. A view: it changes with them."""
        return MappingProxyType(self._active)

    @property
    def known(self) -> Mapping[JobName, Job]:
        """All, oldest first. A view."""
        return MappingProxyType(self._jobs)

    def all(self) -> list[Job]:
        """All, oldest first."""
        return list(self._jobs.values())

    def users_of_workspace(self, workspace: str) -> list[str]:
        """Subjects of the jobs that are not over and name it."""
        return [f"job/{name}" for name, job in self._active.items() if workspace in job.spec.workspaces]

    def find(self, name: str) -> Job | None:
        return self._jobs.get(JobName(name))

    def get(self, name: str) -> Job:
        """Raises JobNotFound."""
        job = self.find(name)
        if job is None:
            raise JobNotFound(f"no job {name!r}", param="name")
        return job

    def put(self, spec: JobSpec, *, expected_revision: int | None = None, anew: bool = False) -> Job:
        """Wish for a job, or change the wish. The same wish again changes nothing, unless it is to run `anew`.

        One that is over begins anew where its wish has changed; one that runs keeps its wish: WrongState.
        `expected_revision` (0: it must be new): RevisionConflict.
        """
        with self._lock:
            present = self.find(spec.name)
            revision = present.revision if present else 0
            if expected_revision is not None and expected_revision != revision:
                raise RevisionConflict(
                    f"job {spec.name!r} has revision {revision}, not {expected_revision}", revision=revision
                )
            if present is not None and present.spec == spec and not (anew and present.state.over):
                return present
            if present is not None and dataclasses.replace(present.spec, labels=spec.labels) == spec and not anew:
                job = dataclasses.replace(present, spec=spec)  # other labels: nothing that runs depends on them
            else:
                job = self._wished(spec, present)
            self._write([job])
            return job

    def _wished(self, spec: JobSpec, present: Job | None) -> Job:
        now = self._clock.now()
        if present is None:
            if len(self._jobs) >= MAX_JOBS:
                raise BadParameter(f"a node keeps at most {MAX_JOBS} jobs; remove some first", param="name")
            return Job(spec=spec, state=JobState(since=now), created_at=now)
        if present.state.phase == "running":
            raise WrongState(f"job {spec.name!r} runs; stop it before its wish is changed")
        begun = present.state
        state = begun
        if begun.over:  # attempts are never numbered alike: their files lie side by side
            state = JobState(since=now, num_attempts=begun.num_attempts, attempts=begun.attempts)
        return Job(spec=spec, state=state, created_at=present.created_at, revision=present.revision + 1)

    def set_state(self, name: JobName, state: JobState) -> Job:
        """Raises JobNotFound."""
        return self.set_states({name: state})[0]

    def set_states(self, states: Mapping[JobName, JobState]) -> list[Job]:
        """Of several at once, or of none. Raises JobNotFound."""
        with self._lock:
            jobs = [dataclasses.replace(self.get(name), state=state) for name, state in states.items()]
            self._write(jobs)
            return jobs

    def delete(self, *names: JobName) -> None:
        """Forget them. Forgetting one twice is no error."""
        with self._lock:
            with self._database.write() as connection:
                connection.executemany("DELETE FROM jobs WHERE name = ?", [(name,) for name in names])
            for name in names:
                self._jobs.pop(name, None)
                self._active.pop(name, None)
            self.version += 1

    def _write(self, jobs: Iterable[Job]) -> None:
        jobs = list(jobs)
        with self._database.write() as connection:
            connection.executemany(
                """INSERT INTO jobs (name, spec, state, created_at, revision) VALUES (?, ?, ?, ?, ?)
                ON CONFLICT (name) DO UPDATE SET spec = excluded.spec, state = excluded.state,
                    revision = excluded.revision""",
                [(job.spec.name, *_facts(job), job.created_at, job.revision) for job in jobs],
            )
        for job in jobs:
            name = job.spec.name
            self._jobs[name] = job
            if job.state.over:
                self._active.pop(name, None)
            else:
                self._active[name] = job
        self.version += 1


def _facts(job: Job) -> tuple[str, str]:
    return encode(_short(dataclasses.asdict(job.spec))), encode(_short(dataclasses.asdict(job.state)))


def _short(facts: dict[str, Any]) -> dict[str, Any]:
    """Without the name, which is the row's key, and without what is not set."""
    return {name: value for name, value in facts.items() if name != "name" and value not in (None, (), {}, "")}


def _read(row: sqlite3.Row) -> Job:
    return Job(
        spec=read(JobSpec, decode(row["spec"]) | {"name": row["name"]}),
        state=read(JobState, decode(row["state"])),
        created_at=row["created_at"],
        revision=row["revision"],
    )
