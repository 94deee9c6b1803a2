"""Jobs that are asked for, ended and forgotten."""

from __future__ import annotations

import asyncio
import dataclasses
from dataclasses import dataclass
from typing import Any

from thaloom.base.actions import Change, Plan
from thaloom.base.errors import NameTaken, WrongState
from thaloom.base.events import Emit
from thaloom.base.ids import JobName
from thaloom.init.acting.kinds import Aid, Done, Named, as_json, call
from thaloom.init.jobs.desk import JobDesk
from thaloom.init.jobs.events import JobWished
from thaloom.kernel.state.jobs.types import Job, JobSpec, JobState


@dataclass(frozen=True, slots=True, kw_only=True)
class JobWish:
    """`replace`: one of that name that is over makes place; else that is refused."""

    spec: JobSpec
    replace: bool = False
    after: int | None = None
    """One more attempt than these is wanted: how many there had been under this name when it was asked for, which tells
    a job from the same asked for again. None: it is enough that there is such a job, over or not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRemoval:
    name: str
    stop: bool = False
    """Whether one that is not over is stopped first; else that is refused."""


class RunJob:
    """`job.run`: wish for it. It begins when its turn comes."""

    name, parameters, outlives_caller = "job.run", JobWish, True

    def __init__(self, desk: JobDesk, emit: Emit) -> None:
        self._desk = desk
        self._emit = emit

    async def plan(self, given: JobWish) -> Plan:
        self._desk.require_up()
        spec, present = given.spec, self._desk.find(given.spec.name)
        await asyncio.to_thread(self._desk.guard.check, spec)
        changes: tuple[Change, ...] = ()
        if not self._is_wished(given, present):
            if present is not None:
                self._require_replaceable(given, present)
            changes = (Change(subject=_subject(spec.name), before=_record(present), after=as_record(spec)),)
        return Plan(
            call=call(self.name, given),
            risk="low" if present is None else "medium",
            changes=changes,
            touches=tuple(_subject(dependency.job) for dependency in spec.depends_on),
            undo=call(RemoveJob.name, JobRemoval(name=spec.name, stop=True)) if present is None else None,
            no_undo="" if present is None else "what became of the earlier one is overwritten",
        )

    async def apply(self, given: JobWish, _: Aid) -> Done:
        present = self._desk.find(given.spec.name)
        if not self._is_wished(given, present):
            job = self._desk.store.put(given.spec, anew=True)
            self._emit(JobWished(job=job.spec.name, revision=job.revision))
        self._desk.wake()
        return Done(told={"job": given.spec.name})

    async def holds(self, given: JobWish) -> bool:
        """Or it was so and is over, and was forgotten as it wished."""
        present = self._desk.find(given.spec.name)
        return self._is_wished(given, present) or (present is None and given.spec.ttl_s is not None)

    def _is_wished(self, given: JobWish, present: Job | None) -> bool:
        """Whether the very job asked for is there: not an earlier one of the same words that is over."""
        if present is None or present.spec != given.spec:
            return False
        return given.after is None or not present.state.over or present.state.num_attempts > given.after

    def _require_replaceable(self, given: JobWish, present: Job) -> None:
        name = given.spec.name
        if not given.replace:
            raise NameTaken(f"there is a job {name!r} already; remove or replace it, or choose another name")
        if not present.state.over:
            raise WrongState(f"job {name!r} is not over yet; stop it first", param="name")
        self._desk.guard.require_unneeded(name)


class StopJob:
    """`job.stop`: ask it to end, kill it after its grace, and try it no more."""

    name, parameters, outlives_caller = "job.stop", Named, True

    def __init__(self, desk: JobDesk) -> None:
        self._desk = desk

    async def plan(self, given: Named) -> Plan:
        job = self._desk.store.get(given.name)
        changes: tuple[Change, ...] = ()
        if not (job.state.over or job.state.stop_asked):
            changes = (Change(subject=_subject(given.name), before=job.state.phase, after="stopped"),)
        return Plan(
            call=call(self.name, given),
            risk="medium",
            changes=changes,
            touches=tuple(map(_subject, self._desk.guard.waiting_for(given.name))),
            no_undo="what was ended does not go on; run it again",
        )

    async def apply(self, given: Named, _: Aid) -> Done:
        await self._desk.stop(JobName(given.name))
        return Done()

    async def holds(self, given: Named) -> bool:
        job = self._desk.find(given.name)
        return job is None or job.state.over or job.state.stop_asked


class RemoveJob:
    """`job.remove`: forget it, with its logs and its folder."""

    name, parameters, outlives_caller = "job.remove", JobRemoval, True

    def __init__(self, desk: JobDesk) -> None:
        self._desk = desk

    async def plan(self, given: JobRemoval) -> Plan:
        job = self._desk.store.get(given.name)
        self._desk.guard.require_unneeded(given.name)
        if not (job.state.over or given.stop):
            raise WrongState(f"job {given.name!r} is not over yet; stop it first", param="name")
        gone = Change(subject=_subject(given.name), before=_record(job), after=None)
        return Plan(
            call=call(self.name, given),
            risk="high" if job.state.num_attempts else "low",
            changes=() if job.state.remove_asked else (gone,),  # else a kill meanwhile would be told as undone
            no_undo="its logs and what it left in its folder are gone; run it again",
        )

    async def apply(self, given: JobRemoval, _: Aid) -> Done:
        await self._desk.remove(JobName(given.name))
        return Done()

    async def holds(self, given: JobRemoval) -> bool:
        """It is gone, or goes by itself."""
        job = self._desk.find(given.name)
        return job is None or job.state.remove_asked


def as_record(spec: JobSpec) -> dict[str, Any]:
    record: dict[str, Any] = as_json(dataclasses.asdict(spec))
    return record


def _record(job: Job | None) -> dict[str, Any] | None:
    """What it is, and how far: what goes on by itself meanwhile is left out, so that a plan stays the same."""
    return None if job is None else as_record(job.spec) | {"attempts_before": _attempts(job.state)}


def _attempts(state: JobState) -> int:
    return state.num_attempts if state.over else 0


def _subject(name: str) -> str:
    return f"job/{name}"
