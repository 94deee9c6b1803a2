"""What a worker tells the outside in typed events. Ids are fields; who reads them decides what becomes of them."""

from __future__ import annotations

from dataclasses import dataclass

from thaloom.base.events import Event, at_level


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerListening(Event):
    """The socket is there; the model is not yet."""

    worker: str
    service: str
    socket: str
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerReady(Event):
    """Requests are taken from now on."""

    worker: str
    service: str
    model: str
    device: str
    driver: str
    num_threads: int
    weight_bytes: int
    shared_weight_bytes: int
    """So many of them: in memory that others may use."""
    kv_bytes: int
    scratch_bytes: int
    context_length: int
    exact: bool
    degraded: str | None
    """Why this is not what the device could do, or None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineReady(Event):
    """A foreign engine is well: requests are taken from now on."""

    worker: str
    service: str
    engine: str
    model: str
    max_sequences: int
    context_length: int | None
    degraded: str | None
    """What it does in another way than an engine of ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PagesNotLent(Event):
    """The worker found no board of pages: it keeps to the memory that is promised to it."""

    worker: str
    service: str
    message: str


@at_level("warning")
@dataclass(frozen=True, slots=True, kw_only=True)
class TurnsNotTaken(Event):
    """The worker found no turnstile, or nonsense in it: its steps begin whatever others of its device do."""

    worker: str
    service: str
    message: str


@at_level("warning")
@dataclass(frozen=True, slots=True, kw_only=True)
class TurnMissed(Event):
    """A step began beside another's, for the turn did not come in time. Told once a minute at most."""

    worker: str
    service: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerDraining(Event):
    """No new requests; the running ones have `grace_s` left."""

    worker: str
    service: str
    grace_s: float
    running: int
    waiting: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStopped(Event):
    worker: str
    service: str
    cut_off: int
    """Requests that grace did not suffice for."""


@at_level("error")
@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerFailed(Event):
    """The process ends because of this."""

    worker: str
    service: str
    code: str
    message: str


@at_level("error")
@dataclass(frozen=True, slots=True, kw_only=True)
class StepFailed(Event):
    """A forward pass raised; the requests in it were answered with an error, the engine goes on."""

    code: str
    message: str
    requests: tuple[str, ...]


@at_level("warning")
@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderLeftBehind(Event):
    """A client did not take its tokens; its request was cancelled."""

    request: str
    tokens_behind: int


@at_level("error")
@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionFailed(Event):
    """Serving one client raised what it should not; the others go on."""

    message: str
