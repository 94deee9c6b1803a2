"""Making a model of Thaloom's own kind out of another format: tensors converted one by one, small files, a record.

What a `Foreign` model gives is written to a folder as `model.safetensors` (naming: `packed`), config.json, tokenizer
files and `quantisation.json`, which says what was converted and what that changed; the store then takes the folder like
any other. So everything above the store knows one format, and a model is the same bytes however often it is converted.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from thaloom.base.errors import CorruptObject, NotServable
from thaloom.base.files import disk_errors
from thaloom.hal.quantise import quantise
from thaloom.hal.tensors import GROUP, QuantTensor, Tensor
from thaloom.kernel.models.import_card import QUANTISATION
from thaloom.kernel.models.import_files import SourceFile
from thaloom.kernel.models.types import Quality, Quantisation
from thaloom.kernel.models.writing import WeightsWriter

Floats = NDArray[np.float32]
PIECE_ELEMENTS = 2**22
"""How many numbers are floats at once while a matrix is converted: 16 MB."""
_HASH_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Converted:
    """One tensor, ready to be written."""

    name: str
    told: str
    """What happened to it: `Q4_K to int8`, or `F32` for what is as it was."""
    tensor: Tensor | QuantTensor
    squared_error: float = 0.0
    squared: float = 0.0
    """Sum of the squares of the values before; 0 where nothing was changed."""


class Foreign(Protocol):
    """A model in a format that is converted when it is imported."""

    @property
    def kind(self) -> str:
        """As `Quantisation.source` says it."""
        ...

    @property
    def original(self) -> str:
        """SHA-256 of what it is made from; reading it may take as long as reading the file."""
        ...

    @property
    def ranks(self) -> Mapping[str, int]:
        """Every tensor it will give, with its number of dimensions."""
        ...

    @property
    def most_bytes(self) -> int:
        """What the converted weights take, at most."""
        ...

    def tensors(self) -> Iterable[Converted]:
        """In an order that never changes. Raises MalformedFile, NotServable, CorruptObject."""
        ...

    def files(self) -> Iterable[tuple[str, bytes]]:
        """The small files: name and contents."""
        ...


def convert(model: Foreign, folder: Path, progress: Callable[[float], None]) -> Quantisation:
    """Write it into `folder`. `progress` gets the share that is done, 0 to 1. Raises DiskFull and what the model
    raises."""
    tensors: Counter[str] = Counter()
    error = squared = 0.0
    with WeightsWriter(folder / "model.safetensors", model.ranks) as writer:
        for number, converted in enumerate(model.tensors(), start=1):
            writer.add(converted.name, converted.tensor)
            tensors[converted.told] += 1
            error += converted.squared_error
            squared += converted.squared
            progress(number / len(model.ranks))
    record = Quantisation(
        source=model.kind,
        original=model.original,
        tensors=dict(sorted(tensors.items())),
        relative_error=float(f"{math.sqrt(error / squared):.6g}") if squared else 0.0,
    )
    for name, data in model.files():
        _write(folder / name, data)
    write_record(folder, record)
    return record


def write_record(folder: Path, record: Quantisation, quality: Quality | None = None) -> None:
    """quantisation.json, with what was measured if anything was."""
    fields = dataclasses.asdict(dataclasses.replace(record, quality=quality))
    _write(folder / QUANTISATION, to_json(fields))


def to_json(fields: object) -> bytes:
    return json.dumps(fields, indent=2, ensure_ascii=False).encode() + b"\n"


def make_whole(name: str, values: Iterator[Floats], shape: tuple[int, ...], told: str) -> Converted:
    """A matrix in 8 bits with a scale for each 32 columns, from pieces of its rows, and what that changes."""
    return whole_pieces(name, values, shape, told, bits=8, group=GROUP)


def whole_pieces(
    name: str, values: Iterator[Floats], shape: tuple[int, ...], told: str, *, bits: int, group: int
) -> Converted:
    """A matrix in whole numbers from pieces of its rows, each (rows, columns). Raises NotServable if a number in it is
    not finite, or too large."""
    numbers, scales = [], []
    error = squared = 0.0
    for piece in values:
        try:
            matrix = quantise(piece, 8 if bits == 8 else 4, group)
        except ValueError as problem:
            raise NotServable(f"tensor {name!r} cannot be made whole numbers: {problem}", param="path") from problem
        difference = matrix.to_f32() - piece
        error += float(np.einsum("ij,ij->", difference, difference, dtype=np.float64))
        squared += float(np.einsum("ij,ij->", piece, piece, dtype=np.float64))
        numbers.append(matrix.data)
        scales.append(matrix.scales)
    data = np.concatenate(numbers).reshape(shape)
    joined = QuantTensor(8 if bits == 8 else 4, data, np.concatenate(scales).reshape(*shape[:-1], -1))
    return Converted(name, f"{told} to int{bits}", joined, error, squared)


def exact_or_whole(name: str, told: str, numbers: NDArray[np.int16], scales: Floats) -> Converted:
    """A matrix that is whole numbers with scales already, (rows, columns) and (rows, groups): in 4 bits where all fit,
    in 8 where they fit, both exactly; else its values in 8 bits anew."""
    rows, columns = numbers.shape
    by_row = scales.shape[1] == 1
    least, most = int(numbers.min()), int(numbers.max())
    sound_scales = np.isfinite(scales).all() and (by_row or np.array_equal(scales, _as_f16(scales)))
    if sound_scales and least >= -127 and most <= 127:
        if least >= -8 and most <= 7 and not by_row:
            return Converted(name, f"{told} to int4", QuantTensor(4, numbers.astype(np.int8), scales))
        return Converted(name, f"{told} to int8", QuantTensor(8, numbers.astype(np.int8), scales))
    spread = np.repeat(scales, columns // scales.shape[1], axis=1)
    with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is refused
        values = numbers.astype(np.float32) * spread
    return make_whole(name, iter([values]), (rows, columns), told)


def _as_f16(scales: Floats) -> Floats:
    with np.errstate(over="ignore"):
        return scales.astype(np.float16).astype(np.float32)


def sha256_of(file: SourceFile) -> str:
    """Of the whole file. Raises CorruptObject if it cannot be read, or changes meanwhile."""
    digest = hashlib.sha256()
    with file.open() as opened:
        while data := opened.read(_HASH_BYTES):
            digest.update(data)
    return digest.hexdigest()


def read_exactly(file: SourceFile, start: int, num_bytes: int) -> NDArray[np.uint8]:
    """Bytes of a file that was proved to have them. Raises CorruptObject if it does not any more."""
    data = np.empty(num_bytes, np.uint8)
    view, done = data.data, 0
    with file.open() as opened:
        opened.seek(start)
        while done < num_bytes:
            count = opened.readinto(view[done:])  # type: ignore[attr-defined]  # every binary file has it
            if not count:
                raise CorruptObject(f"{file.path!r} ends at byte {start + done}", file=file.path)
            done += count
    return data


def _write(path: Path, data: bytes) -> None:
    with disk_errors(path):
        path.write_bytes(data)
