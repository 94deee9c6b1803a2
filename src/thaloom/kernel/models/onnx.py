"""ONNX files: what goes in and what comes out, read from the file's own protobuf. Nothing is run, nothing imported.

Source: onnx/onnx.proto (field numbers), docs/ExternalData.md.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from thaloom.base.errors import MalformedFile, NotServable
from thaloom.hal.types import DType
from thaloom.kernel.models.import_files import WEIGHTS, Chosen, SourceFile, choose_beside, names_in
from thaloom.kernel.models.types import ModelCard, ModelTensor

ONNX = ".onnx"
FAMILY = "onnx"
DTYPES = {
    1: "FP32", 2: "UINT8", 3: "INT8", 4: "UINT16", 5: "INT16", 6: "INT32", 7: "INT64", 8: "BYTES", 9: "BOOL",
    10: "FP16", 11: "FP64", 12: "UINT32", 13: "UINT64", 16: "BF16",
}  # fmt: skip
"""TensorProto.DataType -> its name in the Open Inference Protocol."""
_OURS: dict[int, DType] = {1: "f32", 10: "f16", 16: "bf16"}
MOST_DEPTH = 32
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(slots=True)
class OnnxModel:
    inputs: tuple[ModelTensor, ...] = ()
    outputs: tuple[ModelTensor, ...] = ()
    num_parameters: int = 0
    dtypes: set[int] = field(default_factory=set)


def find_onnx(path: Path) -> Chosen | None:
    """What makes the ONNX model at `path`: the file, or a folder with one and no safetensors. None: it is none.

    Raises NotServable for a folder with several.
    """
    if path.is_file():
        return choose_beside(path.parent, path.name) if path.suffix.lower() == ONNX else None
    if not path.is_dir():
        return None
    names = names_in(path)
    found = [name for name in names if name.lower().endswith(ONNX)]
    if not found or any(name.lower().endswith(WEIGHTS) for name in names):
        return None
    if len(found) > 1:
        raise NotServable(f"{str(path)!r} holds {len(found)} ONNX files; name one of them", param="path")
    return choose_beside(path, found[0])


def onnx_card(chosen: Chosen) -> ModelCard:
    """Raises MalformedFile, and NotServable for weights in other files."""
    (file,) = chosen.weights
    model = read_onnx(file)
    return ModelCard(
        architecture="",
        family=FAMILY,
        num_parameters=model.num_parameters,
        dtypes=tuple(sorted(_OURS[number] for number in model.dtypes & _OURS.keys())),
        weight_bytes=file.num_bytes,
        context_length=None,
        vocab_size=None,
        has_tokenizer=False,
        has_chat_template=False,
        inputs=model.inputs,
        outputs=model.outputs,
    )


def read_onnx(file: SourceFile) -> OnnxModel:
    """Raises as `onnx_card` does."""
    if file.num_bytes == 0:
        raise MalformedFile(f"{file.path!r} is empty", file=file.path)
    with file.open() as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        with memoryview(mapped) as whole:
            reader = _Reader(file.path)
            try:
                return reader.model(whole)
            except (IndexError, ValueError, UnicodeDecodeError) as error:
                reason = str(error) if isinstance(error, ValueError) else "it ends too early"
                raise MalformedFile(f"{file.path!r} is no ONNX file: {reason}", file=file.path) from error
            finally:
                reader.release()


class _Reader:
    """Views into the file are kept to be released: the mapping cannot be closed while there is one."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._views: list[memoryview] = []
        self._found = OnnxModel()

    def release(self) -> None:
        for view in reversed(self._views):
            view.release()

    def model(self, data: memoryview) -> OnnxModel:
        graphs = 0
        for number, value in self._fields(data):
            if number == 7 and isinstance(value, memoryview):
                graphs += 1
                self._graph(value, depth=0)
            elif number == 25 and isinstance(value, memoryview):
                for inner, node in self._fields(value):
                    if inner == 7 and isinstance(node, memoryview):
                        self._node(node, depth=1)
        if graphs != 1 or not self._found.outputs:
            raise ValueError("it has no graph with outputs")
        return self._found

    def _graph(self, data: memoryview, *, depth: int) -> None:
        if depth > MOST_DEPTH:
            raise ValueError(f"graphs within graphs more than {MOST_DEPTH} deep")
        inputs: list[ModelTensor] = []
        outputs: list[ModelTensor] = []
        weights: set[str] = set()
        for number, value in self._fields(data):
            if not isinstance(value, memoryview):
                continue
            if number == 1:
                self._node(value, depth=depth)
            elif number == 5:
                weights.add(self._tensor(value))
            elif number in (11, 12) and depth == 0:
                (inputs if number == 11 else outputs).append(self._value(value))
        if depth == 0:  # files of older versions list their weights among the inputs
            self._found.inputs = tuple(tensor for tensor in inputs if tensor.name not in weights)
            self._found.outputs = tuple(outputs)

    def _node(self, data: memoryview, *, depth: int) -> None:
        for number, attribute in self._fields(data):
            if number != 5 or not isinstance(attribute, memoryview):
                continue
            for inner, value in self._fields(attribute):
                if isinstance(value, memoryview) and inner in (5, 10):
                    self._tensor(value)
                elif isinstance(value, memoryview) and inner in (6, 11):
                    self._graph(value, depth=depth + 1)

    def _tensor(self, data: memoryview) -> str:
        """Its name. Raises NotServable if its bytes lie elsewhere."""
        name, dtype, elements = "", 0, 1
        for number, value in self._fields(data):
            if number == 13 or (number == 14 and value == 1):
                raise NotServable(
                    f"{self._file!r} keeps weights in other files (external data): save it as one file", param="path"
                )
            if number == 1:
                for size in [value] if isinstance(value, int) else self._packed(value):
                    elements *= size
            elif number == 2 and isinstance(value, int):
                dtype = value
            elif number == 8 and isinstance(value, memoryview):
                name = bytes(value).decode()
        self._found.num_parameters += elements
        self._found.dtypes.add(dtype)
        return name

    def _value(self, data: memoryview) -> ModelTensor:
        """A ValueInfoProto. Raises NotServable for what is no tensor (a sequence, a map)."""
        name, dtype, shape = "", 0, None
        for number, value in self._fields(data):
            if number == 1 and isinstance(value, memoryview):
                name = bytes(value).decode()
            elif number == 2 and isinstance(value, memoryview):
                for inner, kind in self._fields(value):
                    if inner == 1 and isinstance(kind, memoryview):
                        dtype, shape = self._type(kind)
        if dtype not in DTYPES:
            raise NotServable(f"{self._file!r}: {name[:200]!r} is no tensor of a kind served here", param="path")
        return ModelTensor(name=name, dtype=DTYPES[dtype], shape=shape)

    def _type(self, data: memoryview) -> tuple[int, tuple[int, ...] | None]:
        dtype, shape = 0, None
        for number, value in self._fields(data):
            if number == 1 and isinstance(value, int):
                dtype = value
            elif number == 2 and isinstance(value, memoryview):
                shape = tuple(self._dim(dim) for inner, dim in self._fields(value) if inner == 1)
        return dtype, shape

    def _dim(self, data: int | memoryview) -> int:
        if isinstance(data, int):
            raise ValueError("a dimension that is none")
        return next((value for number, value in self._fields(data) if number == 1 and isinstance(value, int)), -1)

    def _packed(self, data: memoryview) -> Iterator[int]:
        at = 0
        while at < len(data):
            value, at = _varint(data, at)
            yield value

    def _fields(self, data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
        """(field number, value). Raises IndexError or ValueError for what is no protobuf."""
        at = 0
        while at < len(data):
            key, at = _varint(data, at)
            number, kind = key >> 3, key & 7
            if number == 0:
                raise ValueError("a field without a number")
            if kind == _VARINT:
                value, at = _varint(data, at)
                yield number, value
            elif kind in (_FIXED64, _FIXED32):
                at += 8 if kind == _FIXED64 else 4
                if at > len(data):
                    raise IndexError
            elif kind == _BYTES:
                length, at = _varint(data, at)
                if length > len(data) - at:
                    raise IndexError
                view = data[at : at + length]
                self._views.append(view)
                yield number, view
                at += length
            else:
                raise ValueError(f"a field of the unknown kind {kind}")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (2**64 - 1), at
    raise ValueError("a number of more than 64 bits")
