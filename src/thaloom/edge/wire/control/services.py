"""Services and aliases."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from thaloom.edge.wire.control.base import Answer, Ask, Condition

Phase = Literal["pending", "loading", "ready", "idle", "failed", "stopping"]


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
    kv_host_bytes: int = Field(default=0, ge=0)
    """Of the host's memory, for keys and values that leave the pool; 0: they are computed again."""
    kv_disk_bytes: int = Field(default=0, ge=0)
    """Of the node's disk, for those that leave that memory."""
    max_sequences: int = Field(default=16, ge=1)
    max_queue: int = Field(default=128, ge=1)
    chunk_tokens: int = Field(default=256, ge=1)
    prefix_reuse: bool = True
    pin_share: float = Field(default=0.5, ge=0, le=1)
    """Of the memory for keys and values that it is promised, so much may be kept for clients that ask for it."""
    kv_dtype: Literal["f32", "f16", "bf16", "i8"] | None = None
    """How keys and values are kept; null: bf16 beside whole numbers, f16 beside 16 bits, f32 beside f32."""
    weights: Literal["stored", "int8", "int4"] = "stored"
    speculation: Literal["auto", "off"] = "auto"
    latency: Literal["interactive", "normal", "batch"] | None = None
    """Enforced or refused; null: the node's own, as far as its host can."""
    keep_alive_s: float | None = Field(default=None, allow_inf_nan=False)
    """For how long it stays loaded when nobody asks it anything; below 0: always; null: the node's own."""
    priority: Literal["high", "normal", "low"] = "normal"
    """Of services that are idle, those of a lower one make room first."""
    stretch: float = Field(default=3.0, ge=1, le=1e6)
    token_s: float = Field(default=0.05, ge=0, le=1e6)
    keep_throughput: float = Field(default=0.95, ge=0, le=1)
    """What becomes of matrices that the model stores in floats."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Words to name several services by. Nothing that runs depends on them."""


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
    kv_host_bytes: int = 0
    kv_disk_bytes: int = 0
    max_sequences: int
    max_queue: int
    chunk_tokens: int
    prefix_reuse: bool
    pin_share: float = 0.5
    kv_dtype: str | None = None
    weights: str = "stored"
    speculation: str = "auto"
    latency: str | None = None
    keep_alive_s: float | None = None
    priority: str = "normal"
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
    idle_since: float | None = None
    """Since when nobody has asked it anything, loaded or not; null: it is answering, or not ready."""
    keep_alive_s: float = -1.0
    """For how long it stays loaded when nobody asks it anything, as things are; below 0: always."""
    unload_at: float | None = None
    """When it is unloaded if nobody asks it anything; null: never, it is answering, or not loaded."""

    def condition(self, kind: str) -> Condition | None:
        return next((condition for condition in self.conditions if condition.kind == kind), None)


class Services(Answer):
    """By name."""

    services: list[Service]
    total: int | None = None
    """How many there are, on this page or not."""
    next: str | None = None
    """`after` of the next page; null: this is the last."""


class KeepAliveRequest(Ask):
    """Body of `PUT services/{name}/keep-alive`: as `keep_alive_s` of the wish, until the service is unloaded."""

    seconds: float = Field(allow_inf_nan=False)


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
