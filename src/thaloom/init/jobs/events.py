"""What happens to jobs, as events."""

from __future__ import annotations

from dataclasses import dataclass

from thaloom.base.events import Event, at_level
from thaloom.base.ids import JobName
from thaloom.kernel.state.jobs.types import EndedBy, JobPhase


@dataclass(frozen=True, slots=True, kw_only=True)
class JobWished(Event):
    job: JobName
    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStarted(Event):
    job: JobName
    attempt: int
    pid: int
    """Of its reaper."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobAdopted(Event):
    """An earlier daemon had started it."""

    job: JobName
    attempt: int
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobAsked(Event):
    """To end."""

    job: JobName
    attempt: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEnded(Event):
    """It is over."""

    job: JobName
    phase: JobPhase
    by: EndedBy
    exit_code: int | None = None
    message: str = ""


@at_level("warning")
@dataclass(frozen=True, slots=True, kw_only=True)
class JobAttemptFailed(Event):
    """It is tried again after `retry_in_s`. `message`: the wall it met, or the last lines of its log."""

    job: JobName
    attempt: int
    by: EndedBy
    retry_in_s: float
    exit_code: int | None = None
    message: str = ""


@at_level("error")
@dataclass(frozen=True, slots=True, kw_only=True)
class JobFailed(Event):
    """It is over and has not succeeded."""

    job: JobName
    by: EndedBy
    attempts: int
    exit_code: int | None = None
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobForgotten(Event):
    job: JobName


@at_level("error")
@dataclass(frozen=True, slots=True, kw_only=True)
class JobStepFailed(Event):
    """It is tried again soon."""

    job: JobName
    step: str
    message: str
