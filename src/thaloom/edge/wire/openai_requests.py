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

from thaloom.edge.wire.common import Ask
from thaloom.edge.wire.openai import CacheRetention, ModelName, TokenId
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


def as_asked(schema: dict[str, Any], kind: type[GenerationFields]) -> None:
    """Say of each field that is not served which values are accepted nevertheless, and which fields go together."""
    for name, neutral in kind.unserved.items():
        told = "Not served: only what asks for nothing is accepted."
        schema["properties"][name] = {"enum": [*neutral, None], "description": told}
    for name in kind.older:
        del schema["properties"][name]
    schema.setdefault("allOf", []).extend(kind.together)


def _needs(name: str, other: str) -> dict[str, Any]:
    """A part of a JSON schema: where `name` is given, `other` must be true."""
    without = {"properties": {name: {"type": "null"}}}
    return {"anyOf": [without, {"properties": {other: {"const": True}}, "required": [other]}]}


OLDER = ("guided_json", "guided_regex", "guided_choice", "guided_grammar", "grammar", "json_schema")
"""Older words for `structured_outputs`. They are served, and not in the document's schemas: of all words for one thing
one may be given, which takes more cases to say than programs that read schemas go through."""
OLDER_IN_CHAT = (*OLDER, "functions", "function_call")
_ONE_FORM = {
    "anyOf": [{"properties": {name: {"type": "null"}}} for name in ("response_format", "structured_outputs")],
}
_ONE_PROMPT = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "integer"}}]}
_FEW_ANSWERS = {
    "anyOf": [
        {"properties": {"n": {"enum": [1, None]}, "best_of": {"enum": [1, None]}}},
        {"properties": {"n": {"enum": [1, None]}, "prompt": _ONE_PROMPT, "stream": {"enum": [False, None]}}},
        {"properties": {"best_of": {"type": "null"}, "prompt": _ONE_PROMPT}},
    ]
}
"""A part of a JSON schema: of one prompt many answers, or the best of many, or of many prompts one each. Other
combinations are served as long as there are not more than MAX_CHOICES answers in all."""
_MUST_CALL = {
    "if": {
        "properties": {"tool_choice": {"anyOf": [{"const": "required"}, {"type": "object"}]}},
        "required": ["tool_choice"],
    },
    "then": {"properties": {"tools": {"type": "array", "minItems": 1}}, "required": ["tools"]},
}


class StreamOptions(Ask):
    include_usage: bool | None = None
    """Send the token counts in a chunk of their own before the end."""
    continuous_usage_stats: bool | None = None
    """With `include_usage`: the counts so far in every chunk."""


class GenerationFields(Ask):
    """What both protocols' requests share."""

    model_config = ConfigDict(json_schema_extra=as_asked)
    unserved: ClassVar[Neutral] = UNSERVED
    older: ClassVar[tuple[str, ...]] = OLDER
    together: ClassVar[list[dict[str, Any]]] = [_needs("stream_options", "stream"), _ONE_FORM]

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
    seed: int | None = Field(default=None, ge=-(2**63), le=2**64 - 1)
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
    cache_salt: str | None = Field(default=None, min_length=1, max_length=256)
    """What this prompt leaves in the cache of prefixes is found by requests with the same salt alone, and it finds what
    they left alone: nobody else can tell by the time to a first token what was asked. As vLLM has it."""
    prompt_cache_retention: CacheRetention | None = None
    """`24h`: all of the prompt is pinned. `in_memory` asks for nothing."""
    user: str | None = None
    service_tier: str | None = None
    """There is one tier, `default`; asked for another, the answer says so."""


class ChatRequest(GenerationFields):
    unserved: ClassVar[Neutral] = UNSERVED_IN_CHAT
    older: ClassVar[tuple[str, ...]] = OLDER_IN_CHAT
    together: ClassVar[list[dict[str, Any]]] = [
        *GenerationFields.together,
        _needs("top_logprobs", "logprobs"),
        _MUST_CALL,
    ]

    messages: list[Message] = Field(min_length=1)
    max_tokens: int | None = Field(default=None, ge=1, lt=2**31)
    max_completion_tokens: int | None = Field(default=None, ge=1, lt=2**31)
    """Beside `max_tokens`: the smaller counts."""
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
    """Then there is no generation prompt."""
    chat_template_kwargs: dict[str, Any] | None = None
    documents: list[dict[str, Any]] | None = None
    """For the model's chat template, if it has a place for them."""
    store: bool | None = None
    """Nothing is stored."""


class CompletionRequest(GenerationFields):
    unserved: ClassVar[Neutral] = UNSERVED_IN_COMPLETION
    together: ClassVar[list[dict[str, Any]]] = [
        *GenerationFields.together,
        _FEW_ANSWERS,
        {
            "anyOf": [
                {"properties": {"max_tokens": {"anyOf": [{"type": "null"}, {"type": "integer", "minimum": 1}]}}},
                {"properties": {"echo": {"const": True}}, "required": ["echo"]},
            ]
        },
    ]

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
