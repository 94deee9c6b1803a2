"""`kind: Job`: a program that is run to its end, once for each wish."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator, Sequence

from thaloom.base.actions import Risk
from thaloom.base.errors import BadParameter, ThaloomError, WrongState
from thaloom.base.events import Emit
from thaloom.base.ids import JobName
from thaloom.init.documents.forms import place, read_spec, written
from thaloom.init.documents.kinds import Changed
from thaloom.init.jobs.desk import JobDesk
from thaloom.init.jobs.events import JobForgotten, JobWished
from thaloom.init.rounds.conditions import complete, with_since
from thaloom.kernel.state.jobs.types import Dependency, Job, JobSpec, require_job_name
from thaloom.kernel.state.types import Document, DocumentStatus

KIND = "Job"


class Jobs:
    """Kept where `thaloom job run` keeps them. A document that says the same is a job that was asked for already, over
    or not; one that says something else is run anew."""

    name = KIND
    no_undo = "a job that was changed or removed is not brought back: applying its document runs it anew"

    def __init__(self, desk: JobDesk, emit: Emit) -> None:
        self._desk = desk
        self._emit = emit

    async def read(self, document: Document) -> Document:
        try:
            require_job_name(document.name)
        except BadParameter as error:
            raise BadParameter(error.message, param="metadata.name") from error
        return written(KIND, read_spec(JobSpec, document))

    def get(self, name: str) -> Document | None:
        job = self._desk.find(name)
        return None if job is None else written(KIND, job.spec)

    def list(self) -> Iterator[Document]:
        for job in sorted(self._desk.store.all(), key=lambda job: job.spec.name):
            yield written(KIND, job.spec)

    async def check(self, changed: Changed) -> None:
        """Raises WrongState for one that runs, or that others wait for; and what the guard says of each."""
        put = {document.name: _spec(document) for document in changed.put}
        for document in changed.put:
            try:
                await asyncio.to_thread(
                    self._desk.guard.check, put[document.name], coming=changed.coming, gone=changed.gone
                )
                self._require_changeable(self._desk.find(document.name), put[document.name])
            except ThaloomError as error:
                error.param = place(error.param) if error.param else None
                error.details = {"subject": document.subject} | error.details
                raise
        self._refuse_rings(put)
        for name in changed.removed:
            job = self._desk.find(name)
            if job is not None and not job.state.over:
                raise WrongState(f"job/{name} is not over yet; stop it first", subject=f"job/{name}")
            left = {f"job/{other}" for other in self._desk.guard.waiting_for(name)} - changed.gone
            if left:
                raise WrongState(f"job/{name} is waited for by {', '.join(sorted(left)[:5])}", subject=f"job/{name}")

    def risk(self, *, removed: bool) -> Risk:
        return "high" if removed else "medium"

    def touches(self, name: str) -> Sequence[str]:
        return [f"job/{other}" for other in self._desk.guard.waiting_for(name)]

    def prepare(self, changed: Changed) -> None:
        """A wish needs nothing but to be written down."""

    def put(self, document: Document) -> None:
        self._desk.store.put(_spec(document))

    def remove(self, name: str) -> None:
        self._desk.store.delete(JobName(name))

    def changed(self, changed: Changed) -> None:
        for document in changed.put:
            job = self._desk.store.get(document.name)
            self._emit(JobWished(job=job.spec.name, revision=job.revision))
        for name in changed.removed:
            self._desk.remove_files(JobName(name))
            self._emit(JobForgotten(job=JobName(name)))
        self._desk.wake()

    def shown(self, name: str) -> bool:  # noqa: ARG002
        return True

    def status(self, name: str) -> DocumentStatus | None:
        job = self._desk.find(name)
        if job is None:
            return None
        state, last = job.state, job.state.last
        facts = {
            "phase": state.phase,
            "attempts": state.num_attempts,
            "failures": state.failures,
            "started_at": state.started_at,
            "ended_by": state.ended_by,
            "exit_code": None if last is None else last.exit_code,
        }
        conditions = complete(self._desk.status(name).conditions)
        return DocumentStatus(
            document=written(KIND, job.spec),
            created_at=job.created_at,
            conditions=with_since(conditions, state.since),
            facts={key: value for key, value in facts.items() if value is not None},
        )

    def _require_changeable(self, present: Job | None, wished: JobSpec) -> None:
        if present is None or present.state.phase != "running":
            return
        if dataclasses.replace(present.spec, labels=wished.labels) != wished:
            raise WrongState(f"job/{wished.name} runs; stop it before its wish is changed")

    def _refuse_rings(self, put: dict[str, JobSpec]) -> None:
        """Jobs that would wait for each other for ever. Each is looked at once."""
        through: set[str] = set()
        for name in put:
            path: list[str] = []
            left = [(name, False)]
            while left:
                job, done = left.pop()
                if done:
                    path.pop()
                    through.add(job)
                elif job in path:
                    ring = " -> ".join([*path[path.index(job) :], job])
                    raise BadParameter(
                        f"jobs wait for each other: {ring}", param="spec.depends_on", subject=f"job/{name}"
                    )
                elif job not in through:
                    path.append(job)
                    left.append((job, True))
                    left += [(each.job, False) for each in self._wished(job, put)]

    def _wished(self, name: str, put: dict[str, JobSpec]) -> Sequence[Dependency]:
        if name in put:
            return put[name].depends_on
        present = self._desk.find(name)
        return () if present is None or present.state.over else present.spec.depends_on


def _spec(document: Document) -> JobSpec:
    return read_spec(JobSpec, document)
