"""Writing a model's weights: one safetensors file, tensor after tensor, none kept in memory.

The header goes in front and is known last, so room is left for it; JSON may end in spaces.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thaloom.base.files import disk_errors
from thaloom.hal.tensors import QuantTensor, Tensor
from thaloom.hal.types import DType
from thaloom.kernel.models.packed import SCALES, pack
from thaloom.kernel.models.safetensors import MAX_DIMENSION, MAX_HEADER_BYTES

_NAMES: dict[DType, str] = {"f32": "F32", "f16": "F16", "bf16": "BF16", "i8": "I8", "i32": "I32"}
_STORED = {"int8": "I8", "uint8": "U8", "float16": "F16", "float32": "F32"}


class WeightsWriter:
    """Use as `with`. The same tensors in the same order give the same bytes."""

    def __init__(self, path: Path, names: Mapping[str, int]) -> None:
        """`names`: those that may be written, with their ranks; they decide how much room the header gets."""
        room = sum(2 * (len(json.dumps(name)) + 96 + len(str(MAX_DIMENSION)) * rank) for name, rank in names.items())
        self._room = min(-(-(room + 64) // 8) * 8, MAX_HEADER_BYTES)
        self._path = path
        self._entries: dict[str, Any] = {}
        self._at = 0

    def __enter__(self) -> WeightsWriter:
        self._file = self._path.open("wb")
        self._file.seek(8 + self._room)
        return self

    def add(self, name: str, tensor: Tensor | QuantTensor) -> None:
        """Append it. Raises DiskFull."""
        if isinstance(tensor, Tensor):
            self._append(name, _NAMES[tensor.dtype], tensor.data)
            return
        suffix, numbers, scales = pack(tensor)
        self._append(name + suffix, _STORED[numbers.dtype.name], numbers)
        self._append(name + SCALES, _STORED[scales.dtype.name], scales)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._file:
            if kind is None:
                text = json.dumps(self._entries, separators=(",", ":")).encode()
                assert len(text) <= self._room, "room for every entry was made"
                with disk_errors(self._path):
                    self._file.seek(0)
                    self._file.write(self._room.to_bytes(8, "little") + text.ljust(self._room))

    def _append(self, name: str, dtype: str, data: NDArray[np.generic]) -> None:
        end = self._at + data.nbytes
        self._entries[name] = {"dtype": dtype, "shape": list(data.shape), "data_offsets": [self._at, end]}
        with disk_errors(self._path):
            self._file.write(np.ascontiguousarray(data).data)
        self._at = end
