"""Messages of Ollama's protocol as they travel: `/api/*`, JSON, streams as one JSON object a line.

What callers send is checked for types and ranges, and unknown fields are let pass, as existing clients expect. Fields
and options that would change an answer and are not served are in `UNSERVED` and `UNSERVED_OPTIONS`: refused by name
unless they ask for nothing. Durations are nanoseconds.
Source: Ollama's API reference (docs/api.md), its server's routes, and the types of its Python client (0.6).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from thaloom.edge.wire.common import Answer, Ask

API_VERSION = "0.12.11"
"""Of Ollama's API as it is spoken here (the newest whose fields are all known: `logprobs`). Clients compare it."""
NDJSON = "application/x-ndjson"
MAX_STOPS = 64
MAX_TOP_LOGPROBS = 20
MAX_INPUTS = 2048
"""Texts in one request for embeddings."""
_DURATION = r"^[+-]?(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+$|^[+-]?[0-9]+$"


KeepAlive = Annotated[str, Field(pattern=_DURATION, max_length=64)] | int | float
"""How long a model stays loaded after the request, and after those that say nothing of it: a duration, or seconds;
below 0: always."""
NAME = (
    r"^([A-Za-z0-9][A-Za-z0-9._-]*(:[0-9]{1,5})?/)?([A-Za-z0-9_][A-Za-z0-9._-]*/)?"
    r"[A-Za-z0-9_][A-Za-z0-9._-]*(:[A-Za-z0-9_][A-Za-z0-9._-]*)?$"
)
"""`[host/][namespace/]model[:tag]`."""
Name = Annotated[str, Field(max_length=256, pattern=NAME)]


class Options(Ask):
    """How the answer is made. Options of Ollama's engine about where and how to run (`num_ctx`, `num_gpu` ...) are let
    pass: no prompt is ever cut to a length, one that does not fit is refused with both lengths."""

    num_predict: Annotated[int, Field(ge=-(2**31), lt=2**31)] | None = None
    """Most tokens of the answer; 0 or less: until the model ends it or the context is full."""
    temperature: float | None = Field(default=None, ge=0, le=100)
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] | None = None
    top_p: float | None = Field(default=None, ge=0, le=1)
    min_p: float | None = Field(default=None, ge=0, le=1)
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)] | None = None
    """-1: drawn afresh."""
    stop: str | list[str] | None = None
    repeat_penalty: float | None = Field(default=None, ge=0.01, le=100)
    """Of every token of the prompt and the answer so far, whatever their distance."""
    repeat_last_n: Annotated[int, Field(ge=-1, lt=2**31)] | None = None
    """0 turns `repeat_penalty` off, -1 is all; a window between is refused if there is a penalty."""
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    num_ctx: Annotated[int, Field(ge=0, lt=2**31)] | None = None


UNSERVED_OPTIONS: dict[str, tuple[Any, ...]] = {
    # name: the values that ask for nothing (null always does)
    "tfs_z": (1,),
    "typical_p": (1, 0),
    "mirostat": (0,),
    "penalize_newline": (True,),
}
UNSERVED: dict[str, tuple[Any, ...]] = {
    "suffix": ("",),
    "template": ("",),
    "context": ([],),
    "images": ([],),
    "width": (0,),
    "height": (0,),
    "steps": (0,),
}


class GenerationFields(Ask):
    """What both generating routes share."""

    model: Name
    stream: bool | None = None
    """As if true where it is left out."""
    format: Literal["", "json"] | dict[str, Any] | None = None
    """`json`, or a JSON schema the answer has to follow."""
    options: Options | None = None
    keep_alive: KeepAlive | None = None
    think: bool | Literal["low", "medium", "high", "max"] | None = None
    """Told to the model's template; left out, the template's own way."""
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None


class GenerateRequest(GenerationFields):
    prompt: str | None = None
    system: str | None = None
    raw: bool | None = None
    """The prompt is complete as it is: no template."""


class CalledFunction(Ask):
    name: str = Field(min_length=1)
    arguments: dict[str, Any] = Field(default_factory=dict)


class ToolCall(Ask):
    id: str | None = None
    function: CalledFunction


class Message(Ask):
    role: Annotated[
        Literal["system", "user", "assistant", "tool"],
        BeforeValidator(lambda role: role.lower() if isinstance(role, str) else role),
    ]
    content: str | None = None
    thinking: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class Function(Ask):
    name: str = Field(min_length=1, max_length=256)
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(Ask):
    type: Literal["function"] | None = None
    function: Function


class ChatRequest(GenerationFields):
    messages: list[Message] | None = Field(default=None, max_length=100_000)
    """None, or nothing in it: load the model, or with `keep_alive` 0 unload it."""
    tools: list[Tool] | None = None


class EmbedRequest(Ask):
    model: Name
    input: str | Annotated[list[str], Field(max_length=MAX_INPUTS)] | None = None
    truncate: bool | None = None
    """Let pass, and not done: a text that does not fit is refused with both lengths."""
    dimensions: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    keep_alive: KeepAlive | None = None


class EmbeddingsRequest(Ask):
    model: Name
    prompt: str | None = None
    keep_alive: KeepAlive | None = None


class NamedRequest(Ask):
    """Of show and delete. `name` is read where there is no `model`: it was called so before."""

    model: Name


class PullRequest(NamedRequest):
    stream: bool | None = None
    insecure: bool | None = None
    """Let pass: how a hub is reached is the node's affair."""


class CopyRequest(Ask):
    source: Name
    destination: Name


# -- answers


class Metrics(Answer):
    total_duration: int | None = None
    load_duration: int | None = None
    prompt_eval_count: int | None = None
    prompt_eval_duration: int | None = None
    eval_count: int | None = None
    eval_duration: int | None = None


class TokenLogprob(Answer):
    token: str
    logprob: float
    bytes: list[int] | None = None


class Logprob(TokenLogprob):
    top_logprobs: list[TokenLogprob] | None = None


DoneReason = Literal["stop", "length", "load", "unload"]


class AnsweredFunction(Answer):
    index: int
    name: str
    arguments: dict[str, Any]


class AnsweredCall(Answer):
    id: str
    function: AnsweredFunction


class Generated(Metrics):
    """The answer of `/api/generate`, or one line of it: those before the last say `done` false and a piece."""

    model: str
    created_at: str
    response: str
    thinking: str | None = None
    tool_calls: list[AnsweredCall] | None = None
    done: bool
    done_reason: DoneReason | None = None
    logprobs: list[Logprob] | None = None


class AnswerMessage(Answer):
    role: Literal["assistant"]
    content: str
    thinking: str | None = None
    tool_calls: list[AnsweredCall] | None = None


class Chat(Metrics):
    """The answer of `/api/chat`, or one line of it."""

    model: str
    created_at: str
    message: AnswerMessage
    done: bool
    done_reason: DoneReason | None = None
    logprobs: list[Logprob] | None = None


class Embedded(Answer):
    model: str
    embeddings: list[list[float]]
    total_duration: int | None = None
    load_duration: int | None = None
    prompt_eval_count: int | None = None


class Embedding(Answer):
    embedding: list[float]


class Details(Answer):
    parent_model: str
    format: str
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str


class ListedModel(Answer):
    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: Details


class ListedModels(Answer):
    models: list[ListedModel]


class LoadedModel(Answer):
    name: str
    model: str
    size: int | None = None
    """Left out: not measured yet."""
    digest: str
    details: Details
    expires_at: str
    """Far away: services stay until somebody stops them."""
    size_vram: int
    context_length: int | None = None


class LoadedModels(Answer):
    models: list[LoadedModel]


class Shown(Answer):
    """`template` is there while the model is served, and with it what it says of tools and thinking."""

    modelfile: str
    parameters: str
    template: str | None = None
    license: str | None = None
    details: Details
    model_info: dict[str, Any]
    capabilities: list[str]
    modified_at: str


class Progress(Answer):
    """One line of a pull; the last one says `success`."""

    status: str
    completed: int | None = None
    total: int | None = None


class Version(Answer):
    version: str
    thaloom: str
    """Ours."""


class Error(Answer):
    """Also the last line of a stream that could not be ended well."""

    error: str
    code: str
    """One of the codes in docs/errors.md."""
