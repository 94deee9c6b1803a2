"""Sequences and row counts laid out as the arrays of one `hal.ops.Step`."""

from __future__ import annotations

from collections.abc import Sequence as Sequence_
from dataclasses import dataclass

import numpy as np

from thaloom.hal.ops import Step
from thaloom.kernel.sched.step_times import StepShape
from thaloom.work.runtime.core.sequence import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Tokens [start, end) of a sequence to be computed in this step. Fixed, whatever becomes of the sequence."""

    sequence: Sequence
    start: int
    end: int
    wants_token: bool
    """Whether its last token is among them, so that the next one can be chosen."""
    draft: tuple[int, ...] = ()
    """Guesses at the tokens after its last, computed too so that they can be verified; positions from `end` on."""
    reported: range = range(0)
    """Positions whose rows are wanted beside those for tokens: of the prompt's log-probabilities, or of states."""

    @property
    def num_drawn(self) -> int:
        """Rows from which a token is chosen."""
        return 1 + len(self.draft) if self.wants_token else 0

    @property
    def num_outputs(self) -> int:
        return len(self.reported) + self.num_drawn

    @classmethod
    def of(cls, sequence: Sequence, count: int) -> Work:
        """The next `count` tokens that are not computed."""
        start, end = sequence.num_computed, sequence.num_computed + count
        is_last = end == len(sequence.tokens)
        reported = range(0)
        if sequence.pooling is not None:
            reported = range(start if sequence.pooling == "mean" else max(start, len(sequence.tokens) - 1), end)
        elif sequence.request.prompt_logprobs is not None:
            reported = range(max(start, sequence.num_told), min(end, len(sequence.request.prompt) - 1))
        wants_token = is_last and sequence.pooling is None
        return cls(sequence=sequence, start=start, end=end, wants_token=wants_token, reported=reported)


def shape_of(work: Sequence_[Work]) -> StepShape:
    """What the time of a step that computes `work` depends on."""
    rows = outputs = attended = 0
    for item in work:
        count = item.end - item.start + len(item.draft)
        rows += count
        attended += count * item.start + count * (count + 1) // 2
        outputs += item.num_outputs
    return StepShape(rows, outputs, attended)


def lay_out(work: Sequence_[Work]) -> Step:
    """The step that computes `work`. Its outputs are in the order of the works: for each the rows that are reported,
    then, if it wants a token, the row of its last one and those of its draft. All want states, or none does."""
    tokens: list[int] = []
    positions: list[int] = []
    sequences: list[int] = []
    outputs: list[int] = []
    tables = np.full((len(work), max(len(item.sequence.blocks) for item in work)), -1, dtype=np.int32)
    for index, item in enumerate(work):
        first = len(tokens) - item.start  # where position 0 would stand
        last = len(tokens) + item.end - item.start - 1
        tokens += item.sequence.tokens[item.start : item.end]
        tokens += item.draft
        positions += range(item.start, item.end + len(item.draft))
        sequences += [index] * (len(tokens) - len(sequences))
        tables[index, : len(item.sequence.blocks)] = item.sequence.blocks
        outputs += range(first + item.reported.start, first + item.reported.stop)
        outputs += range(last, last + item.num_drawn)
    return Step(
        tokens=np.array(tokens, dtype=np.int32),
        positions=np.array(positions, dtype=np.int32),
        sequences=np.array(sequences, dtype=np.int32),
        block_tables=tables,
        outputs=np.array(outputs, dtype=np.int32),
        states=work[0].sequence.pooling is not None,
        greedy=all(item.sequence.chooser.is_greedy and not item.reported for item in work),
    )
