"""TensorOps in NumPy: proves hal/lower.py, and shows how little a new chip must bring."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from thaloom.hal.lower import Binary, Reduction, Unary

Array = NDArray[np.generic]
F32 = NDArray[np.float32]

_BINARY: dict[Binary, Callable[[Array, Array], Array]] = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": np.divide,
    "maximum": np.maximum,
    "equal": np.equal,
    "less": np.less,
}
_UNARY: dict[Unary, Callable[[Array], Array]] = {"exp": np.exp, "tanh": np.tanh, "sqrt": np.sqrt}


class NumpyOps:
    """lower.TensorOps over NumPy arrays: f32, or int32 for indices."""

    def upload(self, data: Array) -> Array:
        return data.copy()

    def download(self, x: Array) -> F32:
        return x.astype(np.float32, copy=False)

    def zeros(self, shape: Sequence[int]) -> Array:
        return np.zeros(shape, np.float32)

    def reshape(self, x: Array, shape: Sequence[int]) -> Array:
        return x.reshape(tuple(shape))

    def transpose(self, x: Array, axes: Sequence[int]) -> Array:
        return x.transpose(tuple(axes))

    def matmul(self, a: Array, b: Array) -> Array:
        return self.download(a) @ self.download(b)

    def gather(self, x: Array, indices: Array, *, axis: int = 0) -> Array:
        return x.take(indices.astype(np.int64), axis=axis)

    def scatter(self, x: Array, indices: Array, values: Array) -> Array:
        x[indices] = values
        return x

    def binary(self, kind: Binary, a: Array, b: Array) -> Array:
        return self.download(_BINARY[kind](a, b))

    def unary(self, kind: Unary, x: Array) -> Array:
        with np.errstate(over="ignore"):  # exp of a large number is inf, as on any device
            return self.download(_UNARY[kind](x))

    def reduce(self, kind: Reduction, x: Array) -> Array:
        if kind == "argmax":
            return self.download(np.argmax(x, axis=-1, keepdims=True))
        values = self.download(x)
        reduced: F32 = values.sum(axis=-1, keepdims=True) if kind == "sum" else values.max(axis=-1, keepdims=True)
        return reduced

    def softmax(self, x: Array) -> Array:
        values = self.download(x)
        weights = np.exp(values - values.max(axis=-1, keepdims=True))
        return np.asarray(weights / weights.sum(axis=-1, keepdims=True), np.float32)
