"""Messages of `/tokenize`, `/detokenize` and `/tokenizer_info` as they travel.

Source: vLLM's server (vllm/entrypoints/serve/tokenize/protocol.py). `model` may be left out where one model is served.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from thaloom.edge.wire.common import Answer, Ask
from thaloom.edge.wire.openai import ModelName, TokenId
from thaloom.edge.wire.openai_messages import MAX_TOOLS, FunctionTool, Message


class TokenizePrompt(Ask):
    model: ModelName | None = None
    prompt: str
    add_special_tokens: bool | None = None
    """False: without what a completion's prompt would begin with."""
    return_token_strs: bool | None = None


class TokenizeChat(Ask):
    model: ModelName | None = None
    messages: list[Message] = Field(min_length=1)
    tools: list[FunctionTool] | None = Field(default=None, max_length=MAX_TOOLS)
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    return_token_strs: bool | None = None


UNSERVED_IN_TOKENIZE: dict[str, tuple[Any, ...]] = {
    # name: the values that ask for nothing (null always does)
    "chat_template": (),
    "mm_processor_kwargs": ({},),
    "media_io_kwargs": ({},),
}
UNSERVED_IN_TOKENIZE_CHAT = UNSERVED_IN_TOKENIZE | {"add_special_tokens": (False,)}


class TokenizeAnswer(Answer):
    count: int
    max_model_len: int | None
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizeRequest(Ask):
    model: ModelName | None = None
    tokens: list[TokenId]


class DetokenizeAnswer(Answer):
    prompt: str


class TokenizerInfoAnswer(Answer):
    """Names as in a model's tokenizer_config.json."""

    tokenizer_class: str
    model: str
    """Ours: which of the served models this is."""
    vocab_size: int
    model_max_length: int | None
    bos_token: str | None
    eos_token: str | None
    stop_token_ids: list[int]
    chat_template: str | None
