"""The blocks of GGUF tensors: what number each byte stands for.

Each function takes `blocks`: (number of blocks, bytes of a block), uint8, and gives float32 (number of blocks,
elements). The arithmetic is the definition's own, in float32, in its order. Source: ggml-quants.c, the
dequantize_row functions; ggml-common.h, the block structs. Compared with the `gguf` package in the tests.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


def half(blocks: Bytes, at: int) -> Floats:
    """The float16 at byte `at` of each block, as a column."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view("<f2").astype(np.float32)


def nibbles(packed: Bytes) -> NDArray[np.uint8]:
    """All low halves of the bytes, then all high ones."""
    return np.concatenate([packed & 15, packed >> 4], axis=1)


def whole_q8_0(blocks: Bytes) -> tuple[NDArray[np.int8], Floats]:
    """32 whole numbers and one scale a block: value = number * scale."""
    return blocks[:, 2:34].view(np.int8), half(blocks, 0)


def whole_q4_0(blocks: Bytes) -> tuple[NDArray[np.int8], Floats]:
    """32 whole numbers from -8 to 7 and one scale a block, which may be negative."""
    return nibbles(blocks[:, 2:18]).view(np.int8) - np.int8(8), half(blocks, 0)


def _q8_0(blocks: Bytes) -> Floats:
    numbers, scales = whole_q8_0(blocks)
    return numbers.astype(np.float32) * scales


def _q4_0(blocks: Bytes) -> Floats:
    numbers, scales = whole_q4_0(blocks)
    return numbers.astype(np.float32) * scales


def _q4_1(blocks: Bytes) -> Floats:
    return nibbles(blocks[:, 4:20]).astype(np.float32) * half(blocks, 0) + half(blocks, 2)


def _fifth_bits(blocks: Bytes, at: int) -> NDArray[np.uint8]:
    """The 32 bits from byte `at` on, one an element, as 16 or 0."""
    bits = np.unpackbits(np.ascontiguousarray(blocks[:, at : at + 4]), axis=1, bitorder="little")
    return bits << np.uint8(4)


def _q5_0(blocks: Bytes) -> Floats:
    numbers = (nibbles(blocks[:, 6:22]) | _fifth_bits(blocks, 2)).astype(np.int8) - np.int8(16)
    return numbers.astype(np.float32) * half(blocks, 0)


def _q5_1(blocks: Bytes) -> Floats:
    numbers = nibbles(blocks[:, 8:24]) | _fifth_bits(blocks, 4)
    return numbers.astype(np.float32) * half(blocks, 0) + half(blocks, 2)


def _six_bit_scales(packed: Bytes) -> tuple[Floats, Floats]:
    """Eight scales and eight minima of six bits each, out of twelve bytes. Source: ggml-quants.c, get_scale_min_k4."""
    low, middle, high = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate([low & 63, (high & 15) | ((low >> 6) << 4)], axis=1)
    minima = np.concatenate([middle & 63, (high >> 4) | ((middle >> 6) << 4)], axis=1)
    return scales.astype(np.float32), minima.astype(np.float32)


def _scaled_sub_blocks(blocks: Bytes, numbers: NDArray[np.uint8]) -> Floats:
    """Eight sub-blocks of 32 with a scale and a minimum each. `numbers`: (number of blocks, 8, 32)."""
    scales, minima = _six_bit_scales(blocks[:, 4:16])
    scale, minimum = half(blocks, 0) * scales, half(blocks, 2) * minima
    values: Floats = numbers.astype(np.float32) * scale[:, :, None] - minimum[:, :, None]
    return values.reshape(len(blocks), 256)


def _low_and_high(packed: Bytes) -> NDArray[np.uint8]:
    """128 bytes as 8 sub-blocks of 32: each 32 bytes hold one in their low halves and the next in their high ones."""
    chunks = packed.reshape(len(packed), 4, 1, 32)
    return np.concatenate([chunks & 15, chunks >> 4], axis=2).reshape(len(packed), 8, 32)


def _q4_k(blocks: Bytes) -> Floats:
    return _scaled_sub_blocks(blocks, _low_and_high(blocks[:, 16:144]))


def _q5_k(blocks: Bytes) -> Floats:
    shifts = np.arange(8, dtype=np.uint8)[None, :, None]
    fifth: NDArray[np.uint8] = ((blocks[:, None, 16:48] >> shifts) & np.uint8(1)) << np.uint8(4)
    return _scaled_sub_blocks(blocks, _low_and_high(blocks[:, 48:176]) | fifth)


def _q6_k(blocks: Bytes) -> Floats:
    """Sixteen sub-blocks of 16 with a scale each; numbers of four low bits and two high ones."""
    count = len(blocks)
    low = blocks[:, 0:128].reshape(count, 2, 2, 32)
    low = np.stack([low & 15, low >> 4], axis=2).reshape(count, 2, 4, 32)
    shifts = np.array([0, 2, 4, 6], dtype=np.uint8)[None, None, :, None]
    high = (blocks[:, 128:192].reshape(count, 2, 1, 32) >> shifts) & 3
    numbers = (low | (high << 4)).astype(np.int8) - np.int8(32)
    scales = half(blocks, 208) * blocks[:, 192:208].view(np.int8).astype(np.float32)
    values: Floats = numbers.reshape(count, 16, 16).astype(np.float32) * scales[:, :, None]
    return values.reshape(count, 256)


DECODE: dict[str, Callable[[Bytes], Floats]] = {
    "Q8_0": _q8_0, "Q4_0": _q4_0, "Q4_1": _q4_1, "Q5_0": _q5_0, "Q5_1": _q5_1,
    "Q4_K": _q4_k, "Q5_K": _q5_k, "Q6_K": _q6_k,
}  # fmt: skip
"""By the type's name. F32, F16 and BF16 have no blocks."""
