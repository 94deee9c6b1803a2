"""What the weight files of an import hold, proved before a byte is stored."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import IO

from thaloom.base.errors import MalformedFile, UnsafeFormat
from thaloom.kernel.models.import_files import INDEX, Chosen, SourceFile
from thaloom.kernel.models.packed import PackedPlace, find_packed
from thaloom.kernel.models.safetensors import Header, TensorPlace, read_header

_PICKLE_OR_ZIP = re.compile(rb"PK\x03\x04|\x80[\x02-\x05]")
"""How files begin that `torch.save` and `pickle.dump` write. Source: Python, Lib/pickletools.py, PROTO."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """Every tensor of a model, by name."""

    tensors: Mapping[str, TensorPlace]
    packed: Mapping[str, PackedPlace] = field(default_factory=dict)
    """Matrices of whole numbers, each made of two of the tensors."""


def read_weights(chosen: Chosen) -> Weights:
    """Headers of all weight files, checked alone and against each other and the index.

    Raises MalformedFile; UnsafeFormat for a pickle that is only called safetensors.
    """
    tensors: dict[str, TensorPlace] = {}
    found_in: dict[str, str] = {}
    for file in chosen.weights:
        for tensor in read_file_header(file).tensors:
            if tensor.name in tensors:
                raise MalformedFile(
                    f"{file.path!r} holds tensor {tensor.name[:200]!r}, which {found_in[tensor.name]!r} holds too",
                    file=file.path,
                )
            tensors[tensor.name] = tensor
            found_in[tensor.name] = file.path
    if chosen.weight_map is not None:
        _check_index(chosen.weight_map, found_in)
    return Weights(tensors=tensors, packed=find_packed(tensors))


def read_file_header(file: SourceFile) -> Header:
    """Of one file. Raises MalformedFile; UnsafeFormat for a pickle that is only called safetensors."""
    with file.open() as opened:
        try:
            return read_header(file.path, file.num_bytes, lambda at, length: _read_at(opened, at, length))
        except MalformedFile as error:
            if _PICKLE_OR_ZIP.match(_read_at(opened, 0, 4)):
                raise UnsafeFormat(
                    f"{file.path!r} is not safetensors but a pickle or archive", file=file.path
                ) from error
            raise


def _read_at(file: IO[bytes], at: int, length: int) -> bytes:
    file.seek(at)
    return file.read(length)


def _check_index(weight_map: Mapping[str, str], found_in: Mapping[str, str]) -> None:
    for name, file in weight_map.items():
        if found_in.get(name) != file:
            raise MalformedFile(
                f"{INDEX!r} places tensor {name[:200]!r} in {file!r}, which does not hold it", file=file
            )
    for name, file in found_in.items():
        if name not in weight_map:
            raise MalformedFile(f"{file!r} holds tensor {name[:200]!r}, which {INDEX!r} does not list", file=file)
