"""What is asked of chat completions and completions.

Fields that would change an answer and are not served are in `unserved`: they are refused by name unless they ask for
nothing. Fields that change nothing here (`user`, `store`, `metadata`, `prediction` ...) are accepted.
Source: OpenAI's API reference, `chat/completions` and `completions`; the fields beyond it as vLLM has them,
`separate_reasoning` as SGLang has it.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field
from pydantic.json_schema import WithJsonSchema

from thaloom.edge.wire.openai import Ask, ModelName, TokenId
from thaloom.edge.wire.openai_formats import Choices, Grammar, Pattern, ResponseFormat, Schema, StructuredOutputs
from thaloom.edge.wire.openai_messages import (
    MAX_TOOLS,
    FunctionChoice,
    FunctionDefinition,
    FunctionTool,
    Message,
    ToolChoice,
)

MAX_STOPS = 16
MAX_CHOICES = 128
MAX_TOP_LOGPROBS = 20
MAX_STOP_TOKENS = 1024
MAX_BIASES = 1024
_TOKEN_KEY = "^(0|[1-9][0-9]{0,9})$"

StopString = Annotated[str, Field(min_length=1, max_length=1000)]
Bias = Annotated[float, Field(ge=-100, le=100)]
LogitBias = Annotated[
    dict[Annotated[str, Field(pattern=_TOKEN_KEY)], Bias],
    Field(max_length=MAX_BIASES),
    WithJsonSchema(
        {
            "type": "object",
            "propertyNames": {"pattern": _TOKEN_KEY},
            "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
            "maxProperties": MAX_BIASES,
        }
    ),
]
Neutral = dict[str, tuple[Any, ...]]
"""Of fields by name: the values that ask for nothing (null always does)."""

UNSERVED: Neutral = {
    "length_penalty": (1,),
    "use_beam_search": (False,),
    "bad_words": ([],),
    "allowed_token_ids": (),
    "truncate_prompt_tokens": (),
    "prompt_logprobs": (),
    "logprob_token_ids": (),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "spaces_between_special_tokens": (True,),
    "thinking_token_budget": (-1,),
    "repetition_detection": (),
    "guided_whitespace_pattern": (),
    "logits_processors": ([],),
    "cache_salt": (),
    "priority": (0,),
    "mirostat": (0,),
    "typical_p": (1,),
    "xtc_probability": (0,),
    "dry_multiplier": (0,),
}
UNSERVED_IN_CHAT: Neutral = UNSERVED | {
    "best_of": (1,),
    "echo": (False,),
    "add_special_tokens": (False,),
    "audio": (),
    "modalities": (["text"],),
    "web_search_options": (),
    "moderation": (),
    "chat_template": (),
    "return_prompt_text": (False,),
    "mm_processor_kwargs": ({},),
}
UNSERVED_IN_COMPLETION: Neutral = UNSERVED | {
    "suffix": ("",),
    "add_special_tokens": (True,),
    "prompt_embeds": (),
}
UNSERVED_IN_MESSAGE: Neutral = {"audio": ()}


def with_unserved(schema: dict[str, Any], kind: type[GenerationFields]) -> None:
    """Say of each field that is not served which values are accepted nevertheless."""
    for name, neutral in kind.unserved.items():
        told = "Not served: only what asks for nothing is accepted."
        schema["properties"][name] = {"enum": [*neutral, None], "description": told}
    schema.setdefault("allOf", []).extend(kind.together)


def _needs(name: str, kind: str, other: str) -> dict[str, Any]:
    """A part of a JSON schema: where `name` is given, `other` must be true."""
    return {
        "if": {"properties": {name: {"type": kind}}, "required": [name]},
        "then": {"properties": {other: {"const": True}}, "required": [other]},
    }


class StreamOptions(Ask):
    include_usage: bool | None = None
    """Send the token counts in a chunk of their own before the end."""
    continuous_usage_stats: bool | None = None
    """With `include_usage`: the counts so far in every chunk."""


class GenerationFields(Ask):
    """What both protocols' requests share."""

    model_config = ConfigDict(json_schema_extra=with_unserved)
    unserved: ClassVar[Neutral] = UNSERVED
    together: ClassVar[list[dict[str, Any]]] = [_needs("stream_options", "object", "stream")]

    model: ModelName
    temperature: float | None = Field(default=None, ge=0, le=100)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1, lt=2**31)
    """0 or -1: all tokens."""
    min_p: float | None = Field(default=None, ge=0, le=1)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    repetition_penalty: float | None = Field(default=None, ge=0.01, le=100)
    logit_bias: LogitBias | None = None
    """By token id, in decimal digits."""
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**64)
    min_tokens: int | None = Field(default=None, ge=0, lt=2**31)
    n: int | None = Field(default=None, ge=1, le=MAX_CHOICES)
    stop: StopString | Annotated[list[StopString], Field(max_length=MAX_STOPS)] | None = None
    stop_token_ids: list[TokenId] | None = Field(default=None, max_length=MAX_STOP_TOKENS)
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    ignore_eos: bool | None = None
    """Go on after the model's own end, up to `max_tokens`: for measuring."""
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: Schema | None = None
    guided_regex: Pattern | None = None
    guided_choice: Choices | None = None
    guided_grammar: Grammar | None = None
    grammar: Grammar | None = None
    json_schema: dict[str, Any] | None = None
    user: str | None = None
    service_tier: str | None = None
    """There is one tier, `default`; asked for another, the answer says so."""


class ChatRequest(GenerationFields):
    unserved: ClassVar[Neutral] = UNSERVED_IN_CHAT
    together: ClassVar[list[dict[str, Any]]] = [
        *GenerationFields.together,
        _needs("top_logprobs", "integer", "logprobs"),
    ]

    messages: list[Message] = Field(min_length=1)
    max_tokens: int | None = Field(default=None, ge=1, lt=2**31)
    max_completion_tokens: int | None = Field(default=None, ge=1, lt=2**31)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP_LOGPROBS)
    tools: list[FunctionTool] | None = Field(default=None, max_length=MAX_TOOLS)
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    functions: list[FunctionDefinition] | None = Field(default=None, max_length=MAX_TOOLS)
    function_call: FunctionChoice | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    """For the model's chat template, as `reasoning_effort` and, unless the caller sets it, `enable_thinking`."""
    verbosity: Literal["low", "medium", "high"] | None = None
    """For the model's chat template."""
    separate_reasoning: bool | None = None
    """False: what the model thinks aloud stays in the text."""
    include_reasoning: bool | None = None
    """False: what the model thinks aloud is left out."""
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    documents: list[dict[str, Any]] | None = None
    """For the model's chat template, if it has a place for them."""
    store: bool | None = None
    """Nothing is stored."""


class CompletionRequest(GenerationFields):
    unserved: ClassVar[Neutral] = UNSERVED_IN_COMPLETION

    prompt: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=MAX_CHOICES)]
        | Annotated[list[TokenId], Field(min_length=1)]
        | Annotated[list[Annotated[list[TokenId], Field(min_length=1)]], Field(min_length=1, max_length=MAX_CHOICES)]
    )
    max_tokens: int | None = Field(default=None, ge=0, lt=2**31)
    """0 only with `echo`."""
    logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP_LOGPROBS)
    echo: bool | None = None
    best_of: int | None = Field(default=None, ge=1, le=MAX_CHOICES)
    """So many answers are made, and the `n` with the highest mean log-probability of their tokens given."""
