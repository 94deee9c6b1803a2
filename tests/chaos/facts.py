"""What was done to the node, and what each client saw: what the judge judges by. All times are seconds of one clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Outcome = Literal["whole", "wrong", "error", "refused", "closed", "hung"]
"""whole: to its end, every token as it was known before. wrong: it ended well, with other tokens. error: a typed one.
refused: nobody listened. closed: the connection ended in the middle. hung: no end came in time."""
HarmKind = Literal["worker", "door", "daemon", "disk", "key", "job"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """One request, as its client saw it."""

    client: str
    what: Literal["stream", "write"]
    service: str
    key: str
    """By name."""
    begun_at: float
    ended_at: float
    outcome: Outcome
    code: str = ""
    """Of a typed error."""
    told_again: bool = False
    """Whether the error said when to try again."""
    in_order: bool = True
    """Whether what came, up to where it ended, is how the known answer begins."""
    num_chars: int = 0
    words: str = ""
    """Of what went wrong, for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Worked:
    """One job that is over."""

    name: str
    wanted: int
    """The exit code its program was made to end with."""
    phase: str
    exit_code: int | None
    """Of its last attempt."""
    ended_by: str
    num_attempts: int
    begun: tuple[int, ...]
    """The numbers of the attempts that began, as the program itself wrote down."""
    ended: tuple[int, ...]
    """Likewise those that came to the program's own end."""
    words: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Harm:
    """One thing that was done to the node: a process killed, a disk filled, a key taken back."""

    kind: HarmKind
    fault: int
    """The number of the fault it is part of."""
    at: float
    """The last moment before."""
    done_at: float
    """A process: surely dead. A key: the node has said so. A disk: full."""
    over_at: float
    """From here on nothing of it is left but what it did: the disk is free again, the daemon was started again; of
    others as `done_at`."""
    service: str = ""
    """Of a worker: whom it served. Of a job: its name."""
    key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """One look at the node, begun at `at`: whether it is as wished, and if not, what is missing."""

    at: float
    missing: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        return not self.missing


@dataclass(slots=True, kw_only=True)
class Facts:
    """All of one run. Written by those who run it, on one event loop; read by the judge when it is over."""

    replicas: dict[str, int]
    requests: list[Served] = field(default_factory=list)
    jobs: list[Worked] = field(default_factory=list)
    harms: list[Harm] = field(default_factory=list)
    health: list[Health] = field(default_factory=list)
    """In order of time, some each second."""
    failures: list[str] = field(default_factory=list)
    """What others than clients found wrong."""
