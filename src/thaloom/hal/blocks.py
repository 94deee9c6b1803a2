"""Keys and values in blocks of 16 tokens, in the host's memory: what the reference and its kin attend to."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from thaloom.hal.ops import BLOCK_TOKENS, KvSpec, Program, Step
from thaloom.hal.quantise import quantise_kv
from thaloom.hal.tensors import Tensor, bf16_from_f32
from thaloom.hal.types import DType

F32 = NDArray[np.float32]
STORAGE: dict[DType, str] = {"f32": "<f4", "bf16": "<u2", "f16": "<f2", "i8": "<i1"}
"""How a number is kept in memory, by the dtypes keys and values are kept in."""


class BlockStore:
    """Keys and values of all layers in 16-token blocks, over a flat array of bytes.

    A block holds, for each layer in turn, 16 x (K, D) keys and then 16 x (K, value_size) values, in `dtype`. In i8 each
    of the two is followed by 16 x K scales in f32, one for each token and key/value head.
    """

    def __init__(self, program: Program, dtype: DType, data: NDArray[np.uint8]) -> None:
        if dtype not in STORAGE:
            raise ValueError(f"keys and values are stored in {', '.join(STORAGE)}, not {dtype}")
        block = _block(program, dtype)
        self.block_bytes = block.itemsize
        self.num_blocks = len(data) // self.block_bytes if self.block_bytes else 0
        self._dtype = dtype
        self._specs = program.kv
        used = data[: self.num_blocks * self.block_bytes]
        self._blocks: NDArray[np.void] = used.view(block) if self.num_blocks else np.zeros(0, block)

    def write(self, layer: int, step: Step, k: F32, v: F32 | None) -> None:
        """Store the step's rows. k: (R, K*D); v: (R, K*value_size), or None where keys serve as values."""
        blocks = step.block_tables[step.sequences, step.positions // BLOCK_TOKENS]
        places = step.positions % BLOCK_TOKENS
        for name, values in (("keys", k), ("values", v)):
            if values is None:
                continue
            kept = values.reshape(len(values), self._specs[layer].num_kv_heads, -1)
            if self._dtype == "i8":
                whole, scales = quantise_kv(kept)
                self._blocks[f"{layer}.{name}"][blocks, places] = whole
                self._blocks[f"{layer}.{name}.scales"][blocks, places] = scales
            else:
                self._blocks[f"{layer}.{name}"][blocks, places] = _kept(kept, self._dtype)

    def read(self, layer: int, table: NDArray[np.int32], length: int) -> tuple[F32, F32]:
        """Keys (length, K, D) and values (length, K, value_size) of one sequence, as stored, in order of position."""
        blocks = table[: -(-length // BLOCK_TOKENS)]
        return self._read(f"{layer}.keys", blocks, length), self._read(f"{layer}.values", blocks, length)

    def copy_block(self, source: int, target: int) -> None:
        for block in (source, target):
            self._check(block)
        self._blocks[target] = self._blocks[source]

    def read_block(self, block: int, into: memoryview) -> None:
        copy_bytes(self._bytes_of(block), into)

    def write_block(self, block: int, data: memoryview) -> None:
        copy_bytes(data, self._bytes_of(block))

    def _bytes_of(self, block: int) -> memoryview:
        self._check(block)
        return self._blocks[block : block + 1].view(np.uint8).data

    def _check(self, block: int) -> None:
        if not 0 <= block < self.num_blocks:
            raise ValueError(f"block {block} is outside the pool of {self.num_blocks}")

    def _read(self, name: str, blocks: NDArray[np.int32], length: int) -> F32:
        values: F32 = Tensor(self._dtype, self._rows(name, blocks)[:length]).to_f32()
        if self._dtype == "i8" and values.size:
            scales = self._rows(f"{name}.scales", blocks).astype(np.float32, copy=False)
            values = values * scales[:length, :, None]
        return values

    def _rows(self, name: str, blocks: NDArray[np.int32]) -> NDArray[np.generic]:
        """A field of the blocks, (tokens, ...)."""
        stored: NDArray[np.generic] = self._blocks[name][blocks]
        return stored.reshape(len(blocks) * BLOCK_TOKENS, *stored.shape[2:])


def copy_bytes(source: memoryview, target: memoryview) -> None:
    """Raises ValueError unless there are as many of both."""
    if source.nbytes != target.nbytes:
        raise ValueError(f"a block of {source.nbytes} bytes does not fit {target.nbytes}")
    target.cast("B")[:] = source.cast("B")


def _kept(values: F32, dtype: DType) -> NDArray[np.generic]:
    """As numbers of `dtype`. Too large for f16 is cut off; NaN and infinities stay what they are."""
    if dtype == "bf16":
        return bf16_from_f32(values)
    if dtype == "f16":
        most = np.float32(65504)
        return np.where(np.isinf(values), values, np.clip(values, -most, most)).astype(np.float16)
    return values


def block_bytes(program: Program, kv_dtype: DType) -> int:
    """Bytes that the keys and values of 16 tokens take over all layers, without padding."""
    return _block(program, kv_dtype).itemsize


def _block(program: Program, dtype: DType) -> np.dtype[np.void]:
    """One block of all layers as a record, packed."""
    fields: list[tuple[str, str, tuple[int, ...]]] = []
    for layer, spec in enumerate(program.kv):
        for name, size in (("keys", spec.head_size), ("values", spec.value_size)):
            fields += _part(f"{layer}.{name}", spec, size, dtype)
    return np.dtype(fields)


def _part(name: str, spec: KvSpec, size: int, dtype: DType) -> list[tuple[str, str, tuple[int, ...]]]:
    heads = (BLOCK_TOKENS, spec.num_kv_heads)
    scales = [(f"{name}.scales", "<f4", heads)] if dtype == "i8" and size else []
    return [(name, STORAGE[dtype], (*heads, size)), *scales]
