"""What goes into the inference runtime and what comes out of it, in words of no public protocol."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from thaloom.base.errors import BadParameter
from thaloom.base.ids import RequestId
from thaloom.kernel.models.types import ModelTensor

FinishReason = Literal["stop", "length", "tool_calls"]
Priority = Literal["high", "normal", "low"]
PRIORITIES: tuple[Priority, ...] = ("high", "normal", "low")
MAX_TOP_LOGPROBS = 20
MAX_LOGIT_BIAS = 100.0
MAX_PIN_S = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is chosen. Order: penalties and biases, what the constraint allows, temperature, top-k, top-p,
    min-p, then one draw.

    temperature 0 is greedy: the highest logit, the lower token id on a tie; no filter is looked at.
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
    frequency_penalty: float = 0.0
    """Taken from a token's logit for each time it stands in the answer so far."""
    presence_penalty: float = 0.0
    """Taken once from the logit of every token that stands in the answer so far."""
    repetition_penalty: float = 1.0
    """Divides the logits of tokens that stand in prompt or answer where they are positive, multiplies the others."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(token, what is added to its logit)."""

    def __post_init__(self) -> None:
        _in_range("temperature", self.temperature, 0.0, 100.0)
        _in_range("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        _in_range("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _in_range("repetition_penalty", self.repetition_penalty, 0.01, 100.0)
        for _, bias in self.logit_bias:
            _in_range("logit_bias", bias, -MAX_LOGIT_BIAS, MAX_LOGIT_BIAS)
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
    """One turn, as chat templates want it. `extra` has the other keys of the turn: `name`, `tool_call_id`, and of an
    assistant's turn `tool_calls`, [{"id", "type": "function", "function": {"name", "arguments"}}], with arguments as an
    object where they are one; `reasoning_content`."""

    role: str
    content: str
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function the model may call."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    """JSON schema of its arguments; empty: anything."""
    strict: bool = False
    """Arguments are held to the schema even where the model chooses by itself to call."""


ToolUse = Literal["auto", "none", "required"]
ConstraintKind = Literal["json_schema", "json_object", "regex", "choice", "lark", "gbnf"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """What the answer's text must be, from its first token to its last. `text`: the schema or the list of choices as
    JSON, the regular expression, or the grammar; of `json_object` nothing."""

    kind: ConstraintKind
    text: str = ""
    param: str = "response_format"
    """The caller's word for it, named where it is refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Templating:
    """How a chat becomes a prompt."""

    variables: dict[str, Any] = field(default_factory=dict)
    """For the model's template (`enable_thinking` ...)."""
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    """The last message is not closed: the answer goes on with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """The end of a beginning of a chat: so many whole messages, and of the next one so much."""

    num_messages: int = 0
    num_characters: int = 0
    """Of the next message's content."""
    num_thought_characters: int = 0
    """Of its `reasoning_content`."""
    num_calls: int = 0
    """Of the tools it calls."""
    num_tools: int | None = None
    """Of those the model is told of; None: all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """What of a prompt is to stay in the prefix cache: its beginning."""

    seconds: float
    """After each use. The room for pins is bounded: what finds none is not pinned, and told (Done.pinned_tokens)."""
    mark: Mark | None = None
    """How far, of `messages`; None: all of the prompt."""


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
    up_to_context: bool = False
    """More `max_tokens` than the context still holds are no error: the answer then ends where it is full."""
    min_tokens: int = 0
    """The model may not end its answer before so many tokens."""
    sampling: Sampling | None = None
    """None: the model's own generation config."""
    sampling_changes: dict[str, Any] = field(default_factory=dict)
    """Fields of Sampling the caller sets; the others stay as `sampling`, or the model, has them."""
    stop: tuple[str, ...] = ()
    stop_tokens: tuple[int, ...] = ()
    """Beside the model's own; they end the answer and are not shown."""
    include_stop: bool = False
    """Whether a stop string is shown."""
    logprobs: int | None = None
    """How many of the likeliest tokens to report for each position; 0: only the chosen one; None: none."""
    echo: bool = False
    """The prompt's text comes first, and with `logprobs` that of its tokens (the first has none). With `prompt` or
    `prompt_tokens` only. `max_tokens` may be 0 then."""
    ignore_eos: bool = False
    show_special_tokens: bool = False
    tools: tuple[Tool, ...] = ()
    tool_use: ToolUse = "auto"
    forced_tool: str | None = None
    """This one must be called; `tool_use` is `required` then."""
    parallel_tool_calls: bool = True
    constraint: Constraint | None = None
    """Not together with tools that must be called."""
    templating: Templating = field(default_factory=Templating)
    priority: Priority = "normal"
    """Who comes first where requests wait."""
    cache_salt: str = ""
    """Prompts share what was computed of a prefix only with prompts of the same salt."""
    pins: tuple[Pin, ...] = ()
    """Beginnings of the prompt that are to stay in the cache."""
    owner: str = ""
    """Against whom counts what each may have a part of, if anybody knows; said by the door, not by clients."""
    separate_reasoning: bool = True
    """What a model thinks aloud comes as Delta.reasoning, if its dialect is known to mark it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprob:
    """A token, its text as far as it is text alone, its bytes, and its natural-log probability (of the model's own
    distribution, before penalties, constraint, temperature and filters). None: the first token of a prompt."""

    token: int
    text: str
    data: bytes
    logprob: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionLogprobs:
    chosen: TokenLogprob
    top: tuple[TokenLogprob, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCallPiece:
    """Some of a call the model makes. The first piece of a call, and no other, has `id` and `name`; `arguments` of all
    its pieces, joined, are the arguments as JSON."""

    index: int
    """Of the call within the answer, from 0."""
    id: str | None = None
    name: str | None = None
    arguments: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """Some more of an answer. `text` may be empty (half a character, or a possible stop string held back)."""

    text: str
    num_tokens: int
    logprobs: tuple[PositionLogprobs, ...] = ()
    reasoning: str = ""
    tool_calls: tuple[ToolCallPiece, ...] = ()
    prompt_tokens: int | None = None
    """How many tokens the prompt has; of the first delta, where it is known."""


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
    stop: str | int | None = None
    """The stop string or stop token of the request that ended the answer; None: the model's own end, or none."""
    reasoning_tokens: int = 0
    """Of `completion_tokens`."""
    pinned_tokens: int = 0
    """Prompt tokens that are pinned now as the request asked: the first ones, in whole blocks, as far as there was
    room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizeRequest:
    """One text in a model's tokens. Exactly one of `messages` and `prompt` is given."""

    model: str
    messages: tuple[ChatMessage, ...] | None = None
    prompt: str | None = None
    add_special_tokens: bool = True
    """Of `prompt`: as a completion's prompt would get them."""
    tools: tuple[Tool, ...] = ()
    templating: Templating = field(default_factory=Templating)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokenized:
    tokens: tuple[int, ...]
    texts: tuple[str, ...]
    """How each token is written in the vocabulary."""
    context_length: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerInfo:
    """A model's way with text, for clients that count and cut by themselves."""

    vocab_size: int
    context_length: int | None
    bos_token: str | None
    eos_token: str | None
    stop_tokens: tuple[int, ...]
    chat_template: str | None


Pooling = Literal["mean", "last"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedRequest:
    """One text's embedding. Exactly one of `text` and `tokens` is given."""

    id: RequestId
    model: str
    text: str | None = None
    tokens: tuple[int, ...] | None = None
    pooling: Pooling | None = None
    """None: as the model's files say, else the mean."""
    normalize: bool = True
    """To length 1."""
    dimensions: int | None = None
    """Only the first so many, normalised again; None: all. More than there are is refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    values: tuple[float, ...]
    prompt_tokens: int
    degraded: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRequest:
    """How well each document answers the query, by the model's own yes or no."""

    id: RequestId
    model: str
    query: str
    documents: tuple[str, ...]
    instruction: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    values: tuple[float, ...]
    """In the documents' order, 0 to 1."""
    prompt_tokens: int
    degraded: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    name: str
    ready: bool
    """Whether requests are taken; one that is idle is started for them."""
    context_length: int | None
    created_at: float
    idle: bool = False
    """It holds no memory now."""
    keep_alive_s: float | None = None
    """For how long it stays loaded when nobody asks it anything, below 0: always; None: of several, not one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorValue:
    """An array on its way in or out. `dtype` as the Open Inference Protocol names it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes
    """Rows first, little-endian; BYTES: each element as its length in 4 bytes and itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InferRequest:
    """One pass through a model that is no language model."""

    id: RequestId
    model: str
    inputs: tuple[TensorValue, ...]
    outputs: tuple[str, ...] = ()
    """Empty: all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inferred:
    outputs: tuple[TensorValue, ...]
    queue_s: float
    compute_s: float
    batch_rows: int
    """Rows computed together, those of others included; 0: the model's rows are not known to be independent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TranscribeRequest:
    """Utterance to be written down."""

    id: RequestId
    model: str
    audio: bytes
    """A file of sound, as it came."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpokenWord:
    text: str
    begin_s: float
    end_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    text: str
    words: tuple[SpokenWord, ...]
    duration_s: float
    """Of the sound."""
    queue_s: float
    compute_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechRequest:
    """A text to be spoken."""

    id: RequestId
    model: str
    text: str
    voice: str | None = None
    """None: the model's first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Utterance:
    samples: bytes
    """16 bits, little-endian, one channel."""
    rate: int
    """Samples a second."""
    queue_s: float
    compute_s: float
    degraded: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PaintRequest:
    """Images of a text."""

    id: RequestId
    model: str
    prompt: str
    count: int = 1
    size: tuple[int, int] | None = None
    """Width and height in pixels; None: the model's. Another than the model's is refused."""
    seed: int | None = None
    """None: drawn anew. Each image has a seed of its own, which grow by one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    images: tuple[bytes, ...]
    """PNG."""
    width: int
    height: int
    queue_s: float
    compute_s: float


@runtime_checkable
class Inference(Protocol):
    """What the door needs for models that are no language models; implemented by work.runtime.frontend.frontend."""

    def serves(self, model: str) -> bool:
        """Whether requests to it are taken now. Raises ModelNotFound."""
        ...

    async def tensors(self, model: str) -> tuple[tuple[ModelTensor, ...], tuple[ModelTensor, ...]]:
        """Inputs and outputs. Raises as Generation.start does, and NotServable for a language model."""
        ...

    async def infer(self, request: InferRequest) -> Inferred:
        """Raises as `tensors` does, and BadParameter, TooLarge, QueueFull, DeadlineExceeded."""
        ...

    async def transcribe(self, request: TranscribeRequest) -> Transcript:
        """Raises as `infer` does; NotServable for a model that is for something else."""
        ...

    async def speak(self, request: SpeechRequest) -> Utterance:
        """Raises as `transcribe` does."""
        ...

    async def paint(self, request: PaintRequest) -> Pictures:
        """Raises as `transcribe` does."""
        ...


class Generation(Protocol):
    """What the door needs of the runtime; implemented by work.runtime.frontend.frontend, handed in by door.py."""

    def models(self) -> list[ServedModel]: ...

    async def start(self, request: GenerateRequest) -> AsyncIterator[Delta | Done]:
        """Admit the request, then iterate over its answer.

        Raises before the first item: ModelNotFound, ServiceLoading, ServiceFailed, PromptTooLong, BadParameter,
        QueueFull. While iterating: WorkerLost, DeadlineExceeded. Closing the iterator (`aclose`) cancels the request.
        """
        ...

    async def tokenize(self, request: TokenizeRequest) -> Tokenized:
        """Raises ModelNotFound, BadParameter. Needs no worker."""
        ...

    async def detokenize(self, model: str, tokens: tuple[int, ...]) -> str:
        """With special tokens as they are written. Raises ModelNotFound, BadParameter."""
        ...

    async def tokenizer_info(self, model: str) -> TokenizerInfo:
        """Raises ModelNotFound."""
        ...

    async def embed(self, request: EmbedRequest) -> Embedding:
        """Raises as `start` does, and NotServable where the model's engine gives no states."""
        ...

    async def score(self, request: ScoreRequest) -> Scores:
        """Raises as `start` does, and NotServable for a model that has no words for yes and no."""
        ...

    async def awake(self, model: str) -> None:
        """Return once a worker takes requests; a service that is idle is started. Raises as `start` does."""
        ...

    async def worker_metrics(self) -> list[dict[str, Any]]:
        """One record for each route that has a worker, for /metrics: service, model, `up`, and for one that answers
        (`up` is true) the numbers of messages.WorkerStats."""
        ...
