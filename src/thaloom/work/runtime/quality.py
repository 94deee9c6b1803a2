"""What a model loses by being kept in fewer bits: perplexity, and the distance of its predictions from the original's.

A text is cut into windows; a model reads each from an empty cache and predicts every token from those before it. Two
models read the same windows in the same pieces, so their predictions are compared token by token:

    perplexity = exp(mean of -log p(token))          KL = sum over the vocabulary of p log(p / q), in nats

where p is the original's distribution and q the other's. Both are means over the scored tokens, computed in float64.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from thaloom.hal.driver import Backend, Limits, WeightSource
from thaloom.hal.ops import BLOCK_TOKENS, Program, Step
from thaloom.hal.types import DType, WeightFormat

F32 = NDArray[np.float32]
ROWS = 128
"""Tokens of one step."""
WINDOW = 512
SAMPLE = Path(__file__).with_name("quality_sample.txt")
"""The text that models are measured on unless another is given: of our own documents, English and Chinese."""


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens that are read together; those from `first` on are scored."""

    tokens: NDArray[np.int32]
    first: int = 1

    @property
    def targets(self) -> NDArray[np.int32]:
        return self.tokens[self.first :]


def cut(tokens: Sequence[int], length: int, stride: int | None = None) -> list[Window]:
    """Windows of `length` predictions, one `stride` further each (default: none shares a token but the one it begins
    with). Each token but the first is scored once, in the first window that reaches it."""
    stride = stride or length
    numbers = np.asarray(tokens, np.int32)
    windows = [Window(numbers[: length + 1])]
    for start in range(stride, len(numbers) - (length - stride) - 1, stride):
        windows.append(Window(numbers[start : start + length + 1], length - stride + 1))
    return [window for window in windows if len(window.targets)]


class LanguageModel:
    """A model made ready on a device, for reading windows one at a time. `close` gives everything back."""

    def __init__(
        self,
        program: Program,
        weights: WeightSource,
        backend: Backend,
        *,
        kv_dtype: DType,
        weight_format: WeightFormat = "stored",
        window: int = WINDOW,
    ) -> None:
        blocks = -(-window // BLOCK_TOKENS)
        limits = Limits(
            max_rows=ROWS, max_sequences=ROWS, max_context=window, kv_dtype=kv_dtype, weight_format=weight_format
        )
        self._executable = backend.compile(program, weights, limits)
        self._pool = backend.allocate(blocks * self._executable.block_bytes)
        self._executable.bind_pool(self._pool, blocks)
        self._table = np.arange(blocks, dtype=np.int32)[None]

    def predictions(self, windows: Iterable[Window]) -> Iterator[tuple[F32, NDArray[np.int32]]]:
        """(logits of some rows, the tokens that came next), for all scored tokens in order. The logits are valid until
        the next are asked for."""
        for window in windows:
            num_rows = len(window.tokens) - 1
            for begin in range(0, num_rows, ROWS):
                end = min(begin + ROWS, num_rows)
                first = max(begin, window.first - 1)
                logits = self._executable.run(self._step(window, begin, end, first))
                if first < end:
                    yield logits, window.tokens[first + 1 : end + 1]

    def close(self) -> None:
        self._executable.close()
        self._pool.free()

    def _step(self, window: Window, begin: int, end: int, first: int) -> Step:
        outputs = np.arange(min(first, end - 1), end, dtype=np.int32) - begin
        return Step(
            tokens=window.tokens[begin:end],
            positions=np.arange(begin, end, dtype=np.int32),
            sequences=np.zeros(end - begin, np.int32),
            block_tables=self._used(end),
            outputs=outputs.astype(np.int32),
        )

    def _used(self, length: int) -> NDArray[np.int32]:
        used = -(-length // BLOCK_TOKENS)
        return np.where(np.arange(self._table.shape[1])[None] < used, self._table, -1).astype(np.int32)


class Comparison:
    """Sums over the tokens of a text."""

    def __init__(self) -> None:
        self.num_tokens = 0
        self._surprise = self._original_surprise = self._divergence = 0.0

    def add(self, p: NDArray[np.float64], q: NDArray[np.float64], targets: NDArray[np.int32]) -> None:
        """Log-probabilities of the original and of the other for some rows, (rows, vocabulary), and the tokens that
        came next."""
        rows = np.arange(len(targets))
        self.num_tokens += len(targets)
        self._original_surprise -= float(p[rows, targets].sum())
        self._surprise -= float(q[rows, targets].sum())
        self._divergence += float((np.exp(p) * (p - q)).sum())

    @property
    def perplexity(self) -> float:
        return math.exp(self._surprise / self.num_tokens)

    @property
    def original_perplexity(self) -> float:
        return math.exp(self._original_surprise / self.num_tokens)

    @property
    def mean_kl(self) -> float:
        return self._divergence / self.num_tokens


def store_predictions(path: Path, model: LanguageModel, windows: Sequence[Window], vocab_size: int) -> Iterator[int]:
    """Write all logits to `path`, float32 (tokens, vocabulary), where two models do not fit at once.

    Gives the tokens done so far, again and again.
    """
    done = 0
    with path.open("wb") as file:
        for logits, targets in model.predictions(windows):
            file.write(np.ascontiguousarray(logits[:, :vocab_size]).data)
            done += len(targets)
            yield done


def stored_predictions(path: Path, vocab_size: int) -> F32:
    return np.memmap(path, np.float32, mode="r").reshape(-1, vocab_size)


def describe(text: str, name: str) -> str:
    """Which text, so that a figure means something later."""
    return f"{name} (SHA-256 {hashlib.sha256(text.encode()).hexdigest()[:16]})"


def log_softmax(logits: F32) -> NDArray[np.float64]:
    """Log-probabilities of each row, in float64."""
    values = logits.astype(np.float64)
    values -= values.max(axis=1, keepdims=True)
    values -= np.log(np.exp(values).sum(axis=1, keepdims=True))
    return values
