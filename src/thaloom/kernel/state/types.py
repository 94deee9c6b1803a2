"""Facts that survive a restart, and how the state of a service is told to others."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any, Generic, Literal, TypeVar

from thaloom.base.access import ROLES, SCOPES, Role, Scope
from thaloom.base.errors import BadParameter
from thaloom.base.events import Event
from thaloom.base.ids import DeviceId, ServiceName, WorkerId
from thaloom.kernel.state.labels import check_labels

T = TypeVar("T")
Phase = Literal["pending", "loading", "ready", "idle", "failed", "stopping"]
EngineName = Literal["thaloom", "llama.cpp", "vllm", "openai", "onnx", "transformers"]
"""Ours; two that a worker starts; a server that speaks the OpenAI protocol and runs already; ONNX Runtime in the
worker, for what is no language model; and transformers, for architectures that are not among ours."""
OUTSIDE: frozenset[EngineName] = frozenset({"llama.cpp", "vllm", "openai"})
"""Engines whose models do not lie in the store."""
GUESTS: frozenset[EngineName] = OUTSIDE | {"transformers"}
"""Engines in processes of their own, which are asked in text."""
MAX_REPLICAS = 64
MAX_WEIGHT = 1000
DEFAULT_PIN_SHARE = 0.5
ConditionKind = Literal["Ready", "Degraded", "Outdated"]
Priority = Literal["high", "normal", "low"]


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
    replicas: int = 1
    """Workers that serve it side by side, each with all of the model."""
    device: DeviceId | None = None
    num_threads: int | None = None
    context_length: int | None = None
    """Longest sequence in tokens; default: the model's own, at most 8,192."""
    kv_bytes: int | None = None
    """Bytes of the block pool; default: enough for 4 full contexts, at most 1 GiB."""
    kv_host_bytes: int = 0
    """Of the host's memory, for keys and values that leave the pool; 0: they are forgotten, and computed again."""
    kv_disk_bytes: int = 0
    """Of the node's disk, for those that leave that memory."""
    max_sequences: int = 16
    """Requests in one step."""
    max_queue: int = 128
    """Requests waiting beyond that; the next one is refused with 429."""
    chunk_tokens: int = 256
    """Prefill tokens in one step, at most."""
    prefix_reuse: bool = True
    pin_share: float = DEFAULT_PIN_SHARE
    """Of the blocks that the pool is promised, so much may be kept for clients that ask for it; 0: nothing."""
    kv_dtype: Literal["f32", "f16", "bf16", "i8"] | None = None
    """How keys and values are kept; None: what fits the weights (hal.types.DType)."""
    weights: Literal["stored", "int8", "int4"] = "stored"
    """What becomes of matrices that the model stores in floats (hal.types.WeightFormat)."""
    speculation: Literal["auto", "off"] = "auto"
    """Whether guessed tokens are verified where that pays; answers are the same."""
    latency: Literal["interactive", "normal", "batch"] | None = None
    """How soon its workers are let onto the processors, and how much of them they get where all want more than there
    is. What is named is enforced or refused; None: the node's `[sandbox] latency`, as far as the host can."""
    keep_alive_s: float | None = None
    """For how long its workers stay when nobody asks them anything; below 0: always, and they are never unloaded to
    make room either. None: the node's `[idle] keep_alive_s`."""
    priority: Priority = "normal"
    """Of services that are idle, those of a lower one make room first."""
    stretch: float = 3.0
    token_s: float = 0.05
    keep_throughput: float = 0.95
    """What running requests bear while prompts come in (kernel.sched.chunks.StepTargets): a step so many times longer,
    or so many seconds long; and how much throughput is kept where prompts are always waiting."""
    labels: dict[str, str] = field(default_factory=dict)
    """Words that people put on it; nothing that runs depends on them."""

    def __post_init__(self) -> None:
        check_labels(self.labels)
        for field_name in ("num_threads", "context_length", "kv_bytes", "max_sequences", "max_queue", "chunk_tokens"):
            value = getattr(self, field_name)
            if value is not None and value < 1:
                raise BadParameter(f"{field_name} must be at least 1, not {value}", param=field_name)
        if self.url is not None and self.engine != "openai":
            raise BadParameter(f"a url goes with engine 'openai', not with {self.engine!r}", param="url")
        if not 1 <= self.replicas <= MAX_REPLICAS:
            raise BadParameter(f"replicas must be between 1 and {MAX_REPLICAS}, not {self.replicas}", param="replicas")
        for field_name, low, high in (
            ("stretch", 1.0, 1e6),
            ("token_s", 0.0, 1e6),
            ("keep_throughput", 0.0, 1.0),
            ("pin_share", 0.0, 1.0),
        ):
            if not low <= getattr(self, field_name) <= high:  # also refuses NaN
                raise BadParameter(f"{field_name} must be between {low:g} and {high:g}", param=field_name)
        check_keep_alive(self.keep_alive_s)
        check_tiers(self.kv_host_bytes, self.kv_disk_bytes, prefix_reuse=self.prefix_reuse)
        for field_name, neutral in (("kv_host_bytes", 0), ("pin_share", DEFAULT_PIN_SHARE)):
            if getattr(self, field_name) != neutral and self.engine != "thaloom":
                raise BadParameter(
                    f"{field_name} goes with engine 'thaloom', not with {self.engine!r}", param=field_name
                )

    @property
    def keeps_prompts(self) -> bool:
        """Whether anything can be kept for clients that ask for it."""
        return self.engine == "thaloom" and self.prefix_reuse and self.pin_share > 0


def check_tiers(kv_host_bytes: int, kv_disk_bytes: int, *, prefix_reuse: bool) -> None:
    """Raises BadParameter for room below the pool that could never hold anything."""
    for name, value in (("kv_host_bytes", kv_host_bytes), ("kv_disk_bytes", kv_disk_bytes)):
        if value < 0:
            raise BadParameter(f"{name} must not be negative, not {value}", param=name)
    if kv_disk_bytes and not kv_host_bytes:
        raise BadParameter("the way to the disk leads through kv_host_bytes, which are 0", param="kv_disk_bytes")
    if kv_host_bytes and not prefix_reuse:
        raise BadParameter("prefix_reuse is off: nothing would come back from kv_host_bytes", param="kv_host_bytes")


def check_keep_alive(seconds: float | None) -> None:
    """Raises BadParameter for what is no duration."""
    if seconds is not None and not -math.inf < seconds < math.inf:
        raise BadParameter("keep_alive_s must be a number of seconds; below 0: always", param="keep_alive_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A wish as it is kept. `revision` grows with every change that a worker must hear of; moments in seconds since the
    epoch."""

    spec: ServiceSpec
    created_at: float
    revision: int = 1
    idle_since: float | None = None
    """It has no workers, because nobody has asked it anything since then; None: it is to have them."""
    waking: bool = False
    """It was idle, is to have workers again, and has not been ready since."""
    asked_keep_alive_s: float | None = None
    """As the last request said that named one, until it is unloaded; None: none did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One thing that is or is not so, why, and since when (seconds since the epoch)."""

    kind: ConditionKind
    status: bool
    reason: str
    message: str
    since: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A wish in the form that every kind of thing has: the whole of what is wished for it."""

    kind: str
    """As `Service`."""
    name: str
    spec: dict[str, Any] = field(default_factory=dict)
    """What is left out has the kind's default."""
    labels: dict[str, str] = field(default_factory=dict)
    version: str | None = None
    """Of what is asked for: that of the document this one is to take the place of; None: whatever is there."""

    @property
    def subject(self) -> str:
        """As `service/chat`."""
        return f"{self.kind.lower()}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptDocument:
    document: Document
    created_at: float
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentStatus:
    """A document as it is kept, with its version, and how far the machine is as it wishes."""

    document: Document
    created_at: float
    conditions: tuple[Condition, ...]
    facts: dict[str, Any] = field(default_factory=dict)
    """What else there is to tell, by kind; JSON values only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[T]):
    """Some of many, in their order."""

    items: tuple[T, ...]
    total: int
    """How many there are in all."""
    next: str | None = None
    """After which one the next page begins; None: this is the last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What came of documents that were asked for: subjects, in the order in which they were given."""

    action: str | None
    """None: there was nothing to do."""
    created: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()


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
    by: str = ""
    """Who wished it; empty in what was written before that was kept."""


Ending = Literal["running", "done", "failed", "undone", "refused"]
"""failed: it was hindered, and the error says by what; undone: a killed node had written it down and not begun it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PastAction:
    """Something that was done, or was about to be: an intent and, unless it is running, its outcome."""

    id: str
    number: int
    """Of its first entry in the journal: grows with every action."""
    kind: str
    by: str
    time: float
    ended_at: float | None
    ending: Ending
    plan: dict[str, Any]
    """As base.actions.Plan.to_record; of the reconciler's own steps their record."""
    subjects: tuple[str, ...] = ()
    """What it changed or touched."""
    undo: dict[str, Any] | None = None
    no_undo: str = ""
    told: dict[str, Any] = field(default_factory=dict)
    """What came of it."""
    error: dict[str, Any] | None = None
    undoes: str | None = None
    """The action it was the undoing of."""
    resumed: bool = False
    """Whether a later daemon brought it to its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Where the journal's chain ended at some moment: its last entry and that entry's seal."""

    entry: int
    seal: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalFault:
    """Where the journal is not as it was written. `mark`: its beginning or end was moved, or the node's key is another;
    `missing`: from this entry on some are gone; `dropped`: the checkpoint is older than what is kept; `not_through`:
    the chain does not lead through the checkpoint, so it is another one."""

    entry: int
    problem: Literal["altered", "missing", "added", "mark", "dropped", "not_through"]


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalReport:
    """What a look at every entry's seal has found."""

    first: int
    last: int
    num_checked: int
    num_unsealed: int
    """Older than the chain: nobody can tell whether they are as they were written."""
    faults: tuple[JournalFault, ...] = ()


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
    """Of all its workers."""
    ready_replicas: int = 0
    latency: Literal["interactive", "normal", "batch"] | None = None
    """The class its workers are started in."""
    idle_since: float | None = None
    """Since when nobody has asked it anything, whether it is loaded or not; None: it is answering, or not ready."""
    keep_alive_s: float = -1.0
    """For how long its workers stay when nobody asks them anything, as things are; below 0: always."""
    unload_at: float | None = None
    """When they are unloaded if nobody asks them anything; None: never, they are answering, or not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Where the door sends requests for one served name. `sockets` are those of its workers that take requests; while
    none does, those of all it has."""

    name: ServiceName
    model: str
    phase: Phase
    sockets: tuple[str, ...]
    context_length: int | None
    created_at: float
    engine: EngineName = "thaloom"
    """A foreign one is asked in text."""
    tokenizer_files: dict[str, str] = field(default_factory=dict)
    """Tokenizer, its config, generation config and template, by name: absolute paths of ready copies on disk."""
    reason: str = ""
    """Why it is not ready, for people."""
    retry_after_s: float | None = None
    waking: bool = False
    """It was idle and is being started for those who ask: they wait for it."""
    keep_alive_s: float = -1.0
    """For how long it stays when nobody asks it anything, as things are; below 0: always."""
    keeps_prompts: bool = True
    """What of a prompt is to stay in its cache may; False: such wishes are not even looked at."""

    @property
    def takes_requests(self) -> bool:
        """Whether one that comes now is answered, if it takes a start."""
        return self.phase in ("ready", "idle") or (self.waking and self.phase == "loading")


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Of an alias's requests, those that go to one service: its weight among all weights. 0: none."""

    service: ServiceName
    weight: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Alias:
    """A name that stands for one or more services. With a `canary`, the doors compare what becomes of its requests with
    the others', and send it none as soon as it does worse; `returned` then says why."""

    name: ServiceName
    shares: tuple[Share, ...]
    canary: ServiceName | None = None
    returned: str = ""
    created_at: float = 0.0
    revision: int = 1

    def __post_init__(self) -> None:
        services = [share.service for share in self.shares]
        if not services or len(set(services)) < len(services):
            raise BadParameter("an alias stands for at least one service, and for each only once", param="shares")
        for share in self.shares:
            if not 0 <= share.weight <= MAX_WEIGHT:
                raise BadParameter(f"a weight is between 0 and {MAX_WEIGHT}, not {share.weight}", param="shares")
        if not any(share.weight for share in self.shares if share.service != self.canary):
            raise BadParameter("no service but the canary has a weight", param="shares")
        if self.canary is not None and self.canary not in services:
            raise BadParameter(f"the canary {self.canary!r} is none of the services", param="canary")
        if self.name in services:
            raise BadParameter(f"{self.name!r} cannot stand for itself", param="name")


@dataclass(frozen=True, slots=True, kw_only=True)
class Routes:
    """The snapshot the door works from; published whole and renamed into place, so it needs no living daemon."""

    version: int
    published_at: float
    control_socket: str
    routes: tuple[Route, ...] = ()
    aliases: tuple[Alias, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessStatus:
    """A process of the node, for people. A `standby` waits to be a worker, and has the id it will have as one."""

    role: Literal["daemon", "door", "standby", "worker"]
    pid: int
    id: str
    service: ServiceName | None
    started_at: float
    resident_bytes: int | None
    turn_held_s: float | None = None
    """How long it had the host's cores in turns, beside others that had something to do; None: it takes no turns."""
    turn_waited_s: float | None = None
    """How long it waited for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceMemory:
    """The ledger of one device: what it may give and what is promised. `free_bytes` is below zero when overbooked."""

    device: DeviceId
    capacity_bytes: int
    reserved_bytes: int
    free_bytes: int
    lent_bytes: int = 0
    """Of what is free, what workers have beyond what is promised to them, until somebody books it."""
    measured_bytes: int | None = None
    """What the system says they hold who are in the ledger; less than promised and lent where memory was not touched
    yet, more where somebody holds what nobody booked. None where nobody measures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncryptionStatus:
    """Whether the node opens encrypted models, and by what."""

    ready: bool
    origin: str | None
    """Where the master key came from."""
    problem: str | None
    ring: str | None
    opened_by: Literal["key", "passphrase"] | None
    memory: Literal["memfd_secret", "memfd"] | None
    locked: bool
    master: str | None = None
    """Which master key it is: no secret."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateStatus:
    """What the node knows of its door's certificate. Moments in seconds since the epoch; None: there is none."""

    serving: bool
    """Whether the door speaks TLS."""
    own: bool
    """Whether the node may make and renew it; else files that config.toml names."""
    origin: str
    fingerprint: str | None
    names: tuple[str, ...]
    not_before: float | None
    not_after: float | None
    issuer: str | None
    self_signed: bool
    shown: str | None
    """The fingerprint of what the door was last seen to show; None: nobody looked."""
    problem: str | None
    """Why what lies there now is not in force."""
    pem: str | None
    """The certificate and what signed it, without the key."""


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
    """The first of them, by name."""
    num_services: int = 0
    num_passes: int = 0
    """Of the reconciler, since the daemon started."""
    last_pass_s: float = 0.0
    last_pass_cpu_s: float = 0.0
    slowest_pass_s: float = 0.0
    """Of the last hundred passes."""
    standby_pid: int | None = None
    """Of the worker that waits, everything imported, for the next service that starts or heals; None: none does."""
    standby_bytes: int = 0
    """What it holds, which is given back when memory is short."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PastEvent:
    """An event and when it happened (seconds since the epoch)."""

    time: float
    event: Event


# -- what the door keeps for its clients


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptResponse:
    """An answer that can be asked for again and built upon. Times in seconds since the epoch."""

    id: str
    previous: str | None
    """The response it builds upon."""
    created_at: float
    input: list[dict[str, Any]]
    """What was said in this request alone, as items of the protocol."""
    body: dict[str, Any]
    """The response as its client got it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseJob:
    """A response that is still to be made, and the request it answers."""

    id: str
    previous: str | None
    created_at: float
    request: dict[str, Any]
    key: str | None = None
    """The name of the key it was asked with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToldEvents:
    """Some of what was told of a response as it was made, in order."""

    first: int
    """The number of the first event; they are counted from 0."""
    events: tuple[dict[str, Any], ...]
    is_all: bool
    """Nothing more will ever be told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptFile:
    id: str
    filename: str
    purpose: str
    num_bytes: int
    created_at: float
    expires_at: float | None
    """After that it is gone, as its owner wished; None: when somebody deletes it."""


BatchStatus = Literal[
    "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
]
BATCH_OVER: frozenset[BatchStatus] = frozenset({"failed", "completed", "expired", "cancelled"})


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchProblem:
    """Why a batch's input cannot be worked on. `line` from 1; None: not of one line."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptBatch:
    """Requests out of a file, answered when there is time. `<status>_at`: when it came into that status."""

    id: str
    endpoint: str
    input_file: str
    created_at: float
    expires_at: float
    """What is not answered by then is given up."""
    key: str | None = None
    """The name of the key it was asked with: its lines are answered under the limits of that."""
    status: BatchStatus = "validating"
    metadata: dict[str, str] | None = None
    output_expires_after_s: float | None = None
    in_progress_at: float | None = None
    finalizing_at: float | None = None
    completed_at: float | None = None
    failed_at: float | None = None
    expired_at: float | None = None
    cancelling_at: float | None = None
    cancelled_at: float | None = None
    problems: tuple[BatchProblem, ...] = ()
    model: str | None = None
    """The one all its requests name, if they do."""
    total: int = 0
    completed: int = 0
    failed: int = 0
    """Requests: all, answered, refused or given up."""
    output_file: str | None = None
    error_file: str | None = None
    usage: dict[str, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLine:
    """The end of one request of a batch. `line`: of the input file, from 1; `text`: a line of the output, as JSON."""

    line: int
    failed: bool
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyLimits:
    """What the holder of a key may do. None: as much as there is."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    """Of prompts and answers together."""
    concurrent: int | None = None
    """Requests being answered at the same time."""
    models: tuple[str, ...] | None = None
    """Names of services, as the door serves them."""
    priority: Priority = "normal"
    """Who comes first where requests wait."""

    def __post_init__(self) -> None:
        for field_name in ("requests_per_minute", "tokens_per_minute", "concurrent"):
            value = getattr(self, field_name)
            if value is not None and not 1 <= value <= 10**12:
                raise BadParameter(f"{field_name} must be between 1 and 10^12, not {value}", param=field_name)
        if self.models is not None and (not self.models or not all(self.models)):
            raise BadParameter("models must name at least one model; leave it out to allow all", param="models")


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessKey:
    """A key as it is kept: never the key itself. Moments in seconds since the epoch."""

    name: str
    id: str
    """The part of the key that is no secret: finds this record."""
    digest: str
    """SHA-256 of the whole key, hexadecimal: enough for 256 bits drawn at random, which nobody can try out."""
    limits: KeyLimits
    created_at: float
    expires_at: float | None = None
    role: Role = "user"
    tenant: str | None = None
    """None: of the node itself."""
    scopes: tuple[Scope, ...] | None = None
    """None: all that the role allows."""
    parent: str | None = None
    """The id of the key it was narrowed from: is taken back with that one, and counts against its limits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyWish:
    """A key that is wished for: what is None is as in its parent, or as much as there is."""

    name: str
    limits: KeyLimits
    expires_in_s: float | None = None
    role: Role | None = None
    tenant: str | None = None
    scopes: tuple[Scope, ...] | None = None
    parent: str | None = None
    """The name of the key it is narrowed from."""
    keep_priority: bool = False
    """Whether its priority is its parent's, whatever the limits say."""

    def __post_init__(self) -> None:
        if self.role is not None and self.role not in ROLES:
            raise BadParameter(f"no role {self.role!r} (there are: {', '.join(ROLES)})", param="role")
        for scope in self.scopes or ():
            if scope not in SCOPES:
                raise BadParameter(f"no scope {scope!r} (there are: {', '.join(SCOPES)})", param="scopes")
        if self.scopes is not None and not self.scopes:
            raise BadParameter("scopes must name at least one; leave it out for what is usual", param="scopes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """How much a tenant may have, all its keys together. None: as much as there is. Only what is enforced is here."""

    services: int | None = None
    replicas: int | None = None
    """Workers of all its services."""
    memory_bytes: int | None = None
    """By the ledger: what its services were admitted with, or hold, on all devices together."""
    keys: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    """Of prompts and answers together."""
    concurrent: int | None = None
    """Requests being answered at the same time."""

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if value is not None and not 0 <= value <= 10**15:
                raise BadParameter(f"{each.name} must be between 0 and 10^15, not {value}", param=f"quota.{each.name}")
        for name in ("requests_per_minute", "tokens_per_minute", "concurrent"):
            if getattr(self, name) == 0:
                raise BadParameter(f"{name} must be at least 1", param=f"quota.{name}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """Somebody who has services and keys of his own on this node, and sees no other's."""

    name: str
    quota: Quota = field(default_factory=Quota)
    created_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantUse:
    """A tenant, and what it has of its quota now."""

    tenant: Tenant
    services: int
    replicas: int
    memory_bytes: int
    keys: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """The snapshot of all keys that the door works from, published as the routes are."""

    version: int
    published_at: float
    require_keys: bool
    """Whether who has no key is refused, once there is any key."""
    keys: tuple[AccessKey, ...] = ()
    tenants: tuple[Tenant, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """How much of one of its limits a key has left now, and in how many seconds it will have all of it."""

    of: Literal["requests", "tokens"]
    limit: int
    remaining: int
    reset_s: float
