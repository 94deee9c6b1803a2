"""From an OpenAI request's body to what the runtime is asked: pure, and every refusal names its field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from thaloom.base.errors import BadParameter
from thaloom.base.ids import RequestId
from thaloom.edge.api.openai.constraints import constraint, refuse_unserved_forms
from thaloom.edge.api.openai.messages import chat_messages, refuse_what_is_not_text
from thaloom.edge.api.openai.retention import pins
from thaloom.edge.api.openai.tools import ToolWish, tool_wish
from thaloom.edge.api.openai.unserved import refuse_unserved
from thaloom.edge.api.routes.fields import validate
from thaloom.edge.api.routes.generation import Wanted
from thaloom.edge.wire.openai_requests import MAX_CHOICES, ChatRequest, CompletionRequest, GenerationFields
from thaloom.edge.wire.tokens import TokenizeChat
from thaloom.work.runtime.types import GenerateRequest, Templating

DEFAULT_COMPLETION_TOKENS = 16
"""Of the completions protocol; a chat goes on until the model ends it."""
_AS_THEY_ARE = ("frequency_penalty", "min_p", "presence_penalty", "repetition_penalty", "temperature", "top_p")


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAIWanted(Wanted):
    kind: Literal["chat", "completion"]
    num_prompts: int
    num_shown: int
    """Answers to each prompt; the others were made only to choose from."""
    logprobs: int | None
    """As the client wants to see them."""
    include_usage: bool
    usage_so_far: bool
    """With every chunk."""
    include_reasoning: bool = True
    tools: ToolWish
    echo: bool = False
    service_tier: bool = False
    """Whether the client wants to know."""


def chat(data: dict[str, Any], request_id: RequestId) -> OpenAIWanted:
    """Raises BadParameter."""
    refuse_unserved(data, ChatRequest.unserved)
    refuse_what_is_not_text(data)
    refuse_unserved_forms(data)
    fields = validate(ChatRequest, data)
    if fields.top_logprobs is not None and not fields.logprobs:
        raise BadParameter("top_logprobs needs logprobs to be true", param="top_logprobs")
    logprobs = (fields.top_logprobs or 0) if fields.logprobs else None
    bounds = [bound for bound in (fields.max_tokens, fields.max_completion_tokens) if bound is not None]
    tools = tool_wish(fields)
    form = constraint(fields)
    shared = _shared(fields) | {
        "messages": chat_messages(fields.messages),
        "max_tokens": min(bounds) if bounds else None,
        "logprobs": logprobs,
        "tools": tools.tools,
        "tool_use": tools.use,
        "forced_tool": tools.forced,
        "parallel_tool_calls": tools.parallel,
        # what must call a tool says nothing else, so there is nothing that had to have the form
        "constraint": None if tools.use == "required" else form,
        "templating": templating(fields, _variables(fields)),
        "separate_reasoning": fields.separate_reasoning is not False,
    }
    num_each = fields.n or 1
    return OpenAIWanted(
        **_wanted(fields, request_id, [shared], num_each),
        kind="chat",
        num_shown=num_each,
        logprobs=logprobs,
        include_reasoning=fields.include_reasoning is not False,
        tools=tools,
    )


def completion(data: dict[str, Any], request_id: RequestId) -> OpenAIWanted:
    """Raises BadParameter."""
    refuse_unserved(data, CompletionRequest.unserved)
    refuse_unserved_forms(data)
    fields = validate(CompletionRequest, data)
    num_shown = fields.n or 1
    num_each = fields.best_of or num_shown
    if num_each < num_shown:
        raise BadParameter(f"best_of {num_each} is less than n = {num_shown}", param="best_of")
    if fields.stream and num_each > num_shown:
        raise BadParameter("best_of is not streamed: which is best is known at the end", param="best_of")
    if fields.max_tokens == 0 and not fields.echo:
        raise BadParameter("max_tokens 0 asks for nothing, unless with echo", param="max_tokens")
    chosen_by = 0 if num_each > num_shown else None  # to choose by, the log-probabilities are needed
    shared = _shared(fields) | {
        "max_tokens": DEFAULT_COMPLETION_TOKENS if fields.max_tokens is None else fields.max_tokens,
        "logprobs": chosen_by if fields.logprobs is None else fields.logprobs,
        "constraint": constraint(fields),
        "echo": bool(fields.echo),
        "separate_reasoning": False,
    }
    return OpenAIWanted(
        **_wanted(fields, request_id, [shared | prompt for prompt in _prompts(fields.prompt)], num_each),
        kind="completion",
        num_shown=num_shown,
        logprobs=fields.logprobs,
        tools=ToolWish(),
        echo=bool(fields.echo),
    )


def _wanted(
    fields: GenerationFields, request_id: RequestId, prompts: list[dict[str, Any]], num_each: int
) -> dict[str, Any]:
    """What both protocols' OpenAIWanted have in common; `prompts` are the fields of their GenerateRequests."""
    if len(prompts) * num_each > MAX_CHOICES:
        raise BadParameter(
            f"{len(prompts)} prompts times {num_each} answers are more than {MAX_CHOICES} answers", param="n"
        )
    if fields.stream_options is not None and not fields.stream:
        raise BadParameter("stream_options needs stream to be true", param="stream_options")
    options = fields.stream_options
    include_usage = options is not None and bool(options.include_usage)
    return {
        "id": request_id,
        "model": fields.model,
        "requests": tuple(
            GenerateRequest(
                id=RequestId(f"{request_id}-{index * num_each + choice}"),
                model=fields.model,
                sampling_changes=_sampling_changes(fields, choice),
                **prompt,
            )
            for index, prompt in enumerate(prompts)
            for choice in range(num_each)
        ),
        "num_prompts": len(prompts),
        "stream": bool(fields.stream),
        "include_usage": include_usage,
        "usage_so_far": include_usage and options is not None and bool(options.continuous_usage_stats),
        "service_tier": fields.service_tier is not None,
    }


def _shared(fields: GenerationFields) -> dict[str, Any]:
    """Fields of a GenerateRequest that both protocols have."""
    return {
        "min_tokens": fields.min_tokens or 0,
        "stop": _stops(fields.stop),
        "stop_tokens": tuple(fields.stop_token_ids or ()),
        "include_stop": bool(fields.include_stop_str_in_output),
        "ignore_eos": bool(fields.ignore_eos),
        "cache_salt": fields.cache_salt or "",
        "pins": pins(fields.prompt_cache_retention),
        "show_special_tokens": fields.skip_special_tokens is False,
    }


def _sampling_changes(fields: GenerationFields, choice: int) -> dict[str, Any]:
    """What the caller says of sampling. A given seed is counted up, so that `n` answers differ, always the same way."""
    changes: dict[str, Any] = {}
    for name in _AS_THEY_ARE:
        if (value := getattr(fields, name)) is not None:
            changes[name] = float(value)
    if fields.top_k is not None:
        changes["top_k"] = max(fields.top_k, 0)
    if fields.seed is not None:
        changes["seed"] = fields.seed + choice if fields.seed + choice < 2**64 else fields.seed - choice
    if fields.logit_bias:
        changes["logit_bias"] = tuple((int(token), float(bias)) for token, bias in fields.logit_bias.items())
    return changes


def _variables(fields: ChatRequest) -> dict[str, Any]:
    """Source of what an effort means to a template: vLLM's documentation, `reasoning_effort`."""
    variables: dict[str, Any] = {}
    if fields.reasoning_effort is not None:
        variables["reasoning_effort"] = fields.reasoning_effort
        variables["enable_thinking"] = fields.reasoning_effort != "none"
    if fields.verbosity is not None:
        variables["verbosity"] = fields.verbosity
    if fields.documents:
        variables["documents"] = fields.documents
    return variables | (fields.chat_template_kwargs or {})


def templating(fields: ChatRequest | TokenizeChat, variables: dict[str, Any]) -> Templating:
    return Templating(
        variables=variables,
        add_generation_prompt=fields.add_generation_prompt is not False,
        continue_final_message=bool(fields.continue_final_message),
    )


def _stops(stop: str | list[str] | None) -> tuple[str, ...]:
    return () if stop is None else (stop,) if isinstance(stop, str) else tuple(stop)


def _prompts(prompt: str | list[str] | list[int] | list[list[int]]) -> list[dict[str, Any]]:
    """One mapping of GenerateRequest's field for each prompt."""
    if isinstance(prompt, str):
        return [{"prompt": prompt}]
    if isinstance(prompt[0], int):
        return [{"prompt_tokens": tuple(prompt)}]
    return [{"prompt": one} if isinstance(one, str) else {"prompt_tokens": tuple(one)} for one in prompt]
