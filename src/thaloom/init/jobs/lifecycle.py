"""What becomes of a job when something happens to it: pure. A state and an event in, the next state out."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from thaloom.kernel.state.jobs.types import ATTEMPTS_KEPT, EndedBy, JobAttempt, JobPhase, JobSpec, JobState


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How an attempt ended."""

    by: EndedBy
    at: float
    exit_code: int | None = None
    signal: int | None = None
    message: str = ""

    @property
    def succeeded(self) -> bool:
        return self.by == "exit" and self.exit_code == 0


NOT_COUNTED: frozenset[EndedBy] = frozenset({"down"})
"""Ends that say nothing about the job."""
NEVER_AGAIN: frozenset[EndedBy] = frozenset({"deadline", "stopped"})


def begun(state: JobState, now: float, devices: tuple[str, ...] = ()) -> JobState:
    """Its next attempt begins: written down before anything is started."""
    number = state.num_attempts + 1
    attempt = JobAttempt(number=number, started_at=now, devices=devices)
    return dataclasses.replace(
        state,
        phase="running",
        since=now,
        ended_by=None,
        message="",
        num_attempts=number,
        next_try_at=0.0,
        started_at=now if state.started_at is None else state.started_at,
        attempts=(*state.attempts, attempt)[-ATTEMPTS_KEPT:],
    )


def ended(spec: JobSpec, state: JobState, end: End) -> JobState:
    """Its attempt has ended: it is over, or waits to be tried again."""
    attempt = dataclasses.replace(
        state.attempts[-1],
        ended_at=end.at,
        ended_by=end.by,
        exit_code=end.exit_code,
        signal=end.signal,
        message=end.message,
    )
    state = dataclasses.replace(state, attempts=(*state.attempts[:-1], attempt))
    if end.succeeded:
        return over(state, "succeeded", "exit", end.at, end.message)
    if end.by == "stopped" or state.stop_asked:
        return over(state, "stopped", "stopped", end.at, end.message)
    failures = state.failures + (end.by not in NOT_COUNTED)
    state = dataclasses.replace(state, failures=failures)
    next_try_at = end.at + (0.0 if end.by in NOT_COUNTED else wait_s(spec, failures))
    if not _again(spec, end, failures):
        return over(state, "failed", end.by, end.at, end.message)
    return dataclasses.replace(state, phase="pending", since=end.at, message=end.message, next_try_at=next_try_at)


def over(state: JobState, phase: JobPhase, by: EndedBy, now: float, message: str = "") -> JobState:
    """It ends here."""
    return dataclasses.replace(state, phase=phase, since=now, ended_by=by, message=message, next_try_at=0.0)


def wait_s(spec: JobSpec, failures: int) -> float:
    """Before it is tried again, after so many failures."""
    return min(spec.max_backoff_s, spec.backoff_s * 2.0 ** min(failures - 1, 60))


def deadline(spec: JobSpec, state: JobState) -> float | None:
    """When it must be over."""
    if spec.deadline_s is None or state.started_at is None:
        return None
    return state.started_at + spec.deadline_s


def _again(spec: JobSpec, end: End, failures: int) -> bool:
    if end.by in NOT_COUNTED:
        return True
    if end.by in NEVER_AGAIN or failures > spec.retries:
        return False
    return spec.retry_codes is None or (end.by == "exit" and end.exit_code in spec.retry_codes)
