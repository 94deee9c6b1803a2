"""Guessed tokens in a step: which sequences get how many, and the blocks they need.

Guesses come from each sequence's own tokens (`lookup`), how many are worth their rows is decided in
`kernel.sched.drafts`. The engine keeps a guess only if the model chooses the same token at that position, and the
draw for a position depends on the request's seed and the position alone: answers are the same to the bit, greedy or
drawn, and only come sooner. What wrong guesses left in the blocks lies beyond `num_computed` and is written over.
"""

from __future__ import annotations

import dataclasses

from thaloom.hal.ops import BLOCK_TOKENS
from thaloom.kernel.memory.pages import BlockPool, blocks_for
from thaloom.kernel.sched.drafts import Offer, choose_drafts
from thaloom.kernel.sched.step_times import StepTimes
from thaloom.kernel.sched.steps import StepLimits
from thaloom.work.runtime.core.batch import Work, shape_of
from thaloom.work.runtime.core.lookup import Lookup, first_belief
from thaloom.work.runtime.core.sequence import Sequence

MOST_GUESSES = 15
"""For one sequence in one step: 16 rows with the one it decodes, a whole tile of any processor."""
_WEIGHT_OF_OTHERS = 4.0
"""Trials that what other sequences showed is worth to a new one."""


class Speculation:
    """One for an engine. One thread at a time (its engine's lock)."""

    def __init__(self, limits: StepLimits, pool: BlockPool) -> None:
        self._limits = limits
        self._pool = pool
        self._shared = first_belief()

    def add_drafts(self, work: list[Work], times: StepTimes | None, num_running: int) -> list[Work]:
        """The same work, with guesses where they pay. Takes blocks for them only while there are plenty."""
        if self._limits.draft_rows == 0:
            return work
        places = [index for index, item in enumerate(work) if item.wants_token and item.end - item.start == 1]
        offers = [self._offer(work[index].sequence) for index in places]
        if not any(offer.most for offer in offers):
            return work
        shape = shape_of(work)
        most_rows = min(self._limits.draft_rows, self._limits.max_rows - shape.rows)
        counts = choose_drafts(offers, shape, most_rows, times)
        for index, count in zip(places, counts, strict=True):
            if count:
                work[index] = self._with_draft(work[index], count, num_running)
        return work

    def _offer(self, sequence: Sequence) -> Offer:
        lookup = self._read(sequence)
        length = len(sequence.tokens)
        if sequence.chooser.looks_back:
            return Offer(length, 0, 0.0, 0.0)
        left = sequence.request.max_tokens - sequence.num_generated - 1  # the last token is never computed
        if left < 1 or not lookup.ready:
            return Offer(length, 0, 0.0, 0.0)
        return Offer(length, min(left, MOST_GUESSES), *lookup.chances)

    def _read(self, sequence: Sequence) -> Lookup:
        lookup = sequence.lookup
        if lookup is None:
            lookup = sequence.lookup = Lookup(self._shared.as_belief(_WEIGHT_OF_OTHERS), self._shared)
        lookup.read(sequence.tokens, len(sequence.request.prompt))
        return lookup

    def _with_draft(self, item: Work, count: int, num_running: int) -> Work:
        sequence = item.sequence
        assert sequence.lookup is not None, "an offer without a lookup"
        missing = blocks_for(item.end + count) - len(sequence.blocks)
        if missing > 0 and self._pool.unpinned_blocks >= missing + num_running:
            # nobody is preempted for a guess, and no pin breaks for one
            sequence.blocks += self._pool.allocate(missing) or []
        count = min(count, len(sequence.blocks) * BLOCK_TOKENS - item.end)
        return dataclasses.replace(item, draft=tuple(sequence.lookup.guess(sequence.tokens, count)))
