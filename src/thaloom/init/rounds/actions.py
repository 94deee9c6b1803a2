"""The things process one does to the machine, as data. Each is journalled before it is done and after."""

from __future__ import annotations

import dataclasses
from typing import Any

from thaloom.base.ids import DeviceId, ServiceName, WorkerId


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StartWorker:
    """A process for the service as it is wished in `revision`, with `needed_bytes` of the device promised to it."""

    service: ServiceName
    revision: int
    device: DeviceId
    needed_bytes: int
    """An estimate until the worker has told its own figures."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StopWorker:
    """Let it finish what it is answering, for at most `grace_s`; then end it."""

    worker: WorkerId
    service: ServiceName | None
    reason: str
    grace_s: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Unload:
    """Give back the memory of a service that nobody asks anything; the next request wakes it."""

    service: ServiceName
    workers: tuple[WorkerId, ...]
    """All it has."""
    reason: str
    if_idle_s: float
    """Only if nobody has asked any of them for so long, by their own word."""
    idle_s: float = 0.0
    """For how long nobody has, as far as is known here."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StartDoor:
    address: str
    """`host:port`."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StopDoor:
    door: WorkerId
    reason: str
    grace_s: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Forget:
    """Take the lease of a process that has ended out of the books, and its memory with it."""

    id: WorkerId
    service: ServiceName | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Leave a wish unmet for now, and say why. Changes nothing but what is told."""

    service: ServiceName
    reason: str
    message: str
    free_bytes: int | None = None
    """How many there were, where they are too few."""

    def says_nearly(self, other: Hold) -> bool:
        """Whether nobody needs to hear the other: the same, but for an eighth of the free bytes more or less."""
        if self.free_bytes is None or other.free_bytes is None:
            return self == other
        return self.reason == other.reason and abs(self.free_bytes - other.free_bytes) * 8 <= max(0, self.free_bytes)


Action = StartWorker | StopWorker | Unload | StartDoor | StopDoor | Forget | Hold


def to_record(action: Action) -> dict[str, Any]:
    """For the journal: JSON values only."""
    return {"action": type(action).__name__} | dataclasses.asdict(action)


def subject(action: Action) -> str:
    """Whom it concerns, for logs."""
    match action:
        case StartWorker() | Unload() | Hold():
            return action.service
        case StopWorker():
            return action.service or action.worker
        case StartDoor():
            return action.address
        case StopDoor():
            return action.door
        case Forget():
            return action.id
