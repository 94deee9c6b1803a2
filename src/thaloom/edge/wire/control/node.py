"""The node itself: its processes, devices, memory and events."""

from __future__ import annotations

from typing import Any, Literal

from thaloom.edge.wire.control.base import Answer, Condition
from thaloom.edge.wire.control.services import Service


class Version(Answer):
    version: str
    api: str
    python: str


class Process(Answer):
    """A process of this node. A `standby` waits, everything imported, to be the next worker."""

    role: Literal["daemon", "door", "standby", "worker"]
    pid: int
    id: str
    service: str | None
    started_at: float
    resident_bytes: int | None
    turn_held_s: float | None = None
    """How long it had the host's cores in turns, beside others that had something to do; null: it takes no turns."""
    turn_waited_s: float | None = None
    """How long it waited for them."""


class Processes(Answer):
    processes: list[Process]


class Cache(Answer):
    level: int
    kind: str
    size_bytes: int
    shared_by: int


class Reading(Answer):
    """What the device reports of itself now; null is what it cannot report."""

    health: str
    memory_used_bytes: int | None
    memory_free_bytes: int | None
    utilisation: float | None
    power_mw: int | None
    temperature_c: float | None
    errors: int | None


class Device(Answer):
    id: str
    driver: str
    kind: str
    name: str
    vendor: str
    memory_bytes: int
    num_cores: int
    dtypes: list[str]
    isolation: str
    features: list[str]
    build: str | None = None
    unused: list[str] = []
    caches: list[Cache]
    numa_node: int | None
    reading: Reading | None


class AbsentDriver(Answer):
    """A driver that is installed and cannot be used, and why."""

    name: str
    reason: str


class Devices(Answer):
    devices: list[Device]
    absent: list[AbsentDriver]


class Memory(Answer):
    """The ledger of one device: what it may give, what is promised to whom."""

    device: str
    capacity_bytes: int
    reserved_bytes: int
    free_bytes: int
    lent_bytes: int = 0
    """Of what is free, what workers have beyond what is promised to them, until somebody books it."""
    measured_bytes: int | None = None
    """What the system says they hold who are in the ledger: less than promised and lent where memory was not touched
    yet. Null where nobody measures."""


class NodeStatus(Answer):
    version: str
    pid: int
    home: str
    url: str
    """Where the door listens."""
    started_at: float
    door_pid: int | None
    door_ready: bool
    conditions: list[Condition]
    memory: list[Memory]
    num_models: int
    services: list[Service]
    """The first of them, by name (all: `services`)."""
    num_services: int = 0
    num_passes: int = 0
    """Of the reconciler, since the daemon started."""
    last_pass_s: float = 0.0
    last_pass_cpu_s: float = 0.0
    slowest_pass_s: float = 0.0
    """Of the last hundred passes."""
    standby_pid: int | None = None
    """Of the worker that waits, everything imported, for the next service that starts or heals. Null: none does."""
    standby_bytes: int = 0
    """What it holds, which is given back when memory is short."""


class Event(Answer):
    time: float
    level: str
    name: str
    fields: dict[str, Any]


class Events(Answer):
    events: list[Event]


class GoingDown(Answer):
    """The node has begun to stop; this process ends last."""

    pid: int
