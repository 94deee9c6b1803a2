"""From a request, and a model's way with text, to what the worker is asked: pure."""

from __future__ import annotations

import dataclasses
import secrets

from thaloom.base.errors import BadParameter, PromptTooLong
from thaloom.work.runtime.frontend.conversing import constraint_for
from thaloom.work.runtime.frontend.prompting import Speech, prompt_field
from thaloom.work.runtime.messages import Embed, Generate, Grammar
from thaloom.work.runtime.types import PRIORITIES, Constraint, EmbedRequest, GenerateRequest, Pooling, Sampling


def message_of(request: GenerateRequest, prompt: list[int], speech: Speech, context_length: int | None) -> Generate:
    """What the worker is asked, but for its pins. Raises PromptTooLong naming both lengths, BadParameter for a sampling
    field."""
    wanted = 1 if request.max_tokens is None else request.max_tokens
    if context_length is None:
        context_length = len(prompt) + wanted  # nobody knows: the worker decides
    if request.up_to_context:
        wanted = max(1, min(wanted, context_length - len(prompt)))
    if len(prompt) + wanted > context_length:
        more = "" if request.max_tokens is None else f" and {wanted} more are asked for"
        raise PromptTooLong(
            f"the prompt has {len(prompt)} tokens{more}; the context of {request.model!r} holds {context_length}",
            param=prompt_field(request),
            prompt_tokens=len(prompt),
            max_tokens=request.max_tokens,
            context_length=context_length,
        )
    constraint = constraint_for(request, prompt, speech)
    sampling: Sampling = dataclasses.replace(request.sampling or speech.sampling, **request.sampling_changes)
    return Generate(
        id=request.id,
        prompt=prompt,
        max_tokens=context_length - len(prompt) if request.max_tokens is None else wanted,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        seed=secrets.randbits(63) if sampling.seed is None else sampling.seed,
        stop_tokens=stop_tokens_of(request, speech),
        logprobs=request.logprobs,
        frequency_penalty=sampling.frequency_penalty,
        presence_penalty=sampling.presence_penalty,
        repetition_penalty=sampling.repetition_penalty,
        logit_bias=_bias(sampling, speech),
        min_tokens=request.min_tokens,
        grammar=None if constraint is None else _grammar(constraint, speech),
        prompt_logprobs=request.logprobs if request.echo else None,
        rank=PRIORITIES.index(request.priority),
        cache_salt=request.cache_salt,
        owner=request.owner,
    )


def stop_tokens_of(request: GenerateRequest, speech: Speech) -> list[int]:
    """Raises BadParameter."""
    speech.tokenizer.check_tokens(request.stop_tokens, "stop_token_ids")
    own = () if request.ignore_eos else speech.tokenizer.stop_tokens
    return sorted({*own, *request.stop_tokens})


def _grammar(constraint: Constraint, speech: Speech) -> Grammar:
    ends = list(speech.tokenizer.stop_tokens)
    return Grammar(kind=constraint.kind, text=constraint.text, param=constraint.param, ends=ends)


def _bias(sampling: Sampling, speech: Speech) -> list[tuple[int, float]]:
    for token, _ in sampling.logit_bias:
        if not 0 <= token < speech.tokenizer.vocab_size:
            raise BadParameter(
                f"logit_bias names token {token}, the model's tokens are 0 to {speech.tokenizer.vocab_size - 1}",
                param="logit_bias",
            )
    return list(sampling.logit_bias)


def embed_message(request: EmbedRequest, prompt: list[int], pooling: Pooling, context_length: int | None) -> Embed:
    """Raises PromptTooLong naming both lengths."""
    if context_length is not None and len(prompt) > context_length:
        raise PromptTooLong(
            f"the text has {len(prompt)} tokens; the context of {request.model!r} holds {context_length}",
            param="input",
            prompt_tokens=len(prompt),
            context_length=context_length,
        )
    return Embed(id=request.id, prompt=prompt, pooling=pooling)
