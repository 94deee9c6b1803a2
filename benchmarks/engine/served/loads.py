"""What clients ask for: fixed lengths, and lengths of real conversations scaled down to the context of the run.

The conversation lengths are every hundredth row of AzureLLMInferenceTrace_conv.csv of the Azure Public Dataset
(CC-BY-4.0; Patel et al., Splitwise, ISCA 2024), in order of arrival. The prompts are random token ids.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.engine.served.client import Ask

CONVERSATIONS = Path(__file__).resolve().parent / "azure_conversation_lengths.csv"
AZURE_SCALE = 1 / 4
"""The longest conversation (14,050 tokens and their answer) then fits a context of 4,096."""
CONTEXT = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """`lengths` of (prompt, answer) that `num_clients` work through together."""

    name: str
    num_clients: int
    lengths: tuple[tuple[int, int], ...]

    def asks(self, vocabulary: int, seed: int) -> list[Ask]:
        chance = random.Random(seed)
        return [
            Ask(prompt=tuple(chance.randrange(3, vocabulary) for _ in range(prompt)), new_tokens=answer)
            for prompt, answer in self.lengths
        ]


def fixed(num_clients: int, *, rounds: int = 2) -> Load:
    return Load(
        name=f"{num_clients} clients, 128 in, 32 out",
        num_clients=num_clients,
        lengths=((128, 32),) * (num_clients * rounds),
    )


def conversations(num_clients: int, num_requests: int) -> Load:
    with CONVERSATIONS.open(newline="") as file:
        rows = [(int(row["context_tokens"]), int(row["generated_tokens"])) for row in csv.DictReader(file)]
    return Load(
        name=f"{num_clients} clients, Azure conversations / 4",
        num_clients=num_clients,
        lengths=scaled(rows[:num_requests]),
    )


def scaled(rows: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """At least one token each way, at least two of an answer so that it has a time per token."""
    return tuple((max(1, round(prompt * AZURE_SCALE)), max(2, round(answer * AZURE_SCALE))) for prompt, answer in rows)


LOADS = (fixed(16), fixed(32), conversations(16, 48))
SHORT_LOADS = (Load(name="2 clients, 16 in, 4 out", num_clients=2, lengths=((16, 4),) * 4),)
