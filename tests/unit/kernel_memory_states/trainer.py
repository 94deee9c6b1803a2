"""A small trainer: a multi-layer perceptron and AdamW in NumPy, layer by layer, over states that come from anywhere."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from thaloom.kernel.memory.states.planning import Array, Use

RATE, DECAY, BETA_1, BETA_2, TINY = 1e-3, 1e-2, 0.9, 0.999, 1e-8
PARTS = ("weight", "mean", "square")


class Uses(Protocol):
    def using(self, name: str) -> contextlib.AbstractContextManager[dict[str, NDArray[Any]]]: ...
    def put(self, name: str, values: NDArray[Any]) -> None: ...
    def get(self, name: str) -> NDArray[Any]: ...


class InMemory:
    """All of it in memory: what the trainer is compared with."""

    def __init__(self, arrays: dict[str, Array], schedule: list[Use]) -> None:
        self._values = {name: np.zeros(array.shape, array.dtype) for name, array in arrays.items()}
        self._schedule = {use.name: use for use in schedule}

    @contextlib.contextmanager
    def using(self, name: str) -> Iterator[dict[str, NDArray[Any]]]:
        yield {each: self._values[each] for each in self._schedule[name].names}

    def put(self, name: str, values: NDArray[Any]) -> None:
        self._values[name][:] = values

    def get(self, name: str) -> NDArray[Any]:
        return self._values[name].copy()


class Perceptron:
    """`width` wide and `depth` deep, for `rows` examples at a time. Learns to say what a fixed random matrix says."""

    def __init__(self, *, width: int, depth: int, rows: int) -> None:
        self.width, self.depth, self.rows = width, depth, rows

    def arrays(self) -> dict[str, Array]:
        square, batch = Array((self.width, self.width)), Array((self.rows, self.width))
        states = {f"{part} {i}": square for i in range(self.depth) for part in PARTS}
        return states | {f"input {i}": batch for i in range(self.depth)}

    def schedule(self) -> list[Use]:
        layers = range(self.depth)
        forward = [Use(name=f"forward {i}", reads=(f"weight {i}",), writes=(f"input {i}",)) for i in layers]
        backward = [
            Use(name=f"backward {i}", updates=tuple(f"{part} {i}" for part in PARTS), takes=(f"input {i}",))
            for i in reversed(layers)
        ]
        return forward + backward

    def begin(self, states: Uses) -> None:
        drawn = np.random.default_rng(0)
        for i in range(self.depth):
            scale = np.float32(1 / np.sqrt(self.width))
            states.put(f"weight {i}", drawn.standard_normal((self.width, self.width), np.float32) * scale)

    def train(self, states: Uses, num_steps: int, after: Callable[[int], None] = lambda step: None) -> list[float]:
        """The loss of each step."""
        drawn = np.random.default_rng(1)
        teacher = drawn.standard_normal((self.width, self.width), np.float32) / np.float32(np.sqrt(self.width))
        losses = []
        for step in range(num_steps):
            x = drawn.standard_normal((self.rows, self.width), np.float32)
            losses.append(self._step(states, step, x, np.tanh(x @ teacher)))
            after(step)
        return losses

    def _step(self, states: Uses, step: int, x: NDArray[np.float32], target: NDArray[np.float32]) -> float:
        for i in range(self.depth):
            with states.using(f"forward {i}") as at:
                at[f"input {i}"][:] = x
                x = np.tanh(x @ at[f"weight {i}"])
        error = x - target
        loss = float(np.mean(error * error))
        upward = error * np.float32(2 / error.size)
        out = x
        for i in reversed(range(self.depth)):
            with states.using(f"backward {i}") as at:
                upward = upward * (1 - out * out)
                out = at[f"input {i}"].copy()
                gradient = out.T @ upward
                upward = upward @ at[f"weight {i}"].T
                adamw(*(at[f"{part} {i}"] for part in PARTS), gradient, step)
        return loss


def adamw(
    weight: NDArray[np.float32],
    mean: NDArray[np.float32],
    square: NDArray[np.float32],
    gradient: NDArray[np.float32],
    step: int,
) -> None:
    """In place. Source: Loshchilov and Hutter, Decoupled weight decay regularization, ICLR 2019."""
    mean *= np.float32(BETA_1)
    mean += np.float32(1 - BETA_1) * gradient
    square *= np.float32(BETA_2)
    square += np.float32(1 - BETA_2) * gradient * gradient
    whole_mean = mean / np.float32(1 - BETA_1 ** (step + 1))
    whole_square = square / np.float32(1 - BETA_2 ** (step + 1))
    weight -= np.float32(RATE) * (whole_mean / (np.sqrt(whole_square) + np.float32(TINY)) + np.float32(DECAY) * weight)
