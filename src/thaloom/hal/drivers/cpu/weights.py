"""A program's weights as the library wants them: vectors in f32, matrices in panels, floats or whole numbers."""

from __future__ import annotations

import ctypes
import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from thaloom.base.errors import DiskFull, MalformedFile
from thaloom.hal.arena import GrowingArena
from thaloom.hal.checks import check_weight
from thaloom.hal.driver import KeepsPacked, Shared, SharesPacked, WeightSource
from thaloom.hal.drivers.cpu import native, packed_file
from thaloom.hal.drivers.cpu.memory import HostMemory
from thaloom.hal.drivers.cpu.native import Library
from thaloom.hal.drivers.cpu.shared_memory import SharedMemory
from thaloom.hal.ops import Program
from thaloom.hal.quantise import formats, heads, shared_projections
from thaloom.hal.tensors import QuantTensor, Tensor
from thaloom.hal.types import WeightFormat

if TYPE_CHECKING:
    from thaloom.hal.drivers.cpu.executable import CpuBackend

WORTH_KEEPING = 64 << 20
"""Bytes from which packed weights are kept on disk: fewer are packed in less than a tenth of a second."""
_LARGE = 1 << 20
"""Bytes from which a weight gets a buffer of its own."""
_SOURCES = {"f32": native.SOURCE_F32, "bf16": native.SOURCE_BF16, "f16": native.SOURCE_F16}
_STORED = {"f32": native.F32, "bf16": native.BF16, "f16": native.F32}
"""Only f16 is widened: processors here compute nothing in it."""
_FORMATS = {"int8": native.INT8, "int8_groups": native.INT8_GROUPS, "int4": native.INT4}


class PackedWeights:
    """All weights of a program, packed one after the other, so that loading never holds more than one tensor twice, and
    the largest of them while there is little else.

    One buffer for each weight of a megabyte or more, one for all the small ones together.
    """

    def __init__(
        self,
        program: Program,
        source: WeightSource,
        backend: CpuBackend,
        library: Library,
        weight_format: WeightFormat = "stored",
    ) -> None:
        self._format = weight_format
        self._formats = formats(program, weight_format)
        self._wide = shared_projections(program) if weight_format == "stored" else frozenset()
        self._heads = heads(program)
        self._library = library
        self._backend = backend
        self._arena: GrowingArena[HostMemory] = GrowingArena(backend.allocate, chunk_bytes=_LARGE)
        self._memory: Shared | None = None
        self._shared: SharedMemory | None = None
        self.structs: dict[str, native.Weight] = {}
        try:
            self._take(program, source)
        except BaseException:
            self.free()
            raise

    def _take(self, program: Program, source: WeightSource) -> None:
        """From where they lie packed already, if the source has such a place; else packed now, and kept there."""
        keeper = source if isinstance(source, KeepsPacked) else None
        # What each matrix becomes is Python's to say: a rule that changes must not find what the old one packed.
        chosen = sorted({**self._formats, **dict.fromkeys(self._wide, "wide")}.items())
        split = sorted(self._heads)
        layout = f"cpu {self._library.digest} {self._format} {chosen} split {split} {program.digest()}"
        sharer = source if isinstance(source, SharesPacked) else None
        self._memory = None if sharer is None else sharer.shared()

        def had() -> bool:
            attached = sharer is not None and self._attached(program, sharer, layout)
            return attached or (keeper is not None and self._read_kept(program, keeper, layout))

        if had():
            return
        self._pack_all(program, source)
        if keeper is None or self.num_bytes < WORTH_KEEPING:
            return
        try:
            packed_file.write(keeper.packed_path(layout), self.structs, layout, self._backend.num_threads)
        except (OSError, DiskFull) as error:
            keeper.packed_lost(f"packed weights are not kept: {error}")
            return
        if self._memory is not None and self._memory.blank is not None:
            self.free()  # never in memory twice
            if not had():
                self._pack_all(program, source)

    def _pack_all(self, program: Program, source: WeightSource) -> None:
        packed: dict[str, native.Weight] = {}
        # The largest first: both its forms are in memory at once, and later that would come on top of all the others.
        for name, shape in sorted(program.weights.items(), key=lambda item: -math.prod(item[1])):
            tensor = source.read(name)
            check_weight(name, tensor, tuple(shape), self._backend.support)
            packed[name] = self._pack(name, tensor)
        self.structs = {name: packed[name] for name in program.weights}

    def _attached(self, program: Program, sharer: SharesPacked, layout: str) -> bool:
        """Whether the weights are those in shared memory, which is filled first where that is left to us and they lie
        packed already."""
        if self._memory is None:
            return False
        try:
            if self._memory.blank is not None:
                path, num_threads = sharer.packed_path(layout), self._backend.num_threads
                try:
                    packed_file.share(path, program.weights, layout, self._memory.blank, num_threads)
                except (FileNotFoundError, packed_file.Unusable):
                    return False  # whoever reads the file next tells what is wrong with it
            self.structs, self._shared = packed_file.attach(
                self._memory.reader, program.weights, layout, self._backend.map_shared
            )
        except (OSError, packed_file.Unusable) as error:
            self._memory = None  # its descriptors may be closed from now on
            sharer.not_shared(str(error))
            return False
        return True

    def _read_kept(self, program: Program, keeper: KeepsPacked, layout: str) -> bool:
        try:
            self.structs, memory = packed_file.read(
                keeper.packed_path(layout), program.weights, layout, self._backend.allocate, self._backend.num_threads
            )
        except FileNotFoundError:
            return False
        except (OSError, packed_file.Unusable) as error:
            keeper.packed_lost(f"packed weights are made again: {error}")
            return False
        self._arena.adopt(memory)
        return True

    @property
    def num_bytes(self) -> int:
        return self.shared_bytes + self._arena.num_bytes

    @property
    def shared_bytes(self) -> int:
        """Of `num_bytes`: in memory that other processes may use as well."""
        return 0 if self._shared is None else self._shared.num_bytes

    def free(self) -> None:
        self._arena.free()
        if self._shared is not None:
            self._shared.free()
            self._shared = None

    def _pack(self, name: str, tensor: Tensor | QuantTensor) -> native.Weight:
        if isinstance(tensor, QuantTensor):
            return self._pack_whole(name, tensor)
        if len(tensor.shape) == 1:
            return self._pack_vector(tensor.to_f32())
        dtype = _FORMATS[self._formats[name]] if name in self._formats else _STORED[tensor.dtype]
        if name in self._wide and dtype == native.BF16:
            dtype = native.BF16_WIDE  # inputs rounded to bf16 cost more here than anywhere: docs/decisions/0008
        data = np.ascontiguousarray(tensor.data)
        source = native.Source(data=data.ctypes.data, num_bytes=data.nbytes, dtype=_SOURCES[tensor.dtype])
        return self._pack_matrices(name, tensor.shape, dtype, source)

    def _pack_whole(self, name: str, tensor: QuantTensor) -> native.Weight:
        in_eight = native.INT8 if tensor.scales.shape[-1] == 1 else native.INT8_GROUPS
        dtype = native.INT4 if tensor.bits == 4 else in_eight
        data, scales = np.ascontiguousarray(tensor.data), np.ascontiguousarray(tensor.scales)
        source = native.Source(
            data=data.ctypes.data,
            num_bytes=data.nbytes,
            scales=scales.ctypes.data,
            num_scales=scales.size,
            dtype=native.SOURCE_I8,
        )
        return self._pack_matrices(name, tensor.shape, dtype, source)

    def _pack_matrices(self, name: str, shape: tuple[int, ...], dtype: int, source: native.Source) -> native.Weight:
        if name in self._heads and dtype == native.INT8_GROUPS:
            dtype = native.INT8_SPLIT  # a greedy token needs but a part of it: docs/decisions/0039
        count, rows, columns = (1, *shape) if len(shape) == 2 else shape
        target = native.Weight(kind=native.MATRICES, dtype=dtype, count=count, rows=rows, columns=columns)
        self._place(target, self._library.packed_bytes(dtype, count, rows, columns))
        source.num_threads = self._backend.num_threads
        try:
            self._library.pack(target, source)
        except ArithmeticError as error:
            raise MalformedFile(f"weight {name!r} cannot be made {self._format}: {error}") from error
        return target

    def _pack_vector(self, values: NDArray[np.float32]) -> native.Weight:
        padded = np.zeros(-(-len(values) // 16) * 16, np.float32)
        padded[: len(values)] = values
        target = native.Weight(kind=native.VECTOR, dtype=native.F32, count=1, rows=1, columns=len(values))
        self._place(target, padded.nbytes)
        ctypes.memmove(target.data, padded.ctypes.data, padded.nbytes)
        return target

    def _place(self, target: native.Weight, num_bytes: int) -> None:
        piece = self._arena.take(num_bytes)
        target.data = piece.buffer.address + piece.offset
        target.num_bytes = num_bytes
