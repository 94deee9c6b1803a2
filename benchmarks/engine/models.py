"""The models everybody runs: random weights in published shapes, and derived forms that a peer needs."""

from __future__ import annotations

import json
import mmap
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.engine import environments
from benchmarks.random_models import SHAPES, Shape, make
from numpy.typing import NDArray

from thaloom.hal.tensors import bf16_from_f32

Array = NDArray[Any]


def random_model(shape: str) -> Path:
    """The folder of the model with random weights in this published shape, made once."""
    return make(SHAPES[shape], environments.cache() / "models" / shape)


def vocabulary(model: Path) -> int:
    return int(json.loads((model / "config.json").read_text())["vocab_size"])


def shape_of(model: Path) -> Shape:
    return SHAPES[model.name]


_NUMPY = {"BF16": np.uint16, "I8": np.int8, "F32": np.float32}


def read_safetensors(path: Path) -> Iterator[tuple[str, Array]]:
    """Tensors of a file one after the other; bf16 as its raw 16 bits."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + length])
        header.pop("__metadata__", None)
        for name, told in header.items():
            begin, end = (8 + length + offset for offset in told["data_offsets"])
            yield name, np.frombuffer(data[begin:end], _NUMPY[told["dtype"]]).reshape(told["shape"])


def f32_from_bits(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def w8a8_model(model: Path) -> Path:
    """The same model as a compressed-tensors checkpoint: int8 weights with a scale for each row, int8 activations with
    a scale for each token, symmetric, the head as it was. What vLLM calls W8A8.

    Source: compressed-tensors, format `int-quantized`.
    """
    folder = model.with_name(model.name + "-w8a8")
    if environments.is_made(folder, "w8a8 1"):
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(model, folder, ignore=shutil.ignore_patterns("*.safetensors", "made.json"))
    tensors: dict[str, Array] = {}
    for name, bits in read_safetensors(model / "model.safetensors"):
        if not name.endswith("_proj.weight"):
            tensors[name] = bits
            continue
        values = f32_from_bits(bits)
        scale = np.abs(values).max(axis=1, keepdims=True) / np.float32(127)
        scale[scale == 0] = 1
        tensors[name] = np.rint(values / scale).astype(np.int8)
        tensors[name.replace(".weight", ".weight_scale")] = bf16_from_f32(scale)
    write_safetensors(folder / "model.safetensors", tensors)
    settings = json.loads((folder / "config.json").read_text())
    eight_bits = {"num_bits": 8, "type": "int", "symmetric": True}
    settings["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {**eight_bits, "strategy": "channel", "dynamic": False},
                "input_activations": {**eight_bits, "strategy": "token", "dynamic": True},
            }
        },
    }
    (folder / "config.json").write_text(json.dumps(settings, indent=1) + "\n")
    environments.stamp(folder, "w8a8 1")
    return folder


def write_safetensors(path: Path, tensors: dict[str, Array]) -> None:
    """uint16 arrays are taken to be the bits of bf16."""
    names = {np.dtype(of_numpy): name for name, of_numpy in _NUMPY.items()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, values in tensors.items():
        end = at + values.nbytes
        header[name] = {
            "dtype": names[values.dtype],
            "shape": list(values.shape),
            "data_offsets": [at, end],
        }
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for values in tensors.values():
            file.write(values.tobytes())
