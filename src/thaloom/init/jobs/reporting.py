"""How jobs stand, in words for people and programs: pure."""

from __future__ import annotations

from thaloom.init.jobs.decide import DISK_FULL, Snapshot, obstacle
from thaloom.kernel.state.jobs.types import Job, JobStatus
from thaloom.kernel.state.types import Condition

_ENDS = {
    "exit": "Failed",
    "signal": "Killed",
    "memory": "MemoryLimit",
    "pids": "ProcessLimit",
    "disk": "DiskLimit",
    "walls": "MetWall",
    "deadline": "DeadlineExceeded",
    "stopped": "Stopped",
    "down": "NodeDown",
    "lost": "Lost",
    "not_started": "NotStarted",
    "dependency": "DependencyFailed",
}
"""By what ended it: the reason of its condition."""


def conditions(job: Job, snapshot: Snapshot) -> tuple[Condition, ...]:
    """`Ready`, and `Degraded` of one that has failed and is tried again."""
    state = job.state
    found = [_ready(job, snapshot)]
    if state.failures and not state.over:
        last = next((attempt for attempt in reversed(state.attempts) if attempt.ended_by is not None), None)
        message = "" if last is None else last.message
        reason = "Retrying" if last is None or last.ended_by is None else _ENDS[last.ended_by]
        told = f"{state.failures} of {job.spec.retries + 1} attempts failed" + (f": {message}" if message else "")
        since = state.since if last is None or last.ended_at is None else last.ended_at
        found.append(Condition(kind="Degraded", status=True, reason=reason, message=told, since=since))
    return tuple(found)


def status(job: Job, snapshot: Snapshot, *, pid: int | None, memory_bytes: int | None) -> JobStatus:
    return JobStatus(job=job, conditions=conditions(job, snapshot), pid=pid, memory_bytes=memory_bytes)


def _ready(job: Job, snapshot: Snapshot) -> Condition:
    state = job.state
    good, reason, message = False, "", state.message
    match state.phase:
        case "running":
            good, reason = True, "Running"
            if state.stop_asked:
                good, reason, message = False, "Stopping", "it was asked to end"
            elif snapshot.disk_full and job.spec.name not in snapshot.runs:
                good, reason, message = False, DISK_FULL.reason, DISK_FULL.message
        case "succeeded":
            good, reason = True, "Succeeded"
        case "failed" | "stopped":
            reason = _ENDS[state.ended_by or "exit"]
        case "pending":
            why = obstacle(snapshot, job)
            reason, message = ("Starting", "") if why is None else (why.reason, why.message)
    return Condition(kind="Ready", status=good, reason=reason, message=message, since=state.since)
