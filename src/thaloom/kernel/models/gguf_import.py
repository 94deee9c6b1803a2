"""A GGUF file as a model to convert: weights repacked, config and vocabulary from the metadata.

F32, F16 and BF16 stay what they are. Q8_0 and Q4_0 become our 8 and 4 bits in groups of 32 number by number: nothing
changes. Q4_1, Q5_0, Q5_1, Q4_K, Q5_K and Q6_K have minima or odd widths, so their values are made 8 bits anew, in
groups of 32; what that changes is measured and told. Vectors become f32.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from thaloom.base.errors import MalformedFile, NotServable
from thaloom.hal.tensors import QuantTensor, Tensor
from thaloom.hal.types import DType
from thaloom.kernel.models.converting import (
    PIECE_ELEMENTS,
    Converted,
    Floats,
    make_whole,
    read_exactly,
    sha256_of,
    to_json,
)
from thaloom.kernel.models.gguf import GgufHeader, GgufTensor, read_gguf
from thaloom.kernel.models.gguf_blocks import DECODE, whole_q4_0, whole_q8_0
from thaloom.kernel.models.gguf_config import ROPE_FACTORS, in_halves, read_config, rotary_heads, tensor_name
from thaloom.kernel.models.gguf_tokenizer import text_files
from thaloom.kernel.models.import_files import SourceFile

_FLOATS: dict[str, tuple[DType, str]] = {"F32": ("f32", "<f4"), "F16": ("f16", "<f2"), "BF16": ("bf16", "<u2")}
_LICENSE_BYTES = 200


class GgufModel:
    """One file. Making it reads the header and proves it, and no tensor but a small one.

    Raises MalformedFile, NotServable (architecture, vocabulary, a tensor or type that nothing here can run).
    """

    kind = "GGUF"

    def __init__(self, file: SourceFile) -> None:
        self._file = file
        header = _read_header(file)
        self._tensors = _named(file.path, header)
        factors = next((tensor for tensor in header.tensors if tensor.name == ROPE_FACTORS), None)
        self.config = read_config(file.path, header, None if factors is None else self._values(factors))
        self._texts = text_files(file.path, header.metadata, self.config)
        self._metadata = header.metadata

    @cached_property
    def original(self) -> str:
        return sha256_of(self._file)

    @property
    def ranks(self) -> Mapping[str, int]:
        return {name: len(tensor.shape) for name, tensor in self._tensors.items()}

    @property
    def most_bytes(self) -> int:
        """Q4_K, 4.5 bits a number, becomes 8.5; nothing grows more, but for vectors."""
        return sum(2 * tensor.num_bytes if len(tensor.shape) > 1 else 8192 for tensor in self._tensors.values())

    def tensors(self) -> Iterable[Converted]:
        for name, tensor in self._tensors.items():
            yield self._convert(name, tensor)

    def files(self) -> Iterable[tuple[str, bytes]]:
        yield "config.json", to_json(self.config)
        for name, fields in self._texts.items():
            yield name, to_json(fields)
        if readme := self._readme():
            yield "README.md", readme.encode()

    def _convert(self, name: str, tensor: GgufTensor) -> Converted:
        heads = rotary_heads(name, self.config)
        if heads and tensor.shape[0] % (2 * heads):
            raise MalformedFile(
                f"{self._file.path!r}: tensor {tensor.name!r} is not {heads} heads", file=self._file.path
            )
        kind = tensor.block.name
        if kind in _FLOATS:
            dtype, numpy_dtype = _FLOATS[kind]
            values = read_exactly(self._file, tensor.start, tensor.num_bytes).view(numpy_dtype).reshape(tensor.shape)
            return Converted(name, kind, Tensor(dtype, in_halves(values, heads) if heads else values))
        if len(tensor.shape) != 2:
            values = self._values(tensor)
            return Converted(name, f"{kind} to f32", Tensor("f32", in_halves(values, heads) if heads else values))
        if kind in ("Q8_0", "Q4_0"):
            exact = self._repack(tensor, heads)
            if exact is not None:
                return Converted(name, f"{kind} to int{exact.bits}", exact)
        return make_whole(name, self._pieces(tensor, heads), tensor.shape, kind)

    def _repack(self, tensor: GgufTensor, heads: int) -> QuantTensor | None:
        """The same whole numbers and scales; None if they are not what a writer of this format writes."""
        rows, columns = tensor.shape
        blocks = read_exactly(self._file, tensor.start, tensor.num_bytes).reshape(-1, tensor.block.num_bytes)
        numbers, scales = (whole_q8_0 if tensor.block.name == "Q8_0" else whole_q4_0)(blocks)
        data, by_row = numbers.reshape(rows, columns), scales.reshape(rows, -1)
        if not np.isfinite(scales).all() or data.min() < -127:
            return None
        if heads:
            data, by_row = in_halves(data, heads), in_halves(by_row, heads)
        bits = 8 if tensor.block.name == "Q8_0" else 4
        return QuantTensor(8 if bits == 8 else 4, np.ascontiguousarray(data), np.ascontiguousarray(by_row))

    def _pieces(self, tensor: GgufTensor, heads: int) -> Iterator[Floats]:
        """Rows as floats, whole heads at a time where rows are to be put in another order."""
        rows, columns = tensor.shape
        head_rows = rows // heads if heads else 1
        at_once = max(1, PIECE_ELEMENTS // (columns * head_rows)) * head_rows
        row_bytes = tensor.num_bytes // rows
        for first in range(0, rows, at_once):
            count = min(at_once, rows - first)
            data = read_exactly(self._file, tensor.start + first * row_bytes, count * row_bytes)
            values = self._decode(tensor, data).reshape(count, columns)
            yield in_halves(values, count // head_rows) if heads else values

    def _values(self, tensor: GgufTensor) -> NDArray[np.float32]:
        data = read_exactly(self._file, tensor.start, tensor.num_bytes)
        kind = tensor.block.name
        if kind in _FLOATS:
            dtype, numpy_dtype = _FLOATS[kind]
            return Tensor(dtype, data.view(numpy_dtype)).to_f32().reshape(tensor.shape)
        return self._decode(tensor, data).reshape(tensor.shape)

    def _decode(self, tensor: GgufTensor, data: NDArray[np.uint8]) -> Floats:
        """Raises MalformedFile for a scale that is no number, or gives none."""
        with np.errstate(invalid="ignore", over="ignore"):
            values = DECODE[tensor.block.name](data.reshape(-1, tensor.block.num_bytes))
        if not np.isfinite(values).all():
            raise MalformedFile(
                f"{self._file.path!r}: tensor {tensor.name!r} holds a value that is not finite", file=self._file.path
            )
        return values

    def _readme(self) -> str:
        """What the file says of itself for people, in the form a model's README has."""
        said = {key: self._metadata.get(f"general.{key}") for key in ("license", "name", "description")}
        texts = {key: " ".join(value.split())[:_LICENSE_BYTES] for key, value in said.items() if isinstance(value, str)}
        lines = ["---", f"license: {texts['license']}", "---"] if texts.get("license") else []
        lines += [f"# {texts['name']}"] if texts.get("name") else []
        lines += ["", texts["description"]] if texts.get("description") else []
        return "\n".join(lines) + "\n" if lines else ""


def _read_header(file: SourceFile) -> GgufHeader:
    with file.open() as opened:

        def read_at(at: int, length: int) -> bytes:
            opened.seek(at)
            return opened.read(length)

        return read_gguf(file.path, file.num_bytes, read_at)


def _named(path: str, header: GgufHeader) -> dict[str, GgufTensor]:
    """Our name -> tensor, in the order of the bytes."""
    tensors = {}
    for tensor in header.tensors:
        if tensor.name == ROPE_FACTORS:
            continue
        name = tensor_name(tensor.name)
        if name is None or name in tensors:
            raise NotServable(f"{path!r} has tensor {tensor.name!r}, which nothing here can run", param="path")
        if tensor.block.name not in DECODE and tensor.block.name not in _FLOATS:
            known = ", ".join([*_FLOATS, *DECODE])
            raise NotServable(
                f"{path!r} has tensor {tensor.name!r} of type {tensor.block.name}; read are {known}", param="path"
            )
        tensors[name] = tensor
    return tensors
