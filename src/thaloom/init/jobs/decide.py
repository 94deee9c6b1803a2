"""What to do next with jobs, from what is wished and what is there. Pure and level-triggered: the whole answer follows
from the present, so a lost event, a kill between two steps or a second look changes nothing.

A job that waits costs a look and no more: a pass over ten thousand of them is a few milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from thaloom.base.ids import JobName
from thaloom.base.units import format_bytes
from thaloom.init.jobs.lifecycle import End, deadline
from thaloom.kernel.state.jobs.types import OVER, EndedBy, Job, JobPhase

PATIENCE_S = 600.0
"""A job that has waited so long for memory or devices is not overtaken any more by those that need less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What is known of a job's present attempt: it runs, or `end` tells how it ended."""

    attempt: int
    end: End | None = None
    asked: bool = False
    """To end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything `decide` may know. `now` in seconds since the epoch."""

    now: float
    going_down: bool = False
    active: Mapping[JobName, Job]
    """Those that are not over, oldest first."""
    known: Mapping[JobName, Job]
    """All there are, the active among them."""
    runs: Mapping[JobName, Run] = field(default_factory=dict)
    free_bytes: int
    """Of host memory: by the ledger, and by measure."""
    free_devices: int = 0
    default_bytes: int
    """Booked for a job that asks for no amount."""
    max_running: int
    disk_full: bool = False
    """The node's own: nothing begins, or begins again, that could not write down how it ended."""
    expired: tuple[JobName, ...] = ()
    """Over, and to be forgotten if nobody waits for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Its next attempt, or again the one that was begun and of which nothing runs or ever ran."""

    job: JobName
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """Ask it to end; it is killed after its grace."""

    job: JobName
    attempt: int
    reason: Literal["stopped", "down"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Conclude:
    """Its attempt has ended."""

    job: JobName
    attempt: int
    end: End


@dataclass(frozen=True, slots=True, kw_only=True)
class Close:
    """It is over without a further attempt."""

    job: JobName
    phase: JobPhase
    by: EndedBy
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Forget:
    """With its logs and its folder."""

    job: JobName


Step = Start | Ask | Conclude | Close | Forget


@dataclass(frozen=True, slots=True, kw_only=True)
class Obstacle:
    """Why a job waits: one word and a message."""

    reason: str
    message: str


DISK_FULL = Obstacle(reason="DiskFull", message="the node's disk is full; it begins when there is room again")


def decide(snapshot: Snapshot) -> tuple[Step, ...]:
    """The steps that bring the machine nearer to what is wished; none when it is there."""
    steps = list(_of_runs(snapshot))
    if not snapshot.going_down:
        steps += _of_active(snapshot)
        if snapshot.expired:
            waited_for = {other.job for job in snapshot.active.values() for other in job.spec.depends_on}
            steps += [Forget(job=name) for name in snapshot.expired if name not in waited_for]
    return tuple(steps)


def next_look_at(snapshot: Snapshot) -> float | None:
    """When the passing of time alone can ask for something new; None: never. A running job's deadline is its reaper's
    affair."""
    now, soonest = snapshot.now, math.inf
    for job in snapshot.active.values():
        state = job.state
        if state.num_attempts and state.phase == "pending":
            for moment in (state.next_try_at, deadline(job.spec, state) or 0.0):
                if now < moment < soonest:
                    soonest = moment
    return None if soonest == math.inf else soonest


def needed_bytes(job: Job, default_bytes: int) -> int:
    asked = job.spec.resources.memory_bytes
    return default_bytes if asked is None else asked


def obstacle(snapshot: Snapshot, job: Job) -> Obstacle | None:
    """Why a pending job waits; None: nothing is in its way but its turn."""
    state = job.state
    for dependency in job.spec.depends_on:
        other = snapshot.known.get(dependency.job)
        if other is None or not other.state.over:
            return Obstacle(reason="WaitsForJob", message=f"it waits for the end of job {dependency.job!r}")
    if state.next_try_at > snapshot.now:
        wait = f"it is tried again in {state.next_try_at - snapshot.now:.1f} s"
        return Obstacle(reason="BackOff", message=f"{wait}: {state.message}" if state.message else wait)
    if snapshot.disk_full:
        return DISK_FULL
    return _short(snapshot, job, snapshot.free_bytes, snapshot.free_devices, len(snapshot.runs))


def _of_runs(snapshot: Snapshot) -> Iterator[Step]:
    for name, run in snapshot.runs.items():
        job = snapshot.active.get(name)
        if run.end is not None:
            yield Conclude(job=name, attempt=run.attempt, end=run.end)
        elif run.asked:
            continue
        elif job is None or job.state.stop_asked:
            yield Ask(job=name, attempt=run.attempt, reason="stopped")
        elif snapshot.going_down:
            yield Ask(job=name, attempt=run.attempt, reason="down")


def _never(snapshot: Snapshot, job: Job) -> str:
    for dependency in job.spec.depends_on:
        other = snapshot.known.get(dependency.job)
        if other is None:
            return f"job {dependency.job!r}, which it waits for, is gone"
        if dependency.ending == "succeeded" and other.state.phase in ("failed", "stopped"):
            return f"job {dependency.job!r}, which must succeed first, has {_past(other.state.phase)}"
    return ""


def _past(phase: JobPhase) -> str:
    return "been stopped" if phase == "stopped" else phase


def _of_active(snapshot: Snapshot) -> Iterator[Step]:
    """Oldest first: pending ones that will never begin are closed, those that can are started. One that was begun and
    does not run comes before all others: its turn it had already.

    This is the loop that every pass makes over every job that waits, so it is written to be short.
    """
    now, runs, default_bytes = snapshot.now, snapshot.runs, snapshot.default_bytes
    free_bytes, free_devices, num_free = snapshot.free_bytes, snapshot.free_devices, snapshot.max_running - len(runs)
    waiting: list[Job] = []
    for name, job in snapshot.active.items():
        state = job.state
        if state.phase == "running":
            if name in runs:
                continue
            if state.stop_asked:
                yield Conclude(job=name, attempt=state.num_attempts, end=End(by="stopped", at=now))
            elif not snapshot.disk_full:
                yield Start(job=name, attempt=state.num_attempts)
                num_free -= 1
                free_bytes -= needed_bytes(job, default_bytes)
                free_devices -= job.spec.resources.num_devices
        elif state.stop_asked:
            yield Close(job=name, phase="stopped", by="stopped", message=state.message)
        elif job.spec.depends_on and not _may_begin(snapshot, job):
            if why := _never(snapshot, job):
                yield Close(job=name, phase="failed", by="dependency", message=why)
        elif state.num_attempts and (deadline(job.spec, state) or now) < now:
            yield Close(
                job=name, phase="failed", by="deadline", message=f"it was not over in {job.spec.deadline_s:g} s"
            )
        elif state.next_try_at <= now:
            waiting.append(job)
    if snapshot.disk_full:
        return
    for job in waiting:
        if num_free <= 0:
            return
        resources = job.spec.resources
        needed = default_bytes if resources.memory_bytes is None else resources.memory_bytes
        if needed <= free_bytes and resources.num_devices <= free_devices:
            yield Start(job=job.spec.name, attempt=job.state.num_attempts + 1)
            num_free -= 1
            free_bytes -= needed
            free_devices -= resources.num_devices
        elif now - max(job.state.since, job.state.next_try_at) > PATIENCE_S:
            return


def _may_begin(snapshot: Snapshot, job: Job) -> bool:
    """As far as others are concerned."""
    for dependency in job.spec.depends_on:
        other = snapshot.known.get(dependency.job)
        if other is None:
            return False
        phase = other.state.phase
        if phase != "succeeded" and (dependency.ending == "succeeded" or phase not in OVER):
            return False
    return True


def _short(snapshot: Snapshot, job: Job, free_bytes: int, free_devices: int, num_running: int) -> Obstacle | None:
    if num_running >= snapshot.max_running:
        return Obstacle(reason="WaitsForTurn", message=f"{num_running} jobs run, which is all this node runs at once")
    needed = needed_bytes(job, snapshot.default_bytes)
    if needed > free_bytes:
        free = format_bytes(max(0, free_bytes))
        return Obstacle(reason="OutOfMemory", message=f"it needs {format_bytes(needed)}, {free} can be given now")
    devices = job.spec.resources.num_devices
    if devices > free_devices:
        return Obstacle(reason="NoFreeDevice", message=f"it needs {devices} devices, {max(0, free_devices)} are free")
    return None
