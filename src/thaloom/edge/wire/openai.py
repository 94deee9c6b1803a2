"""Messages of the OpenAI protocol as they travel: what its routes share, and what a node answers.

What callers send is checked for types and ranges, and unknown fields are let pass, as existing clients expect. What a
node answers is in full here for the OpenAPI document; the door writes it without these classes. What is asked:
`openai_requests`, `openai_messages`, `openai_formats`.
Source: OpenAI's API reference, `chat/completions`, `completions` and `models`; `stop_reason`, `max_model_len`, `root`
and `parent` as vLLM has them, `reasoning_content` as DeepSeek's API has it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from thaloom.edge.wire.common import Answer

ModelName = Annotated[str, Field(min_length=1, max_length=256)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
CacheRetention = Literal["in_memory", "in-memory", "24h"]
"""How long the prompt stays in the cache of prefixes: as long as there is room (`in_memory`; older clients spell it
with a hyphen), or pinned for a day after each use, as far as there is room for pins. Source: OpenAI's guide "Prompt
caching", and the types of its Python client."""


class PromptTokensDetails(Answer):
    cached_tokens: int
    """Prompt tokens that did not have to be computed: their keys and values were in the prefix cache."""


class CompletionTokensDetails(Answer):
    reasoning_tokens: int
    """Of the tokens of the answer: those the model thought with."""


class Usage(Answer):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class UsageSoFar(Answer):
    """Of one choice, with `stream_options.continuous_usage_stats`."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatLogprob(Answer):
    token: str
    logprob: float
    bytes: list[int] | None


class ChatPosition(ChatLogprob):
    top_logprobs: list[ChatLogprob]


class ChatLogprobs(Answer):
    content: list[ChatPosition] | None
    refusal: list[ChatPosition] | None


FinishReason = Literal["stop", "length", "tool_calls", "function_call"]


class CalledFunction(Answer):
    name: str
    arguments: str
    """JSON, as the model wrote it."""


class CalledTool(Answer):
    id: str
    type: Literal["function"]
    function: CalledFunction


class ChatAnswerMessage(Answer):
    role: Literal["assistant"]
    content: str | None
    """Null where the model called tools and said nothing."""
    refusal: str | None
    reasoning_content: str | None = None
    """What the model thought aloud, where it is known how it marks that."""
    tool_calls: list[CalledTool] | None = None
    function_call: CalledFunction | None = None
    """Instead of `tool_calls`, where `functions` were asked for."""


class ChatChoice(Answer):
    index: int
    message: ChatAnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason
    stop_reason: str | int | None = None
    """The stop string or token that ended the answer, if one did."""


class ChatCompletion(Answer):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage
    service_tier: Literal["default"] | None = None
    """Where one was asked for: there is only this one."""


class FunctionPiece(Answer):
    name: str | None = None
    arguments: str | None = None


class ToolPiece(Answer):
    """The first piece of a call has `id`, `type` and the function's name; the others only arguments."""

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionPiece


class ChatDelta(Answer):
    role: Literal["assistant"] | None = None
    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolPiece] | None = None
    function_call: FunctionPiece | None = None


class ChatChunkChoice(Answer):
    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None
    stop_reason: str | int | None = None


class ChatChunk(Answer):
    """One `data:` line of a streamed chat completion."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChunkChoice]
    usage: Usage | UsageSoFar | None = None
    service_tier: Literal["default"] | None = None


class CompletionLogprobs(Answer):
    tokens: list[str]
    token_logprobs: list[float | None]
    """Null for the first token of a prompt that is echoed."""
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class CompletionChoice(Answer):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason | None
    stop_reason: str | int | None = None
    """The stop string or token that ended the answer, if one did."""


class Completion(Answer):
    """A completion, or one `data:` line of a streamed one."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage | UsageSoFar | None = None


class Model(Answer):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    parent: str | None
    max_model_len: int | None
    """As `context_length`."""
    ready: bool
    """Ours: whether a request would be served now."""
    context_length: int | None
    """Ours: prompt and answer together, in tokens."""


class ModelList(Answer):
    object: Literal["list"]
    data: list[Model]


class ErrorBody(Answer):
    message: str
    type: str
    param: str | None
    code: str
    """One of the codes in docs/errors.md."""
    retry_after_s: float | None = None
    details: dict[str, Any] | None = None


class Error(Answer):
    error: ErrorBody
