"""From an OpenAI request's body to what the runtime is asked: pure, and every refusal names its field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from pydantic import ValidationError

from thaloom.base.errors import BadParameter
from thaloom.base.ids import RequestId
from thaloom.edge.api.errors import from_validation
from thaloom.edge.api.generation import Wanted
from thaloom.edge.wire.openai import (
    MAX_CHOICES,
    UNSERVED,
    UNSERVED_IN_MESSAGE,
    ChatRequest,
    CompletionRequest,
    GenerationFields,
    Message,
)
from thaloom.work.runtime.types import ChatMessage, GenerateRequest

F = TypeVar("F", bound=GenerationFields)
DEFAULT_COMPLETION_TOKENS = 16
"""Of the completions protocol; a chat goes on until the model ends it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAIWanted(Wanted):
    kind: Literal["chat", "completion"]
    num_prompts: int
    include_usage: bool


def chat(data: dict[str, Any], request_id: RequestId) -> OpenAIWanted:
    """Raises BadParameter."""
    _refuse_unserved(data)
    _refuse_unserved_in_messages(data)
    fields = _validate(ChatRequest, data)
    if fields.max_tokens is not None and fields.max_completion_tokens not in (None, fields.max_tokens):
        raise BadParameter("max_tokens and max_completion_tokens contradict each other", param="max_tokens")
    if fields.top_logprobs is not None and not fields.logprobs:
        raise BadParameter("top_logprobs needs logprobs to be true", param="top_logprobs")
    logprobs = (fields.top_logprobs or 0) if fields.logprobs else None
    messages = tuple(_message(message) for message in fields.messages)
    max_tokens = fields.max_completion_tokens or fields.max_tokens
    prompt = {"messages": messages}
    return _wanted("chat", request_id, fields, [prompt], max_tokens=max_tokens, logprobs=logprobs)


def completion(data: dict[str, Any], request_id: RequestId) -> OpenAIWanted:
    """Raises BadParameter."""
    _refuse_unserved(data)
    fields = _validate(CompletionRequest, data)
    prompts = _prompts(fields.prompt)
    max_tokens = fields.max_tokens or DEFAULT_COMPLETION_TOKENS
    return _wanted("completion", request_id, fields, prompts, max_tokens=max_tokens, logprobs=fields.logprobs)


def _wanted(
    kind: Literal["chat", "completion"],
    request_id: RequestId,
    fields: GenerationFields,
    prompts: list[dict[str, Any]],
    *,
    max_tokens: int | None,
    logprobs: int | None,
) -> OpenAIWanted:
    num_each = fields.n or 1
    if len(prompts) * num_each > MAX_CHOICES:
        raise BadParameter(
            f"{len(prompts)} prompts times n = {num_each} are more than {MAX_CHOICES} answers", param="n"
        )
    if fields.stream_options is not None and not fields.stream:
        raise BadParameter("stream_options needs stream to be true", param="stream_options")
    requests = [
        GenerateRequest(
            id=RequestId(f"{request_id}-{index * num_each + choice}"),
            model=fields.model,
            max_tokens=max_tokens,
            sampling_changes=_sampling_changes(fields, choice),
            stop=_stops(fields.stop),
            logprobs=logprobs,
            ignore_eos=bool(fields.ignore_eos),
            **prompt,
        )
        for index, prompt in enumerate(prompts)
        for choice in range(num_each)
    ]
    return OpenAIWanted(
        id=request_id,
        kind=kind,
        model=fields.model,
        requests=tuple(requests),
        num_prompts=len(prompts),
        stream=bool(fields.stream),
        include_usage=fields.stream_options is not None and bool(fields.stream_options.include_usage),
    )


def _validate(kind: type[F], data: dict[str, Any]) -> F:
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise from_validation(error, data) from error


def _sampling_changes(fields: GenerationFields, choice: int) -> dict[str, float | int]:
    """What the caller says of sampling. A given seed is counted up, so that `n` answers differ, always the same way."""
    changes: dict[str, float | int] = {}
    for name in ("temperature", "top_p", "min_p"):
        if (value := getattr(fields, name)) is not None:
            changes[name] = float(value)
    if fields.top_k is not None:
        changes["top_k"] = max(fields.top_k, 0)
    if fields.seed is not None:
        changes["seed"] = fields.seed + choice if fields.seed + choice < 2**64 else fields.seed - choice
    return changes


def _stops(stop: str | list[str] | None) -> tuple[str, ...]:
    return () if stop is None else (stop,) if isinstance(stop, str) else tuple(stop)


def _prompts(prompt: str | list[str] | list[int] | list[list[int]]) -> list[dict[str, Any]]:
    """One mapping of GenerateRequest's field for each prompt."""
    if isinstance(prompt, str):
        return [{"prompt": prompt}]
    if not prompt:
        raise BadParameter("prompt: an empty list asks for nothing", param="prompt")
    if isinstance(prompt[0], int):
        return [{"prompt_tokens": tuple(prompt)}]
    return [{"prompt": one} if isinstance(one, str) else {"prompt_tokens": tuple(one)} for one in prompt]


def _message(message: Message) -> ChatMessage:
    """`developer` is what newer clients call `system`; templates know only the old word. Parts are joined by lines."""
    content = message.content
    if not isinstance(content, str):
        content = "\n".join(part.text for part in content)
    role = "system" if message.role == "developer" else message.role
    return ChatMessage(role=role, content=content, extra={} if message.name is None else {"name": message.name})


def _refuse_unserved(data: Mapping[str, Any]) -> None:
    for name, neutral in UNSERVED.items():
        _refuse(name, data.get(name), neutral)


def _refuse_unserved_in_messages(data: Mapping[str, Any]) -> None:
    messages = data.get("messages")
    for index, message in enumerate(messages if isinstance(messages, list) else []):
        for name, neutral in UNSERVED_IN_MESSAGE.items():
            if isinstance(message, dict):
                _refuse(f"messages[{index}].{name}", message.get(name), neutral)


def _refuse(name: str, value: Any, neutral: tuple[Any, ...]) -> None:
    if value is None or any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in neutral):
        return
    raise BadParameter(f"{name} is not served yet, and leaving it out would change the answer", param=name)
