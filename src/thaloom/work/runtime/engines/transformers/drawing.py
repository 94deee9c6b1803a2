"""The next token out of a row of logits; penalties, filters and draws as types.Sampling means them. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]
"""(vocab_size,)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    temperature: float = 1.0
    top_k: int = 0
    """0: all."""
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    """None: drawn anew."""


class Draws:
    """Those of one answer."""

    def __init__(self, settings: Settings, prompt: Sequence[int]) -> None:
        self._settings = settings
        self._random = np.random.default_rng(settings.seed)
        self._in_prompt = np.unique(np.array(prompt, np.int64))
        self._told: Counter[int] = Counter()

    def next(self, logits: Logits, banned: Sequence[int] = ()) -> int:
        """Never one of `banned`."""
        scores = logits.astype(np.float64)
        self._penalise(scores)
        for token, bias in self._settings.logit_bias.items():
            if token < len(scores):
                scores[token] += bias
        scores[[token for token in banned if token < len(scores)]] = -np.inf
        token = int(scores.argmax()) if self._settings.temperature == 0 else self._draw(scores)
        self._told[token] += 1
        return token

    def _penalise(self, scores: NDArray[np.float64]) -> None:
        """Sources: N. Keskar et al., "CTRL", 2019, 4.1 (repetition: prompt and answer); OpenAI's API reference
        (frequency, presence: the answer alone)."""
        told = np.array(list(self._told), np.int64)
        if self._settings.repetition_penalty != 1.0:
            seen = np.union1d(self._in_prompt[self._in_prompt < len(scores)], told)
            before, by = scores[seen], self._settings.repetition_penalty
            scores[seen] = np.where(before > 0, before / by, before * by)
        if len(told):
            counts = np.array(list(self._told.values()), np.float64)
            scores[told] -= self._settings.frequency_penalty * counts + self._settings.presence_penalty

    def _draw(self, scores: NDArray[np.float64]) -> int:
        settings = self._settings
        order = np.argsort(-scores, kind="stable")
        if settings.top_k:
            order = order[: settings.top_k]
        chances = np.exp((scores[order] - scores[order[0]]) / settings.temperature)
        chances /= chances.sum()
        kept = chances >= settings.min_p * chances[0]
        kept &= np.cumsum(chances) - chances < settings.top_p  # the first that reaches it still counts
        kept[0] = True
        chances = np.where(kept, chances, 0.0)
        place = np.searchsorted(np.cumsum(chances), self._random.random() * chances.sum(), side="right")
        return int(order[min(int(place), int(np.flatnonzero(kept)[-1]))])


def logprobs_of(logits: Logits) -> NDArray[np.float64]:
    """Of the model's own distribution, before anything is done to it."""
    wide = logits.astype(np.float64)
    largest = wide.max()
    shifted: NDArray[np.float64] = wide - (largest + np.log(np.exp(wide - largest).sum()))
    return shifted
