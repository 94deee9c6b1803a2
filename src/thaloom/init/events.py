"""What process one does, as events."""

from __future__ import annotations

from dataclasses import dataclass

from thaloom.base.events import Event, at_level
from thaloom.base.ids import ServiceName, WorkerId


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStarted(Event):
    version: str
    pid: int
    home: str
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStopping(Event):
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStopped(Event):
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceWished(Event):
    service: ServiceName
    model: str
    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceRemoved(Event):
    service: ServiceName


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceUnloaded(Event):
    """Nobody asked it anything for `idle_s`; its memory comes back, and the next request wakes it."""

    service: ServiceName
    reason: str
    idle_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceKept(Event):
    """It was about to be unloaded, and was asked something in that moment."""

    service: ServiceName


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceWoken(Event):
    """It was idle and is started again. `idle_s`: for how long nobody had asked it anything."""

    service: ServiceName
    reason: str
    idle_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasWished(Event):
    alias: ServiceName
    services: tuple[str, ...]
    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasRemoved(Event):
    alias: ServiceName


@at_level("warning")
@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryGone(Event):
    """A new version did worse, by what a door saw: its share is back with the others."""

    alias: ServiceName
    service: ServiceName
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigReloaded(Event):
    """config.toml was read again. What is in `need_restart` differs from what is in force, and stays so until then."""

    changed: tuple[str, ...]
    need_restart: tuple[str, ...]


@at_level("error")
@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigRefused(Event):
    """config.toml could not be read again; the old settings stay in force."""

    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLeft(Event):
    """The daemon ends and everything goes on without it, for the next one to take over."""

    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateChanged(Event):
    """The door's certificate is another from now on. None: there is none any more."""

    fingerprint: str | None
    not_after: float | None


@at_level("warning")
@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateExpiring(Event):
    """The door's certificate soon holds no longer, or does not now."""

    fingerprint: str
    not_after: float
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MasterKeyChanged(Event):
    """Encrypted models are opened by another master key from now on."""

    origin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyMade(Event):
    """Somebody may come in at the door. `id`: the part of the key that is no secret."""

    key: str
    id: str
    expires_at: float | None
    role: str = "user"
    tenant: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRemoved(Event):
    key: str


@at_level("warning")
@dataclass(frozen=True, slots=True, kw_only=True)
class AccessRefused(Event):
    """Somebody asked what he may not. `untold`: refusals since the last that was told."""

    who: str
    what: str
    code: str
    message: str
    untold: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PullBegun(Event):
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PullEnded(Event):
    """With a model, or with the code and the words of what kept it from coming."""

    source: str
    model: str | None
    code: str | None
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessStarted(Event):
    role: str
    id: WorkerId
    pid: int
    service: ServiceName | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessAdopted(Event):
    """A process of an earlier daemon goes on under this one."""

    role: str
    id: WorkerId
    pid: int
    service: ServiceName | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessReady(Event):
    role: str
    id: WorkerId
    pid: int
    after_s: float
    service: ServiceName | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessStopped(Event):
    """It ended because we asked. `killed`: it did not end by itself in its time, and was killed."""

    role: str
    id: WorkerId
    pid: int
    reason: str
    service: ServiceName | None = None
    killed: bool = False


@at_level("warning")
@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessLost(Event):
    """It ended and nobody had asked. It is started again after `retry_in_s` (None: when the wish changes). `reason`:
    the error it left, the wall it met, or `Crashed`."""

    role: str
    id: WorkerId
    pid: int
    failures: int
    retry_in_s: float | None
    service: ServiceName | None = None
    reason: str = ""
    last_words: str = ""


@at_level("warning")
@dataclass(frozen=True, slots=True, kw_only=True)
class OrphansEnded(Event):
    """What ran in groups of this node that nobody owned any more."""

    groups: tuple[str, ...]


@at_level("warning")
@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatLate(Event):
    """A worker does not answer. It is left alone: work that runs is not hurt by a silent control plane."""

    service: ServiceName | None
    worker: WorkerId
    silent_s: float


@at_level("warning")
@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceHeld(Event):
    """A wish that cannot be met now, and why."""

    service: ServiceName
    reason: str
    message: str


@at_level("error")
@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceFailing(Event):
    """The worker of a service cannot start."""

    service: ServiceName
    failures: int
    message: str


@at_level("error")
@dataclass(frozen=True, slots=True, kw_only=True)
class ActionFailed(Event):
    action: str
    subject: str
    message: str


@at_level("error")
@dataclass(frozen=True, slots=True, kw_only=True)
class RoundFailed(Event):
    """A round of the reconciler ended in an error of ours. The next round begins anew."""

    failures: int
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedWeightsDropped(Event):
    """Packed weights that no worker used any more were given back to the host."""

    weights: str
    """The name of the memory file: the model's digest is in it."""
    num_bytes: int
    idle_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StandbyReady(Event):
    """A worker waits for the next that is to be started."""

    id: WorkerId
    pid: int
    after_s: float
    resident_bytes: int


@at_level("warning")
@dataclass(frozen=True, slots=True, kw_only=True)
class StandbyLost(Event):
    """The worker that waits could not be started, or ended by itself; the next is tried after `retry_in_s`."""

    reason: str
    retry_in_s: float


@at_level("warning")
@dataclass(frozen=True, slots=True, kw_only=True)
class StandbyUnused(Event):
    """The worker that waited could not become this one, which was started the usual way instead."""

    worker: WorkerId
    reason: str
