"""What an engine is made for, and which requests it can never answer. Those are refused before they wait."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import get_args

from thaloom.base.errors import BadParameter, PromptTooLong
from thaloom.hal.ops import BLOCK_TOKENS
from thaloom.kernel.memory.pages import blocks_for
from thaloom.kernel.sched.chunks import DEFAULT_TARGETS, StepTargets
from thaloom.kernel.sched.steps import StepLimits
from thaloom.kernel.state.types import DEFAULT_PIN_SHARE
from thaloom.work.runtime.messages import Embed, Generate
from thaloom.work.runtime.types import MAX_PIN_S, MAX_TOP_LOGPROBS, Pooling, Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """What an engine is made for. `num_blocks` is the size of the pool that is bound to the Executable."""

    vocab_size: int
    context_length: int
    num_blocks: int
    limits: StepLimits
    max_queue: int
    """Requests that may wait beyond those in a full step."""
    prefix_reuse: bool = True
    targets: StepTargets = DEFAULT_TARGETS
    """What running requests bear while prompts come in."""
    pin_share: float = DEFAULT_PIN_SHARE
    """Of the blocks that are promised, so much may be pinned; 0: nothing."""
    salt: bytes = b""
    """Names what stored keys and values depend on besides the tokens (model digest, dtype)."""


def as_generate(request: Embed) -> tuple[Generate, Pooling]:
    """A request for a state as one whose answer nobody wants."""
    pooling = next((known for known in get_args(Pooling) if known == request.pooling), None)
    if pooling is None:
        raise BadParameter(f"pooling must be mean or last, not {request.pooling!r}", param="pooling")
    plain = Generate(
        id=request.id,
        prompt=request.prompt,
        max_tokens=0,
        temperature=0.0,
        top_k=0,
        top_p=1.0,
        min_p=0.0,
        seed=0,
        stop_tokens=[],
        logprobs=None,
    )
    return plain, pooling


def admit(request: Generate, config: EngineConfig) -> Sampling:
    """The request's sampling, checked with all the rest of it. Raises BadParameter or PromptTooLong."""
    _check_prompt(request.prompt, config.vocab_size)
    if request.max_tokens < 0:
        raise BadParameter(f"max_tokens must not be negative, not {request.max_tokens}", param="max_tokens")
    if not 0 <= request.min_tokens <= request.max_tokens:
        raise BadParameter(
            f"min_tokens must be between 0 and max_tokens, {request.max_tokens}, not {request.min_tokens}",
            param="min_tokens",
        )
    _check_tokens("logit_bias", (token for token, _ in request.logit_bias), config.vocab_size)
    _check_tokens("report", request.report, config.vocab_size)
    for name, count in (("logprobs", request.logprobs), ("prompt_logprobs", request.prompt_logprobs)):
        if count is not None and not 0 <= count <= MAX_TOP_LOGPROBS:
            raise BadParameter(f"{name} must be between 0 and {MAX_TOP_LOGPROBS}, not {count}", param=name)
    _check_pins(request)
    sampling = Sampling(
        temperature=request.temperature,
        top_k=request.top_k,
        top_p=request.top_p,
        min_p=request.min_p,
        seed=request.seed,
        frequency_penalty=request.frequency_penalty,
        presence_penalty=request.presence_penalty,
        repetition_penalty=request.repetition_penalty,
        logit_bias=tuple(request.logit_bias),
    )
    _check_length(len(request.prompt), request.max_tokens, config)
    return sampling


def _check_prompt(prompt: list[int], vocab_size: int) -> None:
    if not prompt:
        raise BadParameter("the prompt has no tokens", param="prompt")
    lowest, highest = min(prompt), max(prompt)
    if lowest < 0 or highest >= vocab_size:
        wrong = lowest if lowest < 0 else highest
        raise BadParameter(f"token {wrong} is outside the vocabulary of {vocab_size} tokens", param="prompt")


def _check_tokens(param: str, tokens: Iterable[int], vocab_size: int) -> None:
    for token in tokens:
        if not 0 <= token < vocab_size:
            raise BadParameter(f"token {token} is outside the vocabulary of {vocab_size} tokens", param=param)


def _check_pins(request: Generate) -> None:
    for num_tokens, seconds in request.pins:
        if not 0 <= num_tokens <= len(request.prompt):
            raise BadParameter(
                f"pins: {num_tokens} tokens of a prompt of {len(request.prompt)} cannot be pinned", param="pins"
            )
        if not 0 < seconds <= MAX_PIN_S:  # also refuses NaN
            raise BadParameter(f"pins: a pin lasts up to {MAX_PIN_S:g} seconds, not {seconds}", param="pins")


def most_blocks(num_prompt: int, max_tokens: int) -> int:
    """Blocks a request can ever hold: the last token it generates is never computed."""
    return blocks_for(num_prompt + max(max_tokens, 1) - 1)


def _check_length(num_prompt: int, max_tokens: int, config: EngineConfig) -> None:
    fits_pool = most_blocks(num_prompt, max_tokens) <= config.num_blocks
    if fits_pool and num_prompt + max_tokens <= config.context_length:
        return
    limit = min(config.context_length, config.num_blocks * BLOCK_TOKENS)
    raise PromptTooLong(
        f"the prompt has {num_prompt} tokens and {max_tokens} more are asked for, {num_prompt + max_tokens} together; "
        f"the context holds {limit}",
        param="prompt" if num_prompt >= limit else "max_tokens",
        prompt_tokens=num_prompt,
        max_tokens=max_tokens,
        context_length=limit,
    )
