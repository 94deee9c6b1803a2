"""A job: a program that is to run to its end, and what has become of it. Moments in seconds since the epoch."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from thaloom.base.errors import BadParameter
from thaloom.base.ids import JobName
from thaloom.kernel.state.labels import check_labels
from thaloom.kernel.state.types import Condition

JobPhase = Literal["pending", "running", "succeeded", "failed", "stopped"]
"""`pending`: it waits (for other jobs, memory, a back-off, a place) and was perhaps tried before."""
OVER: frozenset[JobPhase] = frozenset({"succeeded", "failed", "stopped"})
JobNetwork = Literal["none", "loopback", "host"]
Endings = Literal["succeeded", "ended"]
EndedBy = Literal[
    "exit", "signal", "memory", "pids", "disk", "walls", "deadline", "stopped", "down", "lost", "not_started",
    "dependency",
]  # fmt: skip
"""What ended an attempt, or kept it from beginning.

`exit`: its own end. `signal`: one that nobody here sent. `memory`, `pids`, `disk`, `walls`: the wall it met. `stopped`:
somebody asked. `down`: the node ended. `lost`: what kept it was killed, or the machine lost power. `not_started`: there
was no such program, or a wall could not be built. `dependency`: a job it waits for came to another end.
"""

ATTEMPTS_KEPT = 10
MAX_COMMAND_BYTES = 64 << 10
MAX_ENVIRONMENT_BYTES = 32 << 10
MAX_DEPENDENCIES = 100
MAX_WORKSPACES = 32
LONGEST_S = 366 * 86_400.0

_NAME = re.compile(r"[a-z0-9][A-Za-z0-9._-]{0,62}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET = re.compile(r"file:/.+|credential:[A-Za-z0-9._-]+|env:[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependency:
    """Another job that must have ended before, in this way."""

    job: JobName
    ending: Endings = "succeeded"
    """`ended`: in whatever way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResources:
    """What it may use. What is None is the node's to choose, and held to where the host can; what is given is enforced,
    or the job is refused."""

    memory_bytes: int | None = None
    """Booked in the ledger while it runs, and its limit."""
    cpu_permille: int | None = None
    """Of one processor: 1500 is one and a half."""
    num_pids: int | None = None
    """Processes and threads."""
    disk_bytes: int | None = None
    """Of its own folder, which is then a file system of that size: taken whole, and only where it runs in that folder.
    What it may write elsewhere does not count."""
    num_devices: int = 0
    """Accelerators for itself alone."""

    def __post_init__(self) -> None:
        for name, least, most in (
            ("memory_bytes", 1 << 20, 1 << 60),
            ("cpu_permille", 1, 10**7),
            ("num_pids", 1, 1 << 22),
            ("disk_bytes", 16 << 20, 1 << 60),
            ("num_devices", 0, 1024),
        ):
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise BadParameter(f"{name} must be between {least} and {most}, not {value}", param=name)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """A wish: this program, run to its end."""

    name: JobName
    command: tuple[str, ...]
    """The program and its arguments; nothing is a shell's to read. A program without a slash is looked for on PATH."""
    env: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)
    """Variable -> where its value is read when it starts: `file:/path`, `credential:NAME` (of systemd) or `env:NAME`
    (of the daemon). The value is kept nowhere."""
    directory: str | None = None
    """Where it runs, and may write: an absolute path. None: a folder of its own, which goes with the job."""
    read: tuple[str, ...] = ()
    """Absolute paths it may read, besides the system's programs and libraries."""
    write: tuple[str, ...] = ()
    """Absolute paths it may write, which are there."""
    whole_host: bool = False
    """It may read all of the host but secrets and the node's own files."""
    resources: JobResources = field(default_factory=JobResources)
    network: JobNetwork = "none"
    retries: int = 0
    """How often it is tried again after a failure."""
    retry_codes: tuple[int, ...] | None = None
    """Only after these exit codes, and after no signal or wall; None: after any failure."""
    backoff_s: float = 1.0
    """Wait before the first retry; doubled each time."""
    max_backoff_s: float = 300.0
    deadline_s: float | None = None
    """From its first start to its end, all retries included."""
    grace_s: float = 10.0
    """Between SIGTERM and SIGKILL when it is stopped."""
    ttl_s: float | None = None
    """How long after its end it is forgotten, with its logs and its folder; None: when somebody removes it."""
    depends_on: tuple[Dependency, ...] = ()
    workspaces: tuple[str, ...] = ()
    """Names of workspaces, which it may write: each lies at the path in THALOOM_WORKSPACE_<NAME>."""
    labels: dict[str, str] = field(default_factory=dict)
    """Words that people put on it; nothing that runs depends on them."""

    def __post_init__(self) -> None:
        check_labels(self.labels)
        require_job_name(self.name)
        self._check_command()
        self._check_environment()
        if self.retry_codes == () or any(code not in range(1, 256) for code in self.retry_codes or ()):
            raise BadParameter("retry_codes must be between 1 and 255, and at least one", param="retry_codes")
        for name, low, high in (
            ("retries", 0, 1_000_000),
            ("backoff_s", 0.0, LONGEST_S),
            ("max_backoff_s", 0.0, LONGEST_S),
            ("grace_s", 0.0, 3600.0),
        ):
            if not low <= getattr(self, name) <= high:  # also refuses NaN
                raise BadParameter(f"{name} must be between {low:g} and {high:g}", param=name)
        for name, least in (("deadline_s", 0.001), ("ttl_s", 0.0)):
            value = getattr(self, name)
            if value is not None and not least <= value <= LONGEST_S:
                raise BadParameter(f"{name} must be between {least:g} and {LONGEST_S:g} seconds", param=name)
        if self.resources.disk_bytes is not None and self.directory is not None:
            raise BadParameter("disk_bytes holds a folder of its own, and no directory of the host", param="disk_bytes")
        for path in (*self.read, *self.write, *([] if self.directory is None else [self.directory])):
            if not path.startswith("/") or "\0" in path:
                raise BadParameter(f"a path must be absolute, not {path!r}", param="directory")
        variables = [workspace_variable(each) for each in self.workspaces]
        if len(set(variables)) < len(variables) or len(variables) > MAX_WORKSPACES or not all(self.workspaces):
            raise BadParameter(
                f"a job has at most {MAX_WORKSPACES} workspaces, whose names differ in letters and digits",
                param="workspaces",
            )
        names = [each.job for each in self.depends_on]
        if len(set(names)) < len(names) or self.name in names or len(names) > MAX_DEPENDENCIES:
            raise BadParameter(
                f"a job depends on others, on each once, and on at most {MAX_DEPENDENCIES}", param="depends_on"
            )

    def _check_command(self) -> None:
        if not self.command or not self.command[0]:
            raise BadParameter("a job needs a command", param="command")
        if any("\0" in word for word in self.command):
            raise BadParameter("no word of a command may hold a zero byte", param="command")
        if sum(len(word.encode("utf-8", "surrogateescape")) + 1 for word in self.command) > MAX_COMMAND_BYTES:
            raise BadParameter(f"a command may have at most {MAX_COMMAND_BYTES} bytes", param="command")

    def _check_environment(self) -> None:
        for param, names in (("env", self.env), ("secrets", self.secrets)):
            for name, value in names.items():
                if not _VARIABLE.fullmatch(name) or "\0" in value:
                    raise BadParameter(f"not a variable: {name!r}", param=param)
        if both := self.env.keys() & self.secrets.keys():
            raise BadParameter(f"{min(both)!r} is both a variable and a secret", param="secrets")
        for reference in self.secrets.values():
            if not _SECRET.fullmatch(reference):
                raise BadParameter(
                    "a secret is given by where it is: file:/path, credential:NAME or env:NAME", param="secrets"
                )
        size = sum(len(f"{name}={value}".encode("utf-8", "surrogateescape")) + 1 for name, value in self.env.items())
        if size > MAX_ENVIRONMENT_BYTES:
            raise BadParameter(f"variables may have at most {MAX_ENVIRONMENT_BYTES} bytes in all", param="env")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobAttempt:
    """One run of the program. `ended_at` is None while it runs."""

    number: int
    """From 1; never used again, even if the job is run anew."""
    started_at: float
    ended_at: float | None = None
    ended_by: EndedBy | None = None
    exit_code: int | None = None
    signal: int | None = None
    """What ended it, if a signal did."""
    message: str = ""
    """Why, or the last lines of its log."""
    devices: tuple[str, ...] = ()
    """Those it has for itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobState:
    """What has become of a job."""

    phase: JobPhase = "pending"
    since: float
    """When it came into this phase."""
    ended_by: EndedBy | None = None
    """Once it is over."""
    message: str = ""
    num_attempts: int = 0
    """All there ever were under this name."""
    failures: int = 0
    """Those that count against its retries."""
    next_try_at: float = 0.0
    started_at: float | None = None
    """The first time, since it was last asked for."""
    stop_asked: bool = False
    """Whether it is to end and not to be tried again."""
    remove_asked: bool = False
    """Whether it is to be forgotten as soon as it is over."""
    attempts: tuple[JobAttempt, ...] = ()
    """The last of them; one that runs is the last."""

    @property
    def over(self) -> bool:
        return self.phase in OVER

    @property
    def last(self) -> JobAttempt | None:
        return self.attempts[-1] if self.attempts else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A wish as it is kept, with what has become of it. `revision` grows with every change of the wish."""

    spec: JobSpec
    state: JobState
    created_at: float
    revision: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatus:
    """A job as it is now, for people and programs."""

    job: Job
    conditions: tuple[Condition, ...]
    """`Ready`: it runs or has succeeded; else why not. `Degraded`: it failed and is tried again."""
    pid: int | None = None
    memory_bytes: int | None = None
    """What it uses now, where that is counted."""


def workspace_variable(workspace: str) -> str:
    """The variable in which a job finds the path of a workspace: THALOOM_WORKSPACE_DATA of `data`."""
    return "THALOOM_WORKSPACE_" + re.sub(r"[^A-Z0-9]", "_", workspace.upper())


def require_job_name(name: str) -> None:
    """Raises BadParameter."""
    if not _NAME.fullmatch(name) or ".." in name:
        raise BadParameter(f"not a name for a job: {name!r} (letters, digits, '.', '_', '-')", param="name")
