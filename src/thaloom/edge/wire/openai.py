"""Messages of the OpenAI protocol as they travel: chat completions, completions, models.

What callers send is checked for types and ranges, and unknown fields are let pass, as existing clients expect.
Fields that would change an answer and are not served yet are in `UNSERVED`: they are refused by name unless they ask
for nothing. What a node answers is in full here for the OpenAPI document; the door writes it without these classes.
Source: OpenAI's API reference, `chat/completions`, `completions` and `models`; the sampling fields beyond it
(`top_k`, `min_p`, `ignore_eos`) as vLLM has them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_STOPS = 16
MAX_CHOICES = 128
MAX_TOP_LOGPROBS = 20


class Ask(BaseModel):
    """Base of what callers send."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, allow_inf_nan=False)


class Answer(BaseModel):
    """Base of what a node answers."""

    model_config = ConfigDict(extra="ignore", frozen=True)


StopString = Annotated[str, Field(min_length=1, max_length=1000)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]


class StreamOptions(Ask):
    include_usage: bool | None = None
    """Send the token counts in a chunk of their own before the end."""


class GenerationFields(Ask):
    """What both protocols' requests share."""

    model: str = Field(min_length=1, max_length=256)
    temperature: float | None = Field(default=None, ge=0, le=100)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1, lt=2**31)
    """0 or -1: all tokens."""
    min_p: float | None = Field(default=None, ge=0, le=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**64)
    max_tokens: int | None = Field(default=None, ge=1, lt=2**31)
    n: int | None = Field(default=None, ge=1, le=MAX_CHOICES)
    stop: StopString | Annotated[list[StopString], Field(max_length=MAX_STOPS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    ignore_eos: bool | None = None
    """Go on after the model's own end, up to `max_tokens`: for measuring."""


class TextPart(Ask):
    type: Literal["text"]
    text: str


class Message(Ask):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None


class ChatRequest(GenerationFields):
    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1, lt=2**31)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP_LOGPROBS)


class CompletionRequest(GenerationFields):
    prompt: str | list[str] | list[TokenId] | list[list[TokenId]]
    logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP_LOGPROBS)


UNSERVED: dict[str, tuple[Any, ...]] = {
    # name: the values that ask for nothing (null always does)
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "length_penalty": (1,),
    "logit_bias": ({},),
    "best_of": (1,),
    "use_beam_search": (False,),
    "min_tokens": (0,),
    "stop_token_ids": ([],),
    "bad_words": ([],),
    "allowed_token_ids": (),
    "include_stop_str_in_output": (False,),
    "skip_special_tokens": (True,),
    "truncate_prompt_tokens": (),
    "prompt_logprobs": (),
    "response_format": ({"type": "text"},),
    "structured_outputs": ({},),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "grammar": ("",),
    "json_schema": (),
    "echo": (False,),
    "suffix": ("",),
    "tools": ([],),
    "tool_choice": ("none",),
    "functions": ([],),
    "function_call": ("none",),
    "audio": (),
    "modalities": (["text"],),
    "web_search_options": (),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "documents": ([],),
}
UNSERVED_IN_MESSAGE: dict[str, tuple[Any, ...]] = {"tool_calls": ([],), "function_call": (), "audio": ()}


# -- answers


class PromptTokensDetails(Answer):
    cached_tokens: int
    """Prompt tokens that did not have to be computed: their keys and values were in the prefix cache."""


class Usage(Answer):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class ChatLogprob(Answer):
    token: str
    logprob: float
    bytes: list[int] | None


class ChatPosition(ChatLogprob):
    top_logprobs: list[ChatLogprob]


class ChatLogprobs(Answer):
    content: list[ChatPosition] | None
    refusal: list[ChatPosition] | None


FinishReason = Literal["stop", "length"]


class ChatAnswerMessage(Answer):
    role: Literal["assistant"]
    content: str
    refusal: str | None


class ChatChoice(Answer):
    index: int
    message: ChatAnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class ChatCompletion(Answer):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage


class ChatDelta(Answer):
    role: Literal["assistant"] | None = None
    content: str | None = None
    refusal: str | None = None


class ChatChunkChoice(Answer):
    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None


class ChatChunk(Answer):
    """One `data:` line of a streamed chat completion."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChunkChoice]
    usage: Usage | None = None


class CompletionLogprobs(Answer):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] | None
    text_offset: list[int]


class CompletionChoice(Answer):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason | None


class Completion(Answer):
    """A completion, or one `data:` line of a streamed one."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage | None = None


class Model(Answer):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
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
