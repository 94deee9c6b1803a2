"""Jobs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from thaloom.edge.wire.control.base import Answer, Ask, Condition


class JobDependency(Ask):
    """Another job that must have ended before; `ended`: in whatever way."""

    job: str = Field(min_length=1)
    ending: Literal["succeeded", "ended"] = "succeeded"


class JobResources(Ask):
    """What a job may use. What is given is enforced, or the job is refused."""

    memory_bytes: int | None = Field(default=None, ge=16 << 20)
    cpu_permille: int | None = Field(default=None, ge=1)
    """Of one processor: 1500 is one and a half."""
    num_pids: int | None = Field(default=None, ge=1)
    disk_bytes: int | None = Field(default=None, ge=16 << 20)
    """Of its own folder, which is then a disk of that size; not with `directory`."""
    num_devices: int = Field(default=0, ge=0)
    """Accelerators for itself alone."""


class JobRequest(Ask):
    """Body of `PUT jobs/{name}`: a program to be run to its end (kernel.state.jobs.types.JobSpec)."""

    command: list[str] = Field(min_length=1)
    env: dict[str, str] = {}
    secrets: dict[str, str] = {}
    """Variable -> where its value is read at the start: `file:/path`, `credential:NAME` or `env:NAME`."""
    directory: str | None = None
    """Where it runs, and may write: an absolute path. Null: a folder of its own, which goes with the job."""
    read: list[str] = []
    write: list[str] = []
    whole_host: bool = False
    resources: JobResources = JobResources()
    network: Literal["none", "loopback", "host"] = "none"
    retries: int = Field(default=0, ge=0)
    retry_codes: list[int] | None = None
    backoff_s: float = Field(default=1.0, ge=0)
    max_backoff_s: float = Field(default=300.0, ge=0)
    deadline_s: float | None = Field(default=None, gt=0)
    """From its first start to its end, all retries included."""
    grace_s: float = Field(default=10.0, ge=0)
    ttl_s: float | None = Field(default=None, ge=0)
    depends_on: list[JobDependency] = []
    workspaces: list[str] = []
    """Names: each lies at the path in the variable THALOOM_WORKSPACE_<NAME>, and may be written."""
    labels: dict[str, str] = {}
    replace: bool = False
    """Whether one of that name that is over makes place; otherwise that is refused with `name_taken`."""


class JobSpec(Answer):
    """What was asked for (JobRequest)."""

    command: list[str]
    env: dict[str, str]
    secrets: dict[str, str]
    directory: str | None
    read: list[str]
    write: list[str]
    whole_host: bool
    resources: JobResources
    network: str
    retries: int
    retry_codes: list[int] | None
    backoff_s: float
    max_backoff_s: float
    deadline_s: float | None
    grace_s: float
    ttl_s: float | None
    depends_on: list[JobDependency]
    workspaces: list[str] = []
    labels: dict[str, str] = {}


class JobAttempt(Answer):
    """One run of the program."""

    number: int
    started_at: float
    ended_at: float | None
    ended_by: str | None
    """`exit`, `signal`, `memory`, `pids`, `disk`, `walls`, `deadline`, `stopped`, `down`, `lost` or `not_started`;
    null: it runs."""
    exit_code: int | None
    signal: int | None
    message: str
    """Why, or the last lines of its log."""
    devices: list[str]


class Job(Answer):
    """A job as it is now."""

    name: str
    phase: Literal["pending", "running", "succeeded", "failed", "stopped"]
    since: float
    ended_by: str | None
    """Once it is over; of one that never ran, `dependency` too."""
    message: str
    created_at: float
    revision: int
    started_at: float | None
    next_try_at: float
    """Of one that waits to be tried again."""
    num_attempts: int
    failures: int
    stop_asked: bool
    pid: int | None
    memory_bytes: int | None
    conditions: list[Condition]
    attempts: list[JobAttempt]
    """The last of them."""
    spec: JobSpec

    @property
    def over(self) -> bool:
        return self.phase in ("succeeded", "failed", "stopped")


class Jobs(Answer):
    """Newest first; `counts`: how many there are in each phase, listed or not."""

    jobs: list[Job]
    counts: dict[str, int]
