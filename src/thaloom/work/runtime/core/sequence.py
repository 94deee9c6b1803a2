"""One request on its way through the engine: its tokens, its blocks, how far it has come."""

from __future__ import annotations

from typing import Literal, NewType

import numpy as np
from numpy.typing import NDArray

from thaloom.hal.ops import BLOCK_TOKENS
from thaloom.kernel.memory.pages import BlockKey, block_keys
from thaloom.kernel.sched.steps import NO_LIMIT
from thaloom.work.runtime.core.choosing import Chooser
from thaloom.work.runtime.core.lookup import Lookup
from thaloom.work.runtime.messages import Finished, Generate, Started
from thaloom.work.runtime.types import FinishReason, Pooling

Ticket = NewType("Ticket", int)
"""Number of a request within its engine, in order of arrival. (Ids from outside may repeat.)"""

MOST_REPORTED_ROWS = 32
SequenceState = Literal["waiting", "running", "ended"]


class Sequence:
    """Changed by its engine only. `tokens` are the prompt and what was generated; of these the first `num_computed`
    have their keys and values in `blocks`."""

    __slots__ = (
        "_keys",
        "admitted_at",
        "blocks",
        "cached_tokens",
        "chooser",
        "first_token_at",
        "looked_ahead",
        "lookup",
        "num_computed",
        "num_overtaken",
        "num_pinned",
        "num_published",
        "num_told",
        "pooled",
        "pooling",
        "request",
        "restored",
        "root",
        "state",
        "stop_tokens",
        "submitted_at",
        "ticket",
        "tokens",
    )

    def __init__(
        self, request: Generate, chooser: Chooser, *, root: BlockKey, now: float, pooling: Pooling | None = None
    ) -> None:
        self.ticket = Ticket(0)
        """Given when it joins the queue."""
        self.request = request
        self.chooser = chooser
        self.pooling = pooling
        """How its states become one; None: tokens are wanted, and no states."""
        self.pooled: NDArray[np.float64] | None = None
        """(D,) the sum of its states so far, or the last of them."""
        self.num_told = 0
        """Positions of the prompt whose log-probabilities are told; `request.prompt_logprobs` says if any are."""
        self.stop_tokens = frozenset(request.stop_tokens)
        self.tokens = list(request.prompt)
        self.state: SequenceState = "waiting"
        self.blocks: list[int] = []
        self.num_computed = 0
        self.num_overtaken = 0
        self.num_pinned = 0
        """Of its first blocks: pinned since it was let in."""
        self.num_published = 0
        self.cached_tokens = 0
        self.submitted_at = now
        self.admitted_at: float | None = None
        self.first_token_at: float | None = None
        self.lookup: Lookup | None = None
        """Guesses how it goes on; made when it first decodes, unless nobody may guess."""
        self.looked_ahead = False
        """Whether the tiers were told what it will ask for."""
        self.restored: tuple[int, float] | None = None
        """While it waits for its blocks to come back: how many were there when last one came, and when that was."""
        self.root = root
        self._keys: list[BlockKey] = []

    @property
    def most_rows(self) -> int:
        """In one step: logits of a whole vocabulary are kept for each row that is reported."""
        return MOST_REPORTED_ROWS if self.request.prompt_logprobs is not None else NO_LIMIT

    @property
    def num_generated(self) -> int:
        return len(self.tokens) - len(self.request.prompt)

    @property
    def num_to_pin(self) -> int:
        """Of its first blocks."""
        return max((num_tokens for num_tokens, _ in self.request.pins), default=0) // BLOCK_TOKENS

    def pin_s(self, index: int) -> float:
        """For how long its block of this index, one of those, is to be pinned."""
        end = (index + 1) * BLOCK_TOKENS
        return max(seconds for num_tokens, seconds in self.request.pins if num_tokens >= end)

    def keys(self, num_blocks: int) -> list[BlockKey]:
        """Keys of its first `num_blocks` full blocks, each computed once."""
        done = len(self._keys)
        if num_blocks > done:
            parent = self._keys[-1] if self._keys else self.root
            self._keys += block_keys(parent, self.tokens[done * BLOCK_TOKENS : num_blocks * BLOCK_TOKENS])
        return self._keys[:num_blocks]

    def reusable_keys(self) -> list[BlockKey]:
        """Keys of the blocks it could take from the cache: never its last token, whose logits are wanted. None where
        something is wanted of every token."""
        if self.request.prompt_logprobs is not None or self.pooling == "mean":
            return []
        return self.keys((len(self.tokens) - 1) // BLOCK_TOKENS)

    def begin_answer(self, now: float) -> Started:
        """Its first token is there."""
        self.first_token_at = now
        admitted = self.submitted_at if self.admitted_at is None else self.admitted_at
        return Started(
            cached_tokens=self.cached_tokens,
            queue_s=admitted - self.submitted_at,
            prefill_s=now - admitted,
            pinned_tokens=self.num_pinned * BLOCK_TOKENS,
        )

    def finished(self, reason: FinishReason, *, completion_tokens: int, stop_token: int | None, now: float) -> Finished:
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
            stop_token=stop_token,
            pinned_tokens=self.num_pinned * BLOCK_TOKENS,
        )
