"""What an engine is made for, and which requests it can never answer. Those are refused before they wait."""

from __future__ import annotations

from dataclasses import dataclass

from thaloom.base.errors import BadParameter, PromptTooLong
from thaloom.hal.ops import BLOCK_TOKENS
from thaloom.kernel.memory.pages import blocks_for
from thaloom.kernel.sched.chunks import DEFAULT_TARGETS, StepTargets
from thaloom.kernel.sched.steps import StepLimits
from thaloom.work.runtime.messages import Generate
from thaloom.work.runtime.types import MAX_TOP_LOGPROBS, Sampling


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
    salt: bytes = b""
    """Names what stored keys and values depend on besides the tokens (model digest, dtype)."""


def admit(request: Generate, config: EngineConfig) -> Sampling:
    """The request's sampling, checked with all the rest of it. Raises BadParameter or PromptTooLong."""
    _check_prompt(request.prompt, config.vocab_size)
    if request.max_tokens < 1:
        raise BadParameter(f"max_tokens must be at least 1, not {request.max_tokens}", param="max_tokens")
    if request.logprobs is not None and not 0 <= request.logprobs <= MAX_TOP_LOGPROBS:
        raise BadParameter(
            f"logprobs must be between 0 and {MAX_TOP_LOGPROBS}, not {request.logprobs}", param="logprobs"
        )
    sampling = Sampling(
        temperature=request.temperature,
        top_k=request.top_k,
        top_p=request.top_p,
        min_p=request.min_p,
        seed=request.seed,
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


def most_blocks(num_prompt: int, max_tokens: int) -> int:
    """Blocks a request can ever hold: the last token it generates is never computed."""
    return blocks_for(num_prompt + max_tokens - 1)


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
