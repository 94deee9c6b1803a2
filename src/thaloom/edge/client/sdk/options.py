"""What may be said beside the necessary: one list for both clients. Meanings, units and ranges: the messages in
edge.wire of the same names, and `/openapi.json`. What is left out, or None, is the node's choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from pydantic import BaseModel

from thaloom.base.access import Role, Scope

Json = Mapping[str, Any]
Message = Json | BaseModel
"""`{"role": "user", "content": "Hello"}`; or the message of an answer, as it came."""
Messages = str | Sequence[Message]
"""A text is one message of a user."""
Prompt = str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]]
"""A text or its tokens, one or several."""


class GenerationOptions(TypedDict, total=False):
    """Without the words that `structured_outputs` and `tools` had before: they are for older clients."""

    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    frequency_penalty: float | None
    presence_penalty: float | None
    repetition_penalty: float | None
    logit_bias: Mapping[str, float] | None
    seed: int | None
    max_tokens: int | None
    min_tokens: int | None
    n: int | None
    stop: str | Sequence[str] | None
    stop_token_ids: Sequence[int] | None
    include_stop_str_in_output: bool | None
    skip_special_tokens: bool | None
    stream_options: Json | None
    ignore_eos: bool | None
    response_format: Json | None
    structured_outputs: Json | None
    cache_salt: str | None
    prompt_cache_retention: Literal["in_memory", "in-memory", "24h"] | None
    user: str | None
    service_tier: str | None


class ChatOptions(GenerationOptions, total=False):
    max_completion_tokens: int | None
    logprobs: bool | None
    top_logprobs: int | None
    tools: Sequence[Json] | None
    tool_choice: str | Json | None
    parallel_tool_calls: bool | None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None
    verbosity: Literal["low", "medium", "high"] | None
    separate_reasoning: bool | None
    include_reasoning: bool | None
    add_generation_prompt: bool | None
    continue_final_message: bool | None
    chat_template_kwargs: Json | None
    documents: Sequence[Json] | None
    store: bool | None


class CompletionOptions(GenerationOptions, total=False):
    logprobs: int | None
    echo: bool | None
    best_of: int | None


class EmbeddingOptions(TypedDict, total=False):
    encoding_format: Literal["float", "base64"] | None
    dimensions: int | None
    normalize: bool | None
    user: str | None


class RerankOptions(TypedDict, total=False):
    top_n: int | None
    return_documents: bool | None
    instruction: str | None


class TokenizeOptions(TypedDict, total=False):
    add_special_tokens: bool | None
    return_token_strs: bool | None


class TokenizeChatOptions(TypedDict, total=False):
    tools: Sequence[Json] | None
    add_generation_prompt: bool | None
    continue_final_message: bool | None
    chat_template_kwargs: Json | None
    return_token_strs: bool | None


class ServeOptions(TypedDict, total=False):
    engine: Literal["thaloom", "llama.cpp", "vllm", "openai", "onnx", "transformers"] | None
    url: str | None
    replicas: int | None
    device: str | None
    num_threads: int | None
    context_length: int | None
    kv_bytes: int | None
    kv_host_bytes: int | None
    kv_disk_bytes: int | None
    max_sequences: int | None
    max_queue: int | None
    chunk_tokens: int | None
    prefix_reuse: bool | None
    pin_share: float | None
    kv_dtype: Literal["f32", "f16", "bf16", "i8"] | None
    weights: Literal["stored", "int8", "int4"] | None
    speculation: Literal["auto", "off"] | None
    latency: Literal["interactive", "normal", "batch"] | None
    keep_alive_s: float | None
    priority: Literal["high", "normal", "low"] | None
    stretch: float | None
    token_s: float | None
    keep_throughput: float | None
    labels: Mapping[str, str] | None


class JobOptions(TypedDict, total=False):
    labels: Mapping[str, str] | None
    workspaces: Sequence[str] | None
    env: Mapping[str, str] | None
    secrets: Mapping[str, str] | None
    directory: str | None
    read: Sequence[str] | None
    write: Sequence[str] | None
    whole_host: bool | None
    resources: Mapping[str, int] | None
    network: Literal["none", "loopback", "host"] | None
    retries: int | None
    retry_codes: Sequence[int] | None
    backoff_s: float | None
    max_backoff_s: float | None
    deadline_s: float | None
    grace_s: float | None
    ttl_s: float | None
    depends_on: Sequence[Mapping[str, str]] | None
    replace: bool | None


class KeyOptions(TypedDict, total=False):
    requests_per_minute: int | None
    tokens_per_minute: int | None
    concurrent: int | None
    models: Sequence[str] | None
    priority: Literal["high", "normal", "low"] | None
    expires_in_s: float | None
    role: Role | None
    tenant: str | None
    scopes: Sequence[Scope] | None


class QuotaOptions(TypedDict, total=False):
    services: int | None
    replicas: int | None
    memory_bytes: int | None
    keys: int | None
    requests_per_minute: int | None
    tokens_per_minute: int | None
    concurrent: int | None


def turns(messages: Messages) -> Sequence[Message]:
    return [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
