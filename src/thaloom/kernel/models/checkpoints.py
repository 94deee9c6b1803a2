"""Safetensors checkpoints in whole numbers of other makers: AWQ, GPTQ, and int8 of compressed-tensors.

All three keep a matrix as whole numbers with a scale, and the first two a zero point, for each group of inputs:
value = (number - zero) * scale. The difference is a whole number too, from -15 to 15 for 4 bits, so it is taken over
exactly: as 4 bits where it lies within -8 to 7 (GPTQ, symmetric), else as 8. A scale for 128 columns is written down
four times. Only act-order (`g_idx` not ascending) puts neighbouring columns into different groups: such a matrix is
made 8 bits anew, and what that changes is measured.

Source: AutoAWQ, awq/utils/packing_utils.py (AWQ_ORDER); AutoGPTQ, qlinear_cuda_old.py (pack, and zeros kept less one);
compressed-tensors, compressors/quantized_compressors/naive_quantized.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thaloom.base.errors import MalformedFile, NotServable
from thaloom.hal.tensors import GROUP, Tensor
from thaloom.kernel.models.converting import Converted, exact_or_whole, make_whole, read_exactly, sha256_of, to_json
from thaloom.kernel.models.import_files import Chosen, SourceFile, read_json
from thaloom.kernel.models.import_weights import read_file_header, read_weights
from thaloom.kernel.models.safetensors import DTYPES, TensorPlace

_NUMPY = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "I8": "i1", "I32": "<i4", "I64": "<i8"}
_AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)
"""Column c of eight is the nibble at this place of the 32 bits."""
_NOT_TAKEN = ("config.json", "quantize_config.json", "quant_config.json", "model.safetensors.index.json")


def quantisation_config(chosen: Chosen) -> Mapping[str, Any] | None:
    """What config.json says of whole numbers; None if it says nothing."""
    file = chosen.find("config.json")
    found = None if file is None else read_json(file).get("quantization_config")
    return found if isinstance(found, dict) else None


class Checkpoint:
    """A folder of such a model. Making it reads the headers and refuses by name what cannot be converted."""

    def __init__(self, chosen: Chosen, settings: Mapping[str, Any]) -> None:
        self._chosen = chosen
        self._settings = settings
        method = settings.get("quant_method")
        self.kind = {"awq": "AWQ", "gptq": "GPTQ", "compressed-tensors": "compressed-tensors"}.get(str(method), "")
        if not self.kind:
            raise self._refused(f"is made by {str(method)[:60]!r}; read are awq, gptq and compressed-tensors")
        self._bits = self._check_settings()
        read_weights(chosen)  # against each other and the index
        self._places: dict[str, tuple[SourceFile, TensorPlace]] = {}
        for file in chosen.weights:
            self._places |= {place.name: (file, place) for place in read_file_header(file).tensors}
        marker = ".weight_scale" if self.kind == "compressed-tensors" else ".qweight"
        self._matrices = [name.removesuffix(marker) for name in self._places if name.endswith(marker)]
        parts = {f"{matrix}.{part}" for matrix in self._matrices for part in self._parts()}
        self._plain = [name for name in self._places if name not in parts]
        for name in self._plain:
            if self._places[name][1].dtype not in DTYPES:
                raise self._refused(f"has tensor {name[:200]!r} of {self._places[name][1].dtype}")

    @cached_property
    def original(self) -> str:
        """Of one weight file, its own; of several, that of the list of them as sha256sum writes it."""
        sums = [(sha256_of(file), file.path) for file in self._chosen.weights]
        if len(sums) == 1:
            return sums[0][0]
        return hashlib.sha256("".join(f"{digest}  {path}\n" for digest, path in sums).encode()).hexdigest()

    @property
    def ranks(self) -> Mapping[str, int]:
        plain = {name: len(self._places[name][1].shape) for name in self._plain}
        return plain | {f"{matrix}.weight": 2 for matrix in self._matrices}

    @property
    def most_bytes(self) -> int:
        """4 bits that need 8: a number and its share of a scale."""
        return sum(3 * file.num_bytes for file in self._chosen.weights)

    def tensors(self) -> Iterable[Converted]:
        for name in self._plain:
            place = self._places[name][1]
            data = self._read(name)
            yield Converted(name, place.dtype, Tensor(DTYPES[place.dtype], data))
        for matrix in self._matrices:
            convert = self._int8_rows if self.kind == "compressed-tensors" else self._grouped
            yield convert(matrix)

    def files(self) -> Iterable[tuple[str, bytes]]:
        for file in self._chosen.others:
            if file.path == "config.json":
                config = read_json(file)
                del config["quantization_config"]
                yield file.path, to_json(config)
            elif file.path not in _NOT_TAKEN:
                yield file.path, file.read(file.num_bytes)

    def _check_settings(self) -> int:
        """Bits of a number. Raises NotServable naming the setting."""
        settings = self._settings
        if self.kind == "compressed-tensors":
            self._check_compressed()
            return 8
        bits = settings.get("bits", settings.get("w_bit"))
        if bits not in ((4,) if self.kind == "AWQ" else (4, 8)):
            raise self._refused(f"has {bits!r} bits")
        if self.kind == "AWQ" and str(settings.get("version", "gemm")).lower() != "gemm":
            raise self._refused(f"is packed as {settings['version']!r}; gemm is read")
        form = settings.get("checkpoint_format", "gptq")
        if self.kind == "GPTQ" and form not in ("gptq", "gptq_v2"):
            raise self._refused(f"is packed as {str(form)[:60]!r}; gptq and gptq_v2 are read")
        return int(bits)

    def _check_compressed(self) -> None:
        groups = self._settings.get("config_groups")
        for group in groups.values() if isinstance(groups, dict) and groups else [None]:
            weights = group.get("weights") if isinstance(group, dict) else None
            asked = weights if isinstance(weights, dict) else {}
            told = (asked.get("num_bits"), asked.get("type"), asked.get("strategy"), asked.get("symmetric"))
            if told not in ((8, "int", "channel", True), (8, "int", "tensor", True)):
                raise self._refused(
                    f"has weights of (bits, type, strategy, symmetric) {told}; read is 8-bit by channel"
                )
        if self._settings.get("format") not in ("int-quantized", "naive-quantized"):
            raise self._refused(f"is packed as {str(self._settings.get('format'))[:60]!r}; int-quantized is read")

    def _parts(self) -> tuple[str, ...]:
        if self.kind == "compressed-tensors":
            return ("weight", "weight_scale", "weight_zero_point", "input_scale")
        return ("qweight", "qzeros", "scales", "g_idx")

    def _int8_rows(self, matrix: str) -> Converted:
        numbers = self._read(f"{matrix}.weight", "I8", 2)
        scales = self._floats(f"{matrix}.weight_scale").reshape(-1, 1)
        if len(scales) not in (1, len(numbers)):
            raise self._malformed(f"tensor {matrix!r} has {len(numbers)} rows and {len(scales)} scales")
        scales = np.ascontiguousarray(np.broadcast_to(scales, (len(numbers), 1)))
        return self._made(f"{matrix}.weight", numbers.astype(np.int16), scales)

    def _grouped(self, matrix: str) -> Converted:
        numbers, zeros = self._numbers(f"{matrix}.qweight"), self._zeros(f"{matrix}.qzeros")
        scales = self._floats(f"{matrix}.scales")
        (inputs, outputs), groups = numbers.shape, len(scales)
        if scales.shape != (groups, outputs) or zeros.shape != scales.shape or not groups or inputs % groups:
            raise self._malformed(f"tensor {matrix!r}: {numbers.shape}, {zeros.shape} and {scales.shape} do not fit")
        size = inputs // groups
        belongs = np.arange(inputs) // size
        if f"{matrix}.g_idx" in self._places:
            index = self._read(f"{matrix}.g_idx", "I32", 1).astype(np.int64)
            if index.shape != (inputs,) or index.min() < 0 or index.max() >= groups:
                raise self._malformed(f"tensor {matrix + '.g_idx'!r} names groups that are not there")
            if not np.array_equal(index, belongs):
                with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is refused
                    whole = (numbers - zeros[index]).astype(np.float32) * scales[index]
                values = np.ascontiguousarray(whole.T)
                return make_whole(f"{matrix}.weight", iter([values]), (outputs, inputs), f"{self.kind} act-order")
        if size % GROUP:
            raise self._refused(f"has groups of {size} inputs; multiples of {GROUP} are read")
        difference = np.ascontiguousarray((numbers - zeros[belongs]).T)
        repeated = np.ascontiguousarray(np.repeat(scales, size // GROUP, axis=0).T)
        return self._made(f"{matrix}.weight", difference, repeated)

    def _made(self, name: str, numbers: NDArray[np.int16], scales: NDArray[np.float32]) -> Converted:
        if numbers.shape[1] % GROUP:
            raise self._refused(f"has tensor {name!r} of {numbers.shape[1]} columns, not whole groups of {GROUP}")
        return exact_or_whole(name, self.kind, numbers, scales)

    def _numbers(self, name: str) -> NDArray[np.int16]:
        """(inputs, outputs): GPTQ packs along the inputs, AWQ along the outputs in an order of its own."""
        words = self._read(name, "I32", 2)
        if self.kind == "AWQ":
            return self._along_columns(words)
        rows, columns = words.shape
        parts = self._split(words)  # (rows, columns, per word)
        return np.ascontiguousarray(parts.transpose(0, 2, 1)).reshape(rows * parts.shape[2], columns)

    def _zeros(self, name: str) -> NDArray[np.int16]:
        zeros = self._along_columns(self._read(name, "I32", 2))
        kept_less_one = self.kind == "GPTQ" and self._settings.get("checkpoint_format", "gptq") == "gptq"
        return zeros + np.int16(1) if kept_less_one else zeros

    def _along_columns(self, words: NDArray[np.int32]) -> NDArray[np.int16]:
        parts = self._split(words)
        if self.kind == "AWQ":
            parts = parts[:, :, _AWQ_ORDER]
        return parts.reshape(len(words), -1)

    def _split(self, words: NDArray[np.int32]) -> NDArray[np.int16]:
        """(rows, columns, numbers of each word), the lowest bits first."""
        shifts = np.arange(0, 32, self._bits, dtype=np.uint32)
        parts = (words.view(np.uint32)[:, :, None] >> shifts) & np.uint32(2**self._bits - 1)
        return parts.astype(np.int16)

    def _floats(self, name: str) -> NDArray[np.float32]:
        data = self._read(name)
        dtype = DTYPES.get(self._places[name][1].dtype)
        if dtype not in ("f32", "f16", "bf16"):
            raise self._malformed(f"tensor {name!r} is not of floats")
        return Tensor(dtype, data).to_f32()

    def _read(self, name: str, dtype: str | None = None, rank: int | None = None) -> NDArray[Any]:
        if name not in self._places:
            raise self._malformed(f"there is no tensor {name[:200]!r}")
        file, place = self._places[name]
        if (dtype is not None and place.dtype != dtype) or (rank is not None and len(place.shape) != rank):
            raise self._malformed(f"tensor {name[:200]!r} is {place.dtype} {list(place.shape)}")
        if dtype is not None and not place.num_elements:
            raise self._malformed(f"tensor {name[:200]!r} is empty")
        return read_exactly(file, place.start, place.num_bytes).view(_NUMPY[place.dtype]).reshape(place.shape)

    def _refused(self, rule: str) -> NotServable:
        return NotServable(f"the checkpoint {rule}", param="path")

    def _malformed(self, rule: str) -> MalformedFile:
        return MalformedFile(f"the {self.kind} checkpoint: {rule}", file=self._chosen.weights[0].path)
