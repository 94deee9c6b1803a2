"""Sequences and row counts laid out as the arrays of one `hal.ops.Step`."""

from __future__ import annotations

from collections.abc import Sequence as Sequence_
from dataclasses import dataclass

import numpy as np

from thaloom.hal.ops import Step
from thaloom.work.runtime.sequence import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Tokens [start, end) of a sequence to be computed in this step. Fixed, whatever becomes of the sequence."""

    sequence: Sequence
    start: int
    end: int
    wants_token: bool
    """Whether its last token is among them, so that the next one can be chosen."""

    @classmethod
    def of(cls, sequence: Sequence, count: int) -> Work:
        """The next `count` tokens that are not computed."""
        end = sequence.num_computed + count
        return cls(sequence=sequence, start=sequence.num_computed, end=end, wants_token=end == len(sequence.tokens))


def lay_out(work: Sequence_[Work]) -> Step:
    """The step that computes `work`. Its outputs are in the order of the works that want a token."""
    tokens: list[int] = []
    positions: list[int] = []
    sequences: list[int] = []
    outputs: list[int] = []
    tables = np.full((len(work), max(len(item.sequence.blocks) for item in work)), -1, dtype=np.int32)
    for index, item in enumerate(work):
        tokens += item.sequence.tokens[item.start : item.end]
        positions += range(item.start, item.end)
        sequences += [index] * (item.end - item.start)
        tables[index, : len(item.sequence.blocks)] = item.sequence.blocks
        if item.wants_token:
            outputs.append(len(tokens) - 1)
    return Step(
        tokens=np.array(tokens, dtype=np.int32),
        positions=np.array(positions, dtype=np.int32),
        sequences=np.array(sequences, dtype=np.int32),
        block_tables=tables,
        outputs=np.array(outputs, dtype=np.int32),
    )
