"""Messages of Anthropic's protocol as they travel: `/v1/messages`, `/v1/messages/count_tokens`, and models.

What callers send is checked for types and ranges, and unknown fields are let pass, as existing clients expect. Fields
that would change an answer and are not served are in `UNSERVED`: refused by name unless they ask for nothing.
Source: Anthropic's API reference, and the types of its Python client (2.12).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from thaloom.edge.wire.common import Answer, Ask

MAX_STOPS = 64
LEAST_THINKING_TOKENS = 1024
MAX_MARKS = 4


class CacheControl(Ask):
    """A mark: the prompt up to here is to stay in the cache of prefixes. What was computed for an equal beginning is
    found again without it too, as long as it is there."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None
    """After each use; left out: 5m."""


class TextBlock(Ask):
    type: Literal["text"]
    text: str
    cache_control: CacheControl | None = None


class ThinkingBlock(Ask):
    """What a model thought aloud earlier; its signature is not looked at."""

    type: Literal["thinking"]
    thinking: str
    signature: str = ""


class RedactedThinkingBlock(Ask):
    """Thoughts that only who wrote them can read; they are let pass, and not shown to the model."""

    type: Literal["redacted_thinking"]
    data: str


class ToolUseBlock(Ask):
    type: Literal["tool_use"]
    id: str = Field(min_length=1)
    name: str = Field(min_length=1)
    input: dict[str, Any]
    cache_control: CacheControl | None = None


class ToolResultBlock(Ask):
    type: Literal["tool_result"]
    tool_use_id: str = Field(min_length=1)
    content: str | list[TextBlock] | None = None
    is_error: bool | None = None
    cache_control: CacheControl | None = None


Block = Annotated[
    TextBlock | ThinkingBlock | RedactedThinkingBlock | ToolUseBlock | ToolResultBlock, Field(discriminator="type")
]
BLOCKS = ("text", "thinking", "redacted_thinking", "tool_use", "tool_result")


class Message(Ask):
    """Only the assistant may have said nothing."""

    model_config = ConfigDict(
        json_schema_extra={
            "if": {"properties": {"role": {"const": "assistant"}}},
            "else": {"properties": {"content": {"anyOf": [{"type": "string", "minLength": 1},
                                                          {"type": "array", "minItems": 1}]}}},
        }
    )  # fmt: skip

    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class Tool(Ask):
    type: Literal["custom"] | None = None
    name: str = Field(min_length=1, max_length=128, pattern=r"^[a-zA-Z0-9_-]+$")
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None
    cache_control: CacheControl | None = None


class ToolChoice(Ask):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    """Of `tool`: the one to be used."""
    disable_parallel_tool_use: bool | None = None


class Thinking(Ask):
    """Whether the model may think aloud first. Where there is none of this: not, and if it does so all the same, that
    is not shown."""

    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    budget_tokens: int | None = Field(default=None, ge=LEAST_THINKING_TOKENS)
    """Told to templates that know a budget; the tokens of a thought are not counted off against it."""
    display: Literal["summarized", "omitted"] | None = None
    """`omitted`: the block comes without its text. A summary is never made: the text is whole."""


class OutputFormat(Ask):
    type: Literal["json_schema"]
    json_schema: dict[str, Any] = Field(alias="schema")


class OutputConfig(Ask):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    """Told to templates that know one (`reasoning_effort`)."""
    format: OutputFormat | None = None


class Metadata(Ask):
    user_id: str | None = None


class Prompt(Ask):
    """What both routes are told."""

    model: str = Field(min_length=1, max_length=256)
    messages: list[Message] = Field(min_length=1, max_length=100_000)
    system: str | list[TextBlock] | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None
    """As `output_config.format`, from before it was called so."""
    cache_control: CacheControl | None = None
    """A mark behind all of it."""


StopSequence = Annotated[str, Field(min_length=1, max_length=1000)]


class MessagesRequest(Prompt):
    max_tokens: int = Field(ge=1, lt=2**31)
    """An answer may end before: where the context is full, as `model_context_window_exceeded`."""
    temperature: float | None = Field(default=None, ge=0, le=1)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=0, lt=2**31)
    stop_sequences: list[StopSequence] | None = Field(default=None, max_length=MAX_STOPS)
    stream: bool | None = None
    metadata: Metadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None


class CountTokensRequest(Prompt):
    """What a prompt would cost, without an answer."""


UNSERVED: dict[str, tuple[Any, ...]] = {
    # name: the values that ask for nothing (null always does)
    "container": (),
    "mcp_servers": ([],),
    "inference_geo": (),
    "compaction": (),
}


# -- answers


class TextAnswer(Answer):
    type: Literal["text"]
    text: str


class ThinkingAnswer(Answer):
    type: Literal["thinking"]
    thinking: str
    signature: str
    """A digest of the thought, opaque to clients."""


class ToolUseAnswer(Answer):
    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


class OutputTokensDetails(Answer):
    thinking_tokens: int


class Usage(Answer):
    input_tokens: int
    """Of the prompt, those that are neither of the next two."""
    cache_creation_input_tokens: int
    """Of the prompt, those that were computed and are to stay, as a mark asks: as far as there was room."""
    cache_read_input_tokens: int
    """Of the prompt, those whose keys and values were in the prefix cache."""
    output_tokens: int
    output_tokens_details: OutputTokensDetails | None = None
    service_tier: Literal["standard"] | None = None


StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded"]


class MessageAnswer(Answer):
    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[Annotated[TextAnswer | ThinkingAnswer | ToolUseAnswer, Field(discriminator="type")]]
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: Usage


class MessageStart(Answer):
    type: Literal["message_start"]
    message: MessageAnswer


class Ping(Answer):
    type: Literal["ping"]


class ContentBlockStart(Answer):
    type: Literal["content_block_start"]
    index: int
    content_block: Annotated[TextAnswer | ThinkingAnswer | ToolUseAnswer, Field(discriminator="type")]


class TextDelta(Answer):
    type: Literal["text_delta"]
    text: str


class ThinkingDelta(Answer):
    type: Literal["thinking_delta"]
    thinking: str


class SignatureDelta(Answer):
    type: Literal["signature_delta"]
    signature: str


class InputJsonDelta(Answer):
    type: Literal["input_json_delta"]
    partial_json: str


class ContentBlockDelta(Answer):
    type: Literal["content_block_delta"]
    index: int
    delta: Annotated[TextDelta | ThinkingDelta | SignatureDelta | InputJsonDelta, Field(discriminator="type")]


class ContentBlockStop(Answer):
    type: Literal["content_block_stop"]
    index: int


class Stopped(Answer):
    stop_reason: StopReason
    stop_sequence: str | None


class MessageDelta(Answer):
    type: Literal["message_delta"]
    delta: Stopped
    usage: Usage


class MessageStop(Answer):
    type: Literal["message_stop"]


class TokensCount(Answer):
    input_tokens: int


class ModelInfo(Answer):
    id: str
    type: Literal["model"]
    display_name: str
    created_at: str
    """RFC 3339."""
    lifecycle: Literal["active"]
    max_input_tokens: int | None
    max_tokens: int | None


class ModelPage(Answer):
    data: list[ModelInfo]
    has_more: bool
    first_id: str | None
    last_id: str | None


class ErrorBody(Answer):
    type: str
    message: str
    details: dict[str, Any]
    """`error_code` is one of the codes in docs/errors.md."""


class Error(Answer):
    """Also the data of a stream's `error` event."""

    type: Literal["error"]
    error: ErrorBody
    request_id: str | None = None


Event = Annotated[
    MessageStart | Ping | ContentBlockStart | ContentBlockDelta | ContentBlockStop | MessageDelta | MessageStop | Error,
    Field(discriminator="type"),
]
