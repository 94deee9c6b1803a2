"""Messages of the control API as they travel: `/thaloom/v1/*`, JSON, UTF-8.

What a caller sends is strict: an unknown field is refused by name, so a misspelt wish is never silently dropped.
What a node answers may grow new fields within v1; an older client ignores them. Sizes are bytes, durations seconds,
moments seconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from thaloom.base.access import Role, Scope
from thaloom.edge.wire.names import DRY_RUN as DRY_RUN
from thaloom.edge.wire.names import PREFIX as PREFIX

NDJSON = "application/x-ndjson"
"""Content type of the streams: one JSON message a line, the last one `done` or `error`."""

Phase = Literal["pending", "loading", "ready", "failed", "stopping"]
API_VERSION = "thaloom/v1"
"""Of documents."""
MAX_TAIL_LINES = 10_000
VIA = "1.1 thaloom-door"
"""What came over TCP, or is asked by the door for whoever came so, bears this header: not by the hand of who can open
the node's own socket."""


class Ask(BaseModel):
    """Base of what callers send."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, defer_build=True)


class Answer(BaseModel):
    """Base of what a node answers."""

    model_config = ConfigDict(extra="ignore", frozen=True, defer_build=True)


class ServeRequest(Ask):
    """Body of `PUT services/{name}`: the whole wish. What is left out is chosen at start (kernel.state.types)."""

    model: str = Field(min_length=1)
    """Of an engine that the node starts: an absolute path. Of `openai`: the server's own name for its model."""
    engine: Literal["thaloom", "llama.cpp", "vllm", "openai", "onnx", "transformers"] = "thaloom"
    url: str | None = Field(default=None, min_length=1, max_length=2048)
    """Where the server of engine `openai` answers, as `http://127.0.0.1:8000/v1`."""
    replicas: int = Field(default=1, ge=1, le=64)
    device: str | None = None
    num_threads: int | None = Field(default=None, ge=1)
    context_length: int | None = Field(default=None, ge=1)
    kv_bytes: int | None = Field(default=None, ge=1)
    max_sequences: int = Field(default=16, ge=1)
    max_queue: int = Field(default=128, ge=1)
    chunk_tokens: int = Field(default=256, ge=1)
    prefix_reuse: bool = True
    kv_dtype: Literal["f32", "f16", "bf16", "i8"] | None = None
    """How keys and values are kept; null: bf16 beside whole numbers, f16 beside 16 bits, f32 beside f32."""
    weights: Literal["stored", "int8", "int4"] = "stored"
    speculation: Literal["auto", "off"] = "auto"
    latency: Literal["interactive", "normal", "batch"] | None = None
    """Enforced or refused; null: the node's own, as far as its host can."""
    stretch: float = Field(default=3.0, ge=1, le=1e6)
    token_s: float = Field(default=0.05, ge=0, le=1e6)
    keep_throughput: float = Field(default=0.95, ge=0, le=1)
    """What becomes of matrices that the model stores in floats."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Words to name several services by. Nothing that runs depends on them."""


class Metadata(Ask):
    name: str = Field(min_length=1, max_length=128)
    labels: dict[str, str] = Field(default_factory=dict)
    version: str | None = None
    """Of the document this one was made from: where it has another by now, nothing is done. Null: whatever is there."""
    created_at: float | None = None
    """As it was told; not asked for."""


class Document(Ask):
    """The whole of what is wished for one thing."""

    apiVersion: Literal["thaloom/v1"]
    kind: str = Field(min_length=1, max_length=64)
    metadata: Metadata
    spec: dict[str, Any] = Field(default_factory=dict)
    status: dict[str, Any] | None = None
    """As it was told; not asked for."""


class ApplyRequest(Ask):
    """All of it is done, or nothing."""

    documents: list[Document] = Field(default_factory=list, max_length=1000)
    remove: list[str] = Field(default_factory=list, max_length=1000)
    """As `service/chat`."""
    prune: dict[str, str] | None = None
    """Labels, at least one: whatever bears them all and is not among the documents is removed as well."""


class HubAccess(Ask):
    """Where hubs are and who asks: what the caller's environment says. What is left out is the node's own."""

    hf_endpoint: str | None = None
    hf_token: str | None = Field(default=None, repr=False)
    ms_endpoint: str | None = None
    ms_token: str | None = Field(default=None, repr=False)
    offline: bool = False
    """Ask no hub (HF_HUB_OFFLINE)."""


class PullRequest(Ask):
    """Body of `POST models/pull`: import a folder or file of this machine, or a model that came with Thaloom, or fetch
    one from a hub. Whoever leaves ends an import; a pull from a hub goes on, and may be asked for again."""

    source: str = Field(min_length=1)
    """An absolute path (the node does not know where its caller stands), the name of a bundled model (`tiny`), or a
    hub's model: `org/name`, `hf://org/name@revision`, `ms://org/name`, `org/name:file.gguf`, its page's address."""
    name: str | None = None
    """Default: made from the source."""
    replace: bool = False
    """Whether a model of that name may be replaced; otherwise it is refused with `name_taken`."""
    hub: HubAccess = HubAccess()
    encrypt: bool | None = None
    """Whether its bytes are kept in cipher; null: as the node's settings say."""
    read_through: bool = False
    """Asked on behalf of somebody who asks this node's own hub: refused unless the node allows it."""


class ConvertRequest(Ask):
    """Body of `POST models/NAME/encrypt` and `.../decrypt`."""

    name: str | None = None
    """Default: the model itself, in its place."""
    replace: bool = False
    """Whether another model of that name may be replaced."""


class RotateRequest(Ask):
    """Body of `POST encryption/rotate`: what opens encrypted models from now on. Neither: a new key in the place of the
    key file in use. Only through the node's own socket."""

    passphrase: str | None = Field(default=None, min_length=1, max_length=1024, repr=False)
    key_file: str | None = Field(default=None, min_length=1)
    """Absolute path of a file with 32 random bytes, readable by its owner alone."""


class CopyRequest(Ask):
    """Body of `POST models/NAME/copy`: give the model a second name. No byte of it is copied."""

    name: str
    replace: bool = False
    """Whether a model of that name may be replaced; otherwise it is refused with `name_taken`."""


class QuantiseRequest(Ask):
    """Body of `POST models/NAME/quantise`: make a model in whole numbers of one in floats."""

    to: Literal["int8", "int4"]
    name: str | None = None
    """Default: the model's name with `-int8` or `-int4`."""
    replace: bool = False
    text: str | None = None
    """Absolute path of a text to measure on. Default: the sample that comes with Thaloom."""


class KeyAsk(Ask):
    """What a key may be asked to be."""

    name: str = Field(min_length=1)
    role: Role | None = None
    tenant: str | None = None
    scopes: list[Scope] | None = Field(default=None, min_length=1)
    requests_per_minute: int | None = Field(default=None, ge=1, le=10**12)
    tokens_per_minute: int | None = Field(default=None, ge=1, le=10**12)
    """Of prompts and answers together."""
    concurrent: int | None = Field(default=None, ge=1, le=10**12)
    models: list[Annotated[str, Field(min_length=1)]] | None = Field(default=None, min_length=1)
    """Names of services; null: all."""
    expires_in_s: float | None = Field(default=None, gt=0, le=1e10)


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


class KeyRequest(KeyAsk):
    """Body of `POST keys`: a key with limits. What is left out has no limit (kernel.state.types.KeyLimits); without a
    role it is a user's, and a user's without scopes is for asking models."""

    priority: Literal["high", "normal", "low"] = "normal"


class NarrowRequest(KeyAsk):
    """Body of `POST keys/{name}/narrow`: a key that may do less than that one. What is left out is as there."""

    priority: Literal["high", "normal", "low"] | None = None


class RefusedAtDoor(Ask):
    """Body of `POST access/refused`: whom a door turned away, and how many since it told of the last."""

    address: str = Field(max_length=100)
    what: str = Field(max_length=100)
    code: str = Field(max_length=100)
    message: str = Field(max_length=500)
    num: int = Field(ge=1)


class Noted(Answer):
    """It is written down."""


class Quota(Ask):
    """How much a tenant may have (kernel.state.types.Quota); null: as much as there is."""

    services: int | None = Field(default=None, ge=0, le=10**15)
    replicas: int | None = Field(default=None, ge=0, le=10**15)
    memory_bytes: int | None = Field(default=None, ge=0, le=10**15)
    keys: int | None = Field(default=None, ge=0, le=10**15)
    requests_per_minute: int | None = Field(default=None, ge=1, le=10**15)
    tokens_per_minute: int | None = Field(default=None, ge=1, le=10**15)
    concurrent: int | None = Field(default=None, ge=1, le=10**15)


class TenantRequest(Ask):
    """Body of `POST tenants`."""

    name: str = Field(min_length=1)
    quota: Quota = Quota()


class MasterKey(Answer):
    """Where the master key is from now on."""

    origin: str


class Encryption(Answer):
    """Whether this node opens encrypted models."""

    ready: bool
    origin: str | None
    problem: str | None
    """Why not."""
    ring: str | None
    """Id of the store's key ring; null: nothing was ever encrypted here."""
    opened_by: str | None
    """`key` or `passphrase`."""
    memory: str | None
    """Where the key is kept: `memfd_secret`, else `memfd`."""
    locked: bool
    """Whether that stays out of swap."""


class Certificate(Answer):
    """The certificate of the node's door. Moments in seconds since the epoch; null: there is none."""

    serving: bool
    """Whether the door speaks TLS."""
    own: bool
    """Whether the node may make and renew it; else files that config.toml names."""
    origin: str
    fingerprint: str | None
    """SHA-256, 64 hexadecimal digits: what THALOOM_FINGERPRINT pins."""
    names: list[str]
    not_before: float | None
    not_after: float | None
    issuer: str | None
    self_signed: bool
    shown: str | None
    """The fingerprint of what the door was last seen to show; null: nobody looked."""
    problem: str | None
    """Why what lies there now is not in force."""
    pem: str | None
    """The certificate and what signed it, without the key: what THALOOM_CA takes."""


class CertificateRequest(Ask):
    """`names` left out: what the machine is called; of a renewal, those the certificate has."""

    names: Annotated[list[str], Field(min_length=1, max_length=100)] | None = None
    days: Annotated[int, Field(ge=1, le=3650)] = 365


class ImportCertificateRequest(Ask):
    """Absolute paths on the node's machine. `key` left out: it is in the same file."""

    certificate: str
    key: str | None = None


class Version(Answer):
    version: str
    api: str
    python: str


class Condition(Answer):
    kind: str
    status: bool
    reason: str
    message: str
    since: float


class ServiceSpec(Answer):
    name: str
    model: str
    engine: str = "thaloom"
    url: str | None = None
    replicas: int = 1
    device: str | None
    num_threads: int | None
    context_length: int | None
    kv_bytes: int | None
    max_sequences: int
    max_queue: int
    chunk_tokens: int
    prefix_reuse: bool
    kv_dtype: str | None = None
    weights: str = "stored"
    speculation: str = "auto"
    latency: str | None = None
    stretch: float = 3.0
    token_s: float = 0.05
    keep_throughput: float = 0.95
    labels: dict[str, str] = Field(default_factory=dict)


class Service(Answer):
    """A service as it is now. A figure nobody has measured yet is null, never 0."""

    name: str
    spec: ServiceSpec
    phase: Phase
    conditions: list[Condition]
    created_at: float
    worker: str | None
    pid: int | None
    device: str | None
    restarts: int
    weight_bytes: int | None
    kv_bytes: int | None
    resident_bytes: int | None
    context_length: int | None
    exact: bool | None
    operator_levels: dict[str, str]
    running: int
    waiting: int
    ready_replicas: int = 0
    latency: str | None = None
    """The class its workers are started in."""

    def condition(self, kind: str) -> Condition | None:
        return next((condition for condition in self.conditions if condition.kind == kind), None)


class Services(Answer):
    """By name."""

    services: list[Service]
    total: int | None = None
    """How many there are, on this page or not."""
    next: str | None = None
    """`after` of the next page; null: this is the last."""


class AliasRequest(Ask):
    """Body of `PUT aliases/{name}`: the services the name stands for, each with its weight."""

    services: dict[str, int] = Field(min_length=1)
    canary: str | None = None
    """One of the services: watched, and left out as soon as it does worse than the others."""


class CanaryReturn(Ask):
    """Body of `POST aliases/{name}/return`: what a door saw of the canary of this revision."""

    revision: int = Field(ge=1)
    reason: str = Field(min_length=1, max_length=500)


class Share(Answer):
    service: str
    weight: int


class Alias(Answer):
    name: str
    shares: list[Share]
    canary: str | None
    returned: str
    """Why the canary gets no requests now; empty: it does."""
    created_at: float
    revision: int


class Aliases(Answer):
    aliases: list[Alias]


class Process(Answer):
    """A process of this node."""

    role: Literal["daemon", "door", "worker"]
    pid: int
    id: str
    service: str | None
    started_at: float
    resident_bytes: int | None


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


class ModelFile(Answer):
    path: str
    num_bytes: int
    sha256: str


class Quality(Answer):
    """Measured on one text; `mean_kl` in nats per token, of the original over this model."""

    text: str
    num_tokens: int
    perplexity: float
    original_perplexity: float
    mean_kl: float


class Quantisation(Answer):
    """What was converted, from what, and what that changed. `quality` null: not measured."""

    source: str
    original: str
    tensors: dict[str, int]
    relative_error: float
    quality: Quality | None


class ModelTensor(Answer):
    """What goes into a model that is no language model, or comes out of it. `shape`: -1 is any size."""

    name: str
    dtype: str
    shape: list[int] | None


class ModelCard(Answer):
    architecture: str
    family: str
    num_parameters: int
    dtypes: list[str]
    weight_bytes: int
    context_length: int | None
    vocab_size: int | None
    has_tokenizer: bool
    has_chat_template: bool
    license: str | None
    summary: str | None
    quantisation: Quantisation | None = None
    inputs: list[ModelTensor] = []
    outputs: list[ModelTensor] = []


class Model(Answer):
    name: str
    digest: str
    total_bytes: int
    created_at: float
    source: str
    encrypted: bool = False
    card: ModelCard
    files: list[ModelFile]


class Models(Answer):
    models: list[Model]


class UnfinishedPull(Answer):
    """What is there of a model that was not pulled to its end. `running`: it is being pulled at this moment."""

    source: str
    commit: str
    done_bytes: int
    total_bytes: int
    begun_at: float
    running: bool


class UnfinishedPulls(Answer):
    pulls: list[UnfinishedPull]


class RefusedCall(Answer):
    """A call that would have left this machine, and did not."""

    time: float
    purpose: str
    method: str
    url: str
    reason: str


class Outgoing(Answer):
    """`closed`: why nothing goes out, or null. `refused`: the latest calls that did not, the oldest first."""

    closed: str | None
    refused: list[RefusedCall]


class FileFault(Answer):
    path: str
    problem: str
    message: str


class Verification(Answer):
    """Every byte of the model was read again. Sound only if `faults` is empty."""

    name: str
    checked_bytes: int
    sound: bool
    faults: list[FileFault]


class Memory(Answer):
    """The ledger of one device: what it may give, what is promised to whom."""

    device: str
    capacity_bytes: int
    reserved_bytes: int
    free_bytes: int


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


class Event(Answer):
    time: float
    level: str
    name: str
    fields: dict[str, Any]


class Events(Answer):
    events: list[Event]


class KeyLimits(Answer):
    requests_per_minute: int | None
    tokens_per_minute: int | None
    concurrent: int | None
    models: list[str] | None
    priority: str


class Key(Answer):
    """A key as the node keeps it: not the key itself. `id` is the part of it that may be seen."""

    name: str
    id: str
    limits: KeyLimits
    created_at: float
    expires_at: float | None
    role: str = "user"
    tenant: str | None = None
    scopes: list[str] | None = None
    """None: all that the role allows."""
    parent: str | None = None
    """The key it was narrowed from: is taken back with that one, and counts against its limits."""


class NewKey(Answer):
    """`secret` is the key; it is told this once, and kept nowhere."""

    key: Key
    secret: str


class Keys(Answer):
    keys: list[Key]
    required: bool
    """Whether the door turns away who shows no key, once there is one (`require_keys` in config.toml)."""


class KeptMetadata(Answer):
    name: str
    labels: dict[str, str]
    version: str
    """What it is known by: the same as long as the document says the same."""
    created_at: float


class DocumentStatus(Answer):
    """A document as it is kept. `status` has `conditions` (type, status, reason, message, since) and what else the kind
    has to tell."""

    apiVersion: str
    kind: str
    metadata: KeptMetadata
    spec: dict[str, Any]
    status: dict[str, Any]

    def condition(self, kind: str) -> dict[str, Any] | None:
        return next((one for one in self.status["conditions"] if one["type"].lower() == kind.lower()), None)


class Documents(Answer):
    documents: list[DocumentStatus]
    total: int
    next: str | None = None
    """`after` of the next page; null: this is the last."""


class Applied(Answer):
    """Subjects, as `service/chat`. `action`: null where there was nothing to do."""

    action: str | None
    created: list[str]
    changed: list[str]
    removed: list[str]
    unchanged: list[str]


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
    """`exit`, `signal`, `memory`, `pids`, `walls`, `deadline`, `stopped`, `down`, `lost` or `not_started`; null: it
    runs."""
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


class Tenant(Answer):
    """A tenant, its quota, and what it has of it."""

    name: str
    quota: Quota
    created_at: float
    services: int
    replicas: int
    memory_bytes: int
    keys: int


class Tenants(Answer):
    tenants: list[Tenant]


class Whoami(Answer):
    """Who asks, as the node sees him."""

    name: str
    kind: str
    role: str
    scopes: list[str] | None
    """None: all."""
    way: str
    tenant: Tenant | None


class Change(Answer):
    """One thing that is or would be another. Null: it is not there before, or not after."""

    subject: str
    before: Any
    after: Any


class Plan(Answer):
    """Exactly what a request would do if it were carried out now: the answer to `dry_run=true`. `digest` is what an
    approval binds to (`plan=DIGEST`)."""

    kind: str
    parameters: dict[str, Any]
    risk: Literal["low", "medium", "high"]
    changes: list[Change]
    touches: list[str]
    undo: dict[str, Any] | None
    no_undo: str
    digest: str


class Action(Answer):
    """Something that was done to this machine, or was about to be."""

    id: str
    kind: str
    by: str
    time: float
    ended_at: float | None
    ending: Literal["running", "done", "failed", "undone", "refused"]
    subjects: list[str]
    plan: dict[str, Any]
    undo: dict[str, Any] | None
    no_undo: str
    told: dict[str, Any]
    error: dict[str, Any] | None
    undoes: str | None
    resumed: bool


class Actions(Answer):
    """Newest first."""

    actions: list[Action]


class ExplainedAction(Answer):
    """An action, and what was done to the same things since."""

    action: Action
    later: list[Action]


class ApproveRequest(Ask):
    """Body of `POST actions/approve`: leave for just this plan, once, to whoever may not carry it out by itself."""

    digest: str = Field(pattern="^[0-9a-f]{64}$")
    valid_s: float = Field(default=600.0, gt=0, le=86400)


class Approved(Answer):
    """Leave that was given for the plan of this digest, until then (seconds since the epoch)."""

    digest: str
    until: float


class Checkpoint(Answer):
    """Where the journal's chain ends. Keep it where who can write to the node cannot."""

    entry: int
    seal: str


class VerifyJournalRequest(Ask):
    """Body of `POST journal/verify`: a checkpoint that was kept elsewhere, if there is one."""

    entry: int | None = Field(default=None, ge=0)
    seal: str | None = Field(default=None, max_length=64)


class JournalFault(Answer):
    entry: int
    problem: str


class JournalReport(Answer):
    """Every entry of the journal against its seal. Sound only if `faults` is empty; nothing is known of `num_unsealed`
    entries, which are older than the chain."""

    first: int
    last: int
    num_checked: int
    num_unsealed: int
    sound: bool
    faults: list[JournalFault]


class Removed(Answer):
    """What is gone, by name."""

    name: str


class GoingDown(Answer):
    """The node has begun to stop; this process ends last."""

    pid: int


class ErrorBody(Answer):
    """A ThaloomError: `ThaloomError.from_dict` gives the same leaf back."""

    code: str
    message: str
    param: str | None = None
    retry_after_s: float | None = None
    details: dict[str, Any] = Field(default_factory=dict)
    help_page: str = ""


class ErrorReply(Answer):
    """The body of every answer with a status of 400 or more."""

    error: ErrorBody


class Progress(Answer):
    """How far a long request is. `total_bytes` is null while it is not known."""

    kind: Literal["progress"] = "progress"
    stage: str
    done_bytes: int
    total_bytes: int | None


class PullDone(Answer):
    kind: Literal["done"] = "done"
    model: Model


class VerifyDone(Answer):
    kind: Literal["done"] = "done"
    verification: Verification


class StreamError(Answer):
    """The last line of a stream that could not be ended well."""

    kind: Literal["error"] = "error"
    error: ErrorBody


def complete() -> None:
    """Make every message's validator now: for a node, which needs them all."""
    for model in (*_below(Ask), *_below(Answer)):
        model.model_config["defer_build"] = False
        model.model_rebuild()


def _below(kind: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for model in kind.__subclasses__():
        yield model
        yield from _below(model)


PullLine = Annotated[Progress | PullDone | StreamError, Field(discriminator="kind")]
VerifyLine = Annotated[Progress | VerifyDone | StreamError, Field(discriminator="kind")]
_LATER = ConfigDict(defer_build=True)
"""A validator is made when it is first used: a command uses three of them, and they take a third of its time."""
PULL_LINE: TypeAdapter[Progress | PullDone | StreamError] = TypeAdapter(PullLine, config=_LATER)
VERIFY_LINE: TypeAdapter[Progress | VerifyDone | StreamError] = TypeAdapter(VerifyLine, config=_LATER)
