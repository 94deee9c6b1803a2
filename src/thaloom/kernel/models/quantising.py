"""A model of the store in whole numbers: its matrices converted, everything else as it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from thaloom.base.errors import NotServable
from thaloom.hal.quantise import numbers_of
from thaloom.hal.tensors import QuantTensor, Tensor
from thaloom.hal.types import MatrixFormat, WeightFormat
from thaloom.kernel.models.converting import PIECE_ELEMENTS, Converted, Floats, whole_pieces
from thaloom.kernel.models.import_card import QUANTISATION
from thaloom.kernel.models.import_files import INDEX, WEIGHTS
from thaloom.kernel.models.reading import StoredModel, WeightReader


class QuantisedModel:
    """What `thaloom quantize` makes. `formats`: what each matrix becomes; others stay as they are.

    The numbers are those a driver makes of the same matrices under Limits.weight_format, so a model that was quantised
    ahead answers as one quantised at load to the same formats.
    Raises NotServable if the model is in whole numbers already.
    """

    def __init__(
        self,
        model: StoredModel,
        formats: Mapping[str, MatrixFormat],
        weight_format: WeightFormat,
    ) -> None:
        self._model = model
        self._formats = formats
        self.kind = f"thaloom quantize {weight_format}"
        self.original = str(model.manifest.digest)
        self.most_bytes = model.manifest.card.weight_bytes
        with _open(model) as reader:
            self._tensors = list(reader.names())
        if "i8" in model.manifest.card.dtypes:
            raise NotServable(
                f"model {str(model.manifest.name)!r} is in whole numbers already; quantise its original", param="model"
            )
        if not formats.keys() & set(self._tensors):
            raise NotServable(f"model {str(model.manifest.name)!r} has no matrix to convert", param="model")

    @property
    def ranks(self) -> Mapping[str, int]:
        return dict.fromkeys(self._tensors, 4)

    def tensors(self) -> Iterable[Converted]:
        with _open(self._model) as reader:
            for name in self._tensors:
                yield self._convert(name, reader.read(name))

    def files(self) -> Iterable[tuple[str, bytes]]:
        for entry in self._model.manifest.files:
            if not entry.path.endswith(WEIGHTS) and entry.path not in (INDEX, QUANTISATION):
                yield entry.path, self._model.read_file(entry.path)

    def _convert(self, name: str, tensor: Tensor | QuantTensor) -> Converted:
        if isinstance(tensor, QuantTensor):
            return Converted(name, f"int{tensor.bits}", tensor)
        if name not in self._formats:
            return Converted(name, tensor.dtype, tensor)
        bits, group = numbers_of(self._formats[name], tensor.shape[-1])
        return whole_pieces(name, _rows(tensor), tensor.shape, tensor.dtype, bits=bits, group=group)


def _rows(tensor: Tensor) -> Iterator[Floats]:
    """Rows of a matrix, or of a stack of them, as floats, some at a time."""
    columns = tensor.shape[-1]
    values = tensor.data.reshape(-1, columns)
    at_once = max(1, PIECE_ELEMENTS // columns)
    for first in range(0, len(values), at_once):
        yield Tensor(tensor.dtype, values[first : first + at_once]).to_f32()


@contextmanager
def _open(model: StoredModel) -> Iterator[WeightReader]:
    reader = model.weights()
    try:
        yield reader
    finally:
        reader.close()
