"""What goes into the inference runtime and what comes out of it, in words of no public protocol."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from thaloom.base.errors import BadParameter
from thaloom.base.ids import RequestId

FinishReason = Literal["stop", "length"]
MAX_TOP_LOGPROBS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is chosen. Order: temperature, top-k, top-p, min-p, then one draw.

    temperature 0 is greedy: the highest logit, the lower token id on a tie; nothing else is looked at.
    """

    temperature: float = 1.0
    top_k: int = 0
    """Only the k likeliest tokens; 0: all."""
    top_p: float = 1.0
    """Only the likeliest tokens whose probabilities add up to p; at least one."""
    min_p: float = 0.0
    """Only tokens at least this fraction as likely as the likeliest."""
    seed: int | None = None
    """Same seed, same request: same tokens. None: drawn afresh."""

    def __post_init__(self) -> None:
        _in_range("temperature", self.temperature, 0.0, 100.0)
        _in_range("top_k", self.top_k, 0, 2**31 - 1)
        _in_range("top_p", self.top_p, 0.0, 1.0)
        _in_range("min_p", self.min_p, 0.0, 1.0)
        if self.seed is not None:
            _in_range("seed", self.seed, -(2**63), 2**64 - 1)
        if self.top_p == 0.0:
            raise BadParameter("top_p must be above 0", param="top_p")


def _in_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # also refuses NaN
        raise BadParameter(f"{name} must be between {low} and {high}, not {value}", param=name)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatMessage:
    role: str
    content: str
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest:
    """One answer wanted from one served model. Exactly one of `messages`, `prompt`, `prompt_tokens` is given."""

    id: RequestId
    model: str
    messages: tuple[ChatMessage, ...] | None = None
    prompt: str | None = None
    prompt_tokens: tuple[int, ...] | None = None
    max_tokens: int | None = None
    """None: until the model stops or the context is full."""
    sampling: Sampling | None = None
    """None: the model's own generation config."""
    sampling_changes: dict[str, float | int] = field(default_factory=dict)
    """Fields of Sampling the caller sets; the others stay as `sampling`, or the model, has them."""
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    """How many of the likeliest tokens to report for each position; 0: only the chosen one; None: none."""
    ignore_eos: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprob:
    """A token, its text as far as it is text alone, its bytes, and its natural-log probability (of the model's own
    distribution, before temperature and filters)."""

    token: int
    text: str
    data: bytes
    logprob: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionLogprobs:
    chosen: TokenLogprob
    top: tuple[TokenLogprob, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """Some more of an answer. `text` may be empty (half a character, or a possible stop string held back)."""

    text: str
    num_tokens: int
    logprobs: tuple[PositionLogprobs, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The end of an answer; exactly one, always last."""

    reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    """Prompt tokens whose keys and values were found in the prefix cache."""
    queue_s: float
    prefill_s: float
    decode_s: float
    degraded: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    name: str
    ready: bool
    context_length: int | None
    created_at: float


class Generation(Protocol):
    """What the door needs of the runtime; implemented by work.runtime.frontend, handed in by door.py."""

    def models(self) -> list[ServedModel]: ...

    async def start(self, request: GenerateRequest) -> AsyncIterator[Delta | Done]:
        """Admit the request, then iterate over its answer.

        Raises before the first item: ModelNotFound, ServiceLoading, ServiceFailed, PromptTooLong, BadParameter,
        QueueFull. While iterating: WorkerLost, DeadlineExceeded. Closing the iterator (`aclose`) cancels the request.
        """
        ...

    async def worker_metrics(self) -> list[dict[str, Any]]:
        """One record for each route that has a worker, for /metrics: service, model, `up`, and for one that answers
        (`up` is true) the numbers of messages.WorkerStats."""
        ...
