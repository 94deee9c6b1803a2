"""Sequences of tokens, and the steps they are cut into: alone, together, in chunks, on any blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thaloom.hal.ops import BLOCK_TOKENS, Step

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSequence:
    """Tokens (n,), and the blocks that hold them."""

    tokens: I32
    table: I32
    adapter: int = -1

    def __len__(self) -> int:
        return len(self.tokens)


Chunk = tuple[int, int, int]
"""(which sequence, first position, position after the last)."""
Schedule = list[list[Chunk]]
"""Chunks of each step, each step's in order of sequence."""


def make_sequences(
    lengths: Sequence[int],
    rng: np.random.Generator,
    *,
    vocab_size: int,
    num_blocks: int,
    adapters: Sequence[int] = (-1,),
) -> list[TokenSequence]:
    """Random tokens on blocks dealt at random. Raises ValueError if the pool is too small."""
    needed = [-(-length // BLOCK_TOKENS) for length in lengths]
    if sum(needed) > num_blocks:
        raise ValueError(f"{sum(needed)} blocks are needed, the pool has {num_blocks}")
    dealt = iter(np.split(rng.permutation(num_blocks)[: sum(needed)].astype(np.int32), np.cumsum(needed)[:-1]))
    return [
        TokenSequence(
            tokens=rng.integers(0, vocab_size, length).astype(np.int32),
            table=next(dealt),
            adapter=adapters[index % len(adapters)],
        )
        for index, length in enumerate(lengths)
    ]


def moved(sequences: Iterable[TokenSequence], rng: np.random.Generator, num_blocks: int) -> list[TokenSequence]:
    """The same tokens on other blocks."""
    kept = list(sequences)
    new = make_sequences([len(item) for item in kept], rng, vocab_size=1, num_blocks=num_blocks)
    return [
        TokenSequence(tokens=old.tokens, table=other.table, adapter=old.adapter)
        for old, other in zip(kept, new, strict=True)
    ]


def together(sequences: Sequence[TokenSequence]) -> Schedule:
    """All of everything in one step."""
    return [[(index, 0, len(sequence)) for index, sequence in enumerate(sequences)]]


def one_by_one(sequences: Sequence[TokenSequence]) -> Schedule:
    """A step for each sequence."""
    return [[(index, 0, len(sequence))] for index, sequence in enumerate(sequences)]


def chopped(sequences: Sequence[TokenSequence], rng: np.random.Generator, *, largest: int = 9) -> Schedule:
    """Random chunks of random sequences until all are done: prefill and decode rows mixed as they come."""
    done = [0] * len(sequences)
    schedule: Schedule = []
    while any(position < len(sequence) for position, sequence in zip(done, sequences, strict=True)):
        step: list[Chunk] = []
        for index, sequence in enumerate(sequences):
            left = len(sequence) - done[index]
            if left and (rng.random() < 0.6):
                size = min(left, 1 if rng.random() < 0.5 else int(rng.integers(1, largest + 1)))
                step.append((index, done[index], done[index] + size))
                done[index] += size
        if step:
            schedule.append(step)
    return schedule


def make_step(sequences: Sequence[TokenSequence], chunks: Sequence[Chunk]) -> Step:
    """One step of those chunks; every row is an output."""
    tokens, positions, owners, adapters = [], [], [], []
    width = max(len(sequences[index].table) for index, _, _ in chunks)
    tables = np.full((len(chunks), width), -1, np.int32)
    for row, (index, start, stop) in enumerate(chunks):
        sequence = sequences[index]
        tokens.append(sequence.tokens[start:stop])
        positions.append(np.arange(start, stop, dtype=np.int32))
        owners.append(np.full(stop - start, row, np.int32))
        adapters.append(np.full(stop - start, sequence.adapter, np.int32))
        used = -(-stop // BLOCK_TOKENS)
        tables[row, :used] = sequence.table[:used]
    num_rows = sum(len(part) for part in tokens)
    return Step(
        tokens=np.concatenate(tokens),
        positions=np.concatenate(positions),
        sequences=np.concatenate(owners),
        block_tables=tables,
        outputs=np.arange(num_rows, dtype=np.int32),
        adapters=np.concatenate(adapters),
    )


def play(run: Callable[[Step], F32], sequences: Sequence[TokenSequence], schedule: Schedule) -> list[F32]:
    """Run the schedule; the result of every row, by sequence: (n, width) each (empty where never scheduled)."""
    rows: list[list[F32]] = [[] for _ in sequences]
    for chunks in schedule:
        result = np.array(run(make_step(sequences, chunks)))
        offset = 0
        for index, start, stop in chunks:
            rows[index].append(result[offset : offset + stop - start])
            offset += stop - start
    return [np.concatenate(parts) if parts else np.zeros((0, 0), np.float32) for parts in rows]
