"""What is measured: the cells of the table, and the classes that engines are compared within."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

WeightClass = Literal["8 bit", "4 bit", "16 bit"]
WEIGHT_CLASSES: tuple[WeightClass, ...] = ("8 bit", "4 bit", "16 bit")
NUM_DECODED = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One figure of an engine, in tokens per second of all sequences together.

    decode: `batch` prompts of `prompt` tokens each, 64 tokens decoded after each; the time of decoding alone where the
    engine tells it, else the time of 65 tokens less that of 1.
    prefill: one prompt, time to its first token.
    """

    kind: Literal["decode", "prefill"]
    batch: int
    prompt: int
    only: str = ""
    """Compared only with engines that have this in their names."""
    costly: bool = False
    """Measured in every other round: it takes long."""

    def __post_init__(self) -> None:
        if min(self.batch, self.prompt) < 1 or (self.kind == "prefill" and self.batch != 1):
            raise ValueError(f"no such cell: {self}")

    @property
    def name(self) -> str:
        if self.kind == "prefill":
            return f"prefill {self.prompt}"
        return f"decode {self.batch}" + ("" if self.prompt == 128 else f" at {self.prompt}")

    @property
    def is_long(self) -> bool:
        """Whether prompts take so much longer than 64 tokens that a difference of two times is all noise: such a cell
        is for engines that tell the time of decoding alone."""
        return self.kind == "decode" and self.prompt > 1024

    @property
    def follows_memory(self) -> bool:
        """Whether the rate follows the memory's speed so closely that a pair in which that moved says nothing."""
        return self.kind == "decode" and self.batch == 1

    def decoded(self, one_s: float, many_s: float) -> float:
        """Tokens/s from the time of 1 generated token and the time of 65. Raises ValueError if 65 were not slower."""
        if many_s <= one_s:
            raise ValueError(f"{1 + NUM_DECODED} tokens took {many_s:.4f} s and one took {one_s:.4f} s")
        return self.batch * NUM_DECODED / (many_s - one_s)


def decode(batch: int, prompt: int = 128) -> Cell:
    return Cell(kind="decode", batch=batch, prompt=prompt)


def prefill(prompt: int) -> Cell:
    return Cell(kind="prefill", batch=1, prompt=prompt)


CELLS = (
    decode(1),
    decode(4),
    decode(16),
    decode(32),
    prefill(512),
    prefill(2048),
    Cell(kind="decode", batch=1, prompt=2016, only="llama.cpp Q8_0", costly=True),
    Cell(kind="decode", batch=4, prompt=2016, only="llama.cpp Q8_0", costly=True),
)
SHORT_CELLS = (decode(1, 32), decode(4, 32), prefill(64))
"""For the smoke run on a toy model."""

MAX_BATCH = 32
STEP_TOKENS = MAX_BATCH * 128
"""Tokens a scheduler may put into one step: the prompts of the largest batch. Who cuts prompts finer computes some of
them beside rows that decode already, and the difference of two times would count that as decoding."""
MAX_CONTEXT = 2112
"""Tokens a sequence may have: the longest prompt, what is decoded after it, and a block to spare."""
