"""Facts that survive a restart, and how the state of a service is told to others."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from thaloom.base.errors import BadParameter
from thaloom.base.events import Event
from thaloom.base.ids import DeviceId, ServiceName, WorkerId

Phase = Literal["pending", "loading", "ready", "failed", "stopping"]
EngineName = Literal["thaloom", "llama.cpp", "vllm", "openai", "onnx"]
"""Ours, two that a worker starts, a server that speaks the OpenAI protocol and runs already; and ONNX Runtime in the
worker, for what is no language model."""
GUESTS: frozenset[EngineName] = frozenset({"llama.cpp", "vllm", "openai"})
"""Engines in processes of their own, which are asked in text."""
ConditionKind = Literal["Ready", "Degraded", "Outdated"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSpec:
    """A wish: this model, served under this name. What is None is chosen at start and shown in the status."""

    name: ServiceName
    model: str
    """`name[:tag]` in the store; of an engine that is started, the absolute path of what it is to serve; of `openai`,
    the server's own name for it."""
    engine: EngineName = "thaloom"
    url: str | None = None
    """Where the server of engine `openai` answers, as http://127.0.0.1:8000/v1."""
    device: DeviceId | None = None
    num_threads: int | None = None
    context_length: int | None = None
    """Longest sequence in tokens; default: the model's own, at most 8,192."""
    kv_bytes: int | None = None
    """Bytes of the block pool; default: enough for 4 full contexts, at most 1 GiB."""
    max_sequences: int = 16
    """Requests in one step."""
    max_queue: int = 128
    """Requests waiting beyond that; the next one is refused with 429."""
    chunk_tokens: int = 256
    """Prefill tokens in one step, at most."""
    prefix_reuse: bool = True
    kv_dtype: Literal["f32", "f16", "bf16", "i8"] | None = None
    """How keys and values are kept; None: what fits the weights (hal.types.DType)."""
    weights: Literal["stored", "int8", "int4"] = "stored"
    """What becomes of matrices that the model stores in floats (hal.types.WeightFormat)."""
    speculation: Literal["auto", "off"] = "auto"
    """Whether guessed tokens are verified where that pays; answers are the same."""
    stretch: float = 3.0
    token_s: float = 0.05
    keep_throughput: float = 0.95
    """What running requests bear while prompts come in (kernel.sched.chunks.StepTargets): a step so many times longer,
    or so many seconds long; and how much throughput is kept where prompts are always waiting."""

    def __post_init__(self) -> None:
        for field_name in ("num_threads", "context_length", "kv_bytes", "max_sequences", "max_queue", "chunk_tokens"):
            value = getattr(self, field_name)
            if value is not None and value < 1:
                raise BadParameter(f"{field_name} must be at least 1, not {value}", param=field_name)
        if self.url is not None and self.engine != "openai":
            raise BadParameter(f"a url goes with engine 'openai', not with {self.engine!r}", param="url")
        for field_name, low, high in (("stretch", 1.0, 1e6), ("token_s", 0.0, 1e6), ("keep_throughput", 0.0, 1.0)):
            if not low <= getattr(self, field_name) <= high:  # also refuses NaN
                raise BadParameter(f"{field_name} must be between {low:g} and {high:g}", param=field_name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A wish as it is kept. `revision` grows with every change; `created_at` in seconds since the epoch."""

    spec: ServiceSpec
    created_at: float
    revision: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One thing that is or is not so, why, and since when (seconds since the epoch)."""

    kind: ConditionKind
    status: bool
    reason: str
    message: str
    since: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A process we started and mean to find again: its identity, and where it listens."""

    id: WorkerId
    role: Literal["worker", "door"]
    service: ServiceName | None
    pid: int
    start_ticks: int
    socket: str
    started_at: float
    revision: int = 0
    """Of the service it was started for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalEntry:
    """Something that was about to be done, or was done. Entries of one action share `action`."""

    id: int
    """Grows with every entry."""
    time: float
    """Seconds since the epoch."""
    action: str
    kind: str
    """What was done, as `StartWorker`."""
    phase: Literal["intent", "outcome"]
    data: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceStatus:
    """A service as it is now, for people and programs."""

    spec: ServiceSpec
    phase: Phase
    conditions: tuple[Condition, ...]
    created_at: float
    worker: WorkerId | None = None
    pid: int | None = None
    device: DeviceId | None = None
    restarts: int = 0
    weight_bytes: int | None = None
    kv_bytes: int | None = None
    resident_bytes: int | None = None
    context_length: int | None = None
    exact: bool | None = None
    operator_levels: dict[str, str] = field(default_factory=dict)
    running: int = 0
    waiting: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Where the door sends requests for one served name. `socket` is None until a worker exists."""

    name: ServiceName
    model: str
    phase: Phase
    socket: str | None
    context_length: int | None
    created_at: float
    engine: EngineName = "thaloom"
    """A foreign one is asked in text."""
    tokenizer_files: dict[str, str] = field(default_factory=dict)
    """Tokenizer, its config, generation config and template, by name: absolute paths of ready copies on disk."""
    reason: str = ""
    """Why it is not ready, for people."""
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Routes:
    """The snapshot the door works from; published whole and renamed into place, so it needs no living daemon."""

    version: int
    published_at: float
    control_socket: str
    routes: tuple[Route, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessStatus:
    """A process of the node, for people."""

    role: Literal["daemon", "door", "worker"]
    pid: int
    id: str
    service: ServiceName | None
    started_at: float
    resident_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceMemory:
    """The ledger of one device: what it may give and what is promised. `free_bytes` is below zero when overbooked."""

    device: DeviceId
    capacity_bytes: int
    reserved_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """The node as it is now. `url` is where the door listens."""

    version: str
    pid: int
    home: str
    url: str
    started_at: float
    door_pid: int | None
    door_ready: bool
    conditions: tuple[Condition, ...]
    memory: tuple[DeviceMemory, ...]
    num_models: int
    services: tuple[ServiceStatus, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PastEvent:
    """An event and when it happened (seconds since the epoch)."""

    time: float
    event: Event
