"""One request on its way through the engine: its tokens, its blocks, how far it has come."""

from __future__ import annotations

from typing import Literal, NewType

from thaloom.hal.ops import BLOCK_TOKENS
from thaloom.kernel.memory.pages import BlockKey, block_keys
from thaloom.work.runtime.lookup import Lookup
from thaloom.work.runtime.messages import Finished, Generate, Started
from thaloom.work.runtime.types import FinishReason, Sampling

Ticket = NewType("Ticket", int)
"""Number of a request within its engine, in order of arrival. (Ids from outside may repeat.)"""

SequenceState = Literal["waiting", "running", "ended"]


class Sequence:
    """Changed by its engine only. `tokens` are the prompt and what was generated; of these the first `num_computed`
    have their keys and values in `blocks`."""

    __slots__ = (
        "_keys",
        "_root",
        "admitted_at",
        "blocks",
        "cached_tokens",
        "first_token_at",
        "lookup",
        "num_computed",
        "num_overtaken",
        "num_published",
        "request",
        "sampling",
        "state",
        "stop_tokens",
        "submitted_at",
        "ticket",
        "tokens",
    )

    def __init__(self, request: Generate, sampling: Sampling, *, root: BlockKey, now: float) -> None:
        self.ticket = Ticket(0)
        """Given when it joins the queue."""
        self.request = request
        self.sampling = sampling
        self.stop_tokens = frozenset(request.stop_tokens)
        self.tokens = list(request.prompt)
        self.state: SequenceState = "waiting"
        self.blocks: list[int] = []
        self.num_computed = 0
        self.num_overtaken = 0
        self.num_published = 0
        self.cached_tokens = 0
        self.submitted_at = now
        self.admitted_at: float | None = None
        self.first_token_at: float | None = None
        self.lookup: Lookup | None = None
        """Guesses how it goes on; made when it first decodes, unless nobody may guess."""
        self._root = root
        self._keys: list[BlockKey] = []

    @property
    def num_generated(self) -> int:
        return len(self.tokens) - len(self.request.prompt)

    def keys(self, num_blocks: int) -> list[BlockKey]:
        """Keys of its first `num_blocks` full blocks, each computed once."""
        done = len(self._keys)
        if num_blocks > done:
            parent = self._keys[-1] if self._keys else self._root
            self._keys += block_keys(parent, self.tokens[done * BLOCK_TOKENS : num_blocks * BLOCK_TOKENS])
        return self._keys[:num_blocks]

    def reusable_keys(self) -> list[BlockKey]:
        """Keys of the blocks it could take from the cache: never its last token, whose logits are wanted."""
        return self.keys((len(self.tokens) - 1) // BLOCK_TOKENS)

    def begin_answer(self, now: float) -> Started:
        """Its first token is there."""
        self.first_token_at = now
        admitted = self.submitted_at if self.admitted_at is None else self.admitted_at
        return Started(cached_tokens=self.cached_tokens, queue_s=admitted - self.submitted_at, prefill_s=now - admitted)

    def finished(self, reason: FinishReason, *, completion_tokens: int, now: float) -> Finished:
        admitted = self.submitted_at if self.admitted_at is None else self.admitted_at
        first = now if self.first_token_at is None else self.first_token_at
        return Finished(
            reason=reason,
            prompt_tokens=len(self.request.prompt),
            completion_tokens=completion_tokens,
            cached_tokens=self.cached_tokens,
            queue_s=admitted - self.submitted_at,
            prefill_s=first - admitted,
            decode_s=now - first,
        )
