"""Small ONNX models made with the `onnx` package: an image classifier, a table, one whose rows are not independent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from thaloom.kernel.models.types import ModelTensor


def save(
    path: Path,
    nodes: list[Any],
    inputs: list[Any],
    outputs: list[Any],
    weights: dict[str, np.ndarray],
    metadata: dict[str, str] | None = None,
) -> Path:
    graph = helper.make_graph(
        nodes, "g", inputs, outputs, [numpy_helper.from_array(array, name) for name, array in weights.items()]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, metadata or {})
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


def tensor(name: str, kind: int, shape: list[Any]) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def image_weights() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(7)
    return {
        "kernel": draw.standard_normal((4, 3, 3, 3)).astype(np.float32),
        "head": draw.standard_normal((4, 5)).astype(np.float32),
    }


def image_classifier(path: Path) -> Path:
    """Pixels [n, 3, 8, 8] to scores [n, 5] and the best class [n]."""
    nodes = [
        helper.make_node("Conv", ["pixels", "kernel"], ["features"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["features"], ["positive"]),
        helper.make_node("GlobalAveragePool", ["positive"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "head"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["scores"], axis=-1),
        helper.make_node("ArgMax", ["scores"], ["best"], axis=-1, keepdims=0),
    ]
    return save(
        path, nodes, [tensor("pixels", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [tensor("scores", TensorProto.FLOAT, ["n", 5]), tensor("best", TensorProto.INT64, ["n"])], image_weights(),
    )  # fmt: skip


def expected_scores(pixels: np.ndarray) -> np.ndarray:
    """The classifier by hand, in float64."""
    weights = image_weights()
    padded = np.pad(pixels.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    features = np.einsum("ncijyx,ocyx->noij", windows, weights["kernel"])
    logits = np.maximum(features, 0).mean(axis=(2, 3)) @ weights["head"]
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def across_rows(path: Path) -> Path:
    """Softmax over the first axis: joined requests would spoil each other."""
    nodes = [helper.make_node("Softmax", ["x"], ["y"], axis=0)]
    return save(path, nodes, [tensor("x", TensorProto.FLOAT, ["n", 2])], [tensor("y", TensorProto.FLOAT, ["n", 2])], {})


def as_long_as_it_likes(path: Path) -> Path:
    """x [n, 8] to y [n, k]: its first column, as often as x is positive anywhere."""
    nodes = [
        helper.make_node("Greater", ["x", "nought"], ["positive"]),
        helper.make_node("NonZero", ["positive"], ["places"]),
        helper.make_node("Shape", ["places"], ["sizes"]),
        helper.make_node("Gather", ["sizes", "second"], ["count"]),
        helper.make_node("Concat", ["one", "count"], ["wide"], axis=0),
        helper.make_node("Gather", ["x", "first"], ["column"], axis=1),
        helper.make_node("Expand", ["column", "wide"], ["y"]),
    ]
    weights = {
        "nought": np.array(0, np.float32), "one": np.array([1], np.int64), "second": np.array([1], np.int64),
        "first": np.array([0], np.int64),
    }  # fmt: skip
    shapes = (tensor("x", TensorProto.FLOAT, ["n", 8]), tensor("y", TensorProto.FLOAT, ["n", "k"]))
    return save(path, nodes, [shapes[0]], [shapes[1]], weights)


def texts(path: Path) -> Path:
    """Texts as they are, and a reshape that only six elements fit into."""
    nodes = [helper.make_node("Identity", ["words"], ["same"]), helper.make_node("Reshape", ["x", "to"], ["y"])]
    return save(
        path, nodes, [tensor("words", TensorProto.STRING, ["n"]), tensor("x", TensorProto.FLOAT, ["n"])],
        [tensor("same", TensorProto.STRING, ["n"]), tensor("y", TensorProto.FLOAT, [2, 3])],
        {"to": np.array([2, 3], np.int64)},
    )  # fmt: skip


def endless(path: Path) -> Path:
    """A loop of 2^60 rounds. Its `n` is no batch, for nothing here is to be joined: shapes are [1, 1]."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Mul", ["value", "value"], ["next"])],
        "round",
        [
            tensor("i", TensorProto.INT64, []),
            tensor("go", TensorProto.BOOL, []),
            tensor("value", TensorProto.FLOAT, [1, 1]),
        ],
        [tensor("on", TensorProto.BOOL, []), tensor("next", TensorProto.FLOAT, [1, 1])],
    )
    nodes = [helper.make_node("Loop", ["rounds", "begin", "x"], ["y"], body=body)]
    weights = {"rounds": np.array(2**60, np.int64), "begin": np.array(True)}
    shape = [1, 1]
    return save(path, nodes, [tensor("x", TensorProto.FLOAT, shape)], [tensor("y", TensorProto.FLOAT, shape)], weights)


LETTERS = ["<pad>", "a", "b", "c", "|"]
"""What a sound means by its loudness: 0, 0.2, 0.4, 0.6, 0.8."""
FRAME = 320


def listener(path: Path, metadata: dict[str, str] | None = None) -> Path:
    """Samples [n, m] to scores [n, frames, 5]: the nearer a frame's mean loudness to a letter's, the higher."""
    nodes = [
        helper.make_node("Abs", ["input_values"], ["loud"]),
        helper.make_node("Unsqueeze", ["loud", "one"], ["channel"]),
        helper.make_node("AveragePool", ["channel"], ["frames"], kernel_shape=[FRAME], strides=[FRAME]),
        helper.make_node("Transpose", ["frames"], ["columns"], perm=[0, 2, 1]),
        helper.make_node("Sub", ["columns", "levels"], ["apart"]),
        helper.make_node("Mul", ["apart", "apart"], ["squares"]),
        helper.make_node("Neg", ["squares"], ["logits"]),
    ]
    weights = {"one": np.array([1], np.int64), "levels": np.arange(5, dtype=np.float32) * 0.2}
    inputs = [tensor("input_values", TensorProto.FLOAT, ["n", "m"])]
    return save(
        path, nodes, inputs, [tensor("logits", TensorProto.FLOAT, ["n", "frames", 5])], weights, metadata=metadata
    )


def speaker(path: Path, metadata: dict[str, str] | None = None) -> Path:
    """Numbers [n, m] to samples [n, 2000 m] that `listener` understands: loud as told, as fast as it can be."""
    wave = np.where(np.arange(2000) % 2, -1.0, 1.0)
    nodes = [
        helper.make_node("Gather", ["waves", "input_ids"], ["parts"]),
        helper.make_node("Flatten", ["parts"], ["waveform"]),
    ]
    weights = {"waves": (np.arange(5)[:, None] * 0.2 * wave).astype(np.float32)}
    inputs = [tensor("input_ids", TensorProto.INT64, ["n", "m"])]
    return save(path, nodes, inputs, [tensor("waveform", TensorProto.FLOAT, ["n", "k"])], weights, metadata=metadata)


def painter(path: Path, metadata: dict[str, str] | None = None) -> Path:
    """Tokens [1, 8] and noise [1, 3, 4, 6] to an image [1, 3, 4, 6] within -1 .. 1: red is the mean of the tokens."""
    nodes = [
        helper.make_node("Cast", ["tokens"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["numbers"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "red"], ["colour"]),
        helper.make_node("Mul", ["noise", "little"], ["grain"]),
        helper.make_node("Add", ["grain", "colour"], ["sum"]),
        helper.make_node("Tanh", ["sum"], ["image"]),
    ]
    weights = {"red": np.array([0.01, 0, 0], np.float32).reshape(1, 3, 1, 1), "little": np.array(0.1, np.float32)}
    inputs = [tensor("tokens", TensorProto.INT64, [1, 8]), tensor("noise", TensorProto.FLOAT, [1, 3, 4, 6])]
    return save(path, nodes, inputs, [tensor("image", TensorProto.FLOAT, [1, 3, 4, 6])], weights, metadata=metadata)


def endless_tensors() -> tuple[list[ModelTensor], list[ModelTensor]]:
    return [ModelTensor(name="x", dtype="FP32", shape=(1, 1))], [ModelTensor(name="y", dtype="FP32", shape=(1, 1))]
