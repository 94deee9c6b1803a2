"""Matrices in whole numbers: how floats become them. What is written here in NumPy is the definition of right; a
driver that converts by itself gives the same numbers to the bit.

8 bits: symmetric, the largest magnitude becomes 127, one scale a row, or one for 32 columns.
4 bits: one scale for 32 columns, chosen for the least squared error among a few candidates: the largest magnitude
becomes a little more or less than -8 (so a scale may be negative: -8 is the only number of 4 bits without an opposite),
and for each candidate the best scale for its whole numbers is known in closed form.
Source: least squares, min over s of sum (x - s q)^2 is s = sum(x q) / sum(q q), and it takes sum(x q)^2 / sum(q q) off
the error. Candidates were chosen by the error on Gaussian and heavy-tailed weights; docs/decisions/0007.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from thaloom.hal.ops import Instruction, Linear, Logits, Lora, Moe, PagedAttention, Program, RmsNorm, Rope, Slot
from thaloom.hal.tensors import GROUP, QuantTensor, Tensor
from thaloom.hal.types import MatrixFormat, WeightFormat

F32 = NDArray[np.float32]
LEAST = np.float32(1e-30)
"""A largest magnitude below it counts as nothing: its inverse would not be finite."""
MOST = np.float32(65504 * 6)
"""A larger magnitude has no scale in f16 under any of the reaches below."""
REACHES = tuple(np.float32(reach) for reach in (8.0, 7.5, 7.0, 8.5, 6.5, 9.0))
"""Where the largest magnitude of 32 columns may come to lie, in 4 bits, before it is rounded and cut off. Of equally
good ones the first is taken."""


def convertible(program: Program) -> frozenset[str]:
    """Names of the matrices that Limits.weight_format is about; `formats` says what becomes of each, if anything.

    Products, the head, an embedding table that is a head too, and the experts of a mixture; in whole groups of 32
    columns. Never what is small and decides much: routers, adapters, vectors; never a table that is only looked up.
    """
    names: set[str] = set()
    for step in program.instructions:
        if isinstance(step, Linear | Logits):
            names.add(step.weight)
        elif isinstance(step, Moe):
            names |= {step.gate, step.up, step.down}
    for step in program.instructions:  # a matrix with two uses is what the more delicate one needs
        if isinstance(step, Moe):
            names.discard(step.router)
    shapes = {str(name): shape for name, shape in program.weights.items()}
    return frozenset(str(name) for name in names if len(shapes[name]) > 1 and shapes[name][-1] % GROUP == 0)


def formats(program: Program, weight_format: WeightFormat) -> dict[str, MatrixFormat]:
    """What each matrix becomes that Limits.weight_format is about: that, or more where its kind would cost too much.

    In 8 bits shared keys and values stay as they are, what else attention reads and gives and the head have a scale for
    each 32 columns. In 4 bits shared values have 8. By how much each pays: docs/decisions/0007. Source: llama.cpp keeps
    values in more bits for the same reason (llama-quant.cpp, attn_v).
    """
    names = convertible(program)
    match weight_format:
        case "stored":
            return {}
        case "int8":
            fine = {*_around_attention(program), *heads(program)}
            return {name: "int8_groups" if name in fine else "int8" for name in names - shared_projections(program)}
        case "int4":
            delicate = shared_projections(program, keys=False)
            return {name: "int8" if name in delicate else "int4" for name in names}


def heads(program: Program) -> frozenset[str]:
    """The matrices that make logits."""
    return frozenset(step.weight for step in program.instructions if isinstance(step, Logits))


def shared_projections(program: Program, *, keys: bool = True) -> frozenset[str]:
    """The matrices that make the values of attention, and the keys unless told otherwise, where several heads share
    them: a hundredth of a model's weights that decides more than its share."""
    slots: list[Slot | None] = []
    for step in program.instructions:
        if isinstance(step, PagedAttention) and step.num_kv_heads < step.num_heads:
            slots += [step.k, step.v] if keys else [step.v]
    return _makers(program, slots)


def _around_attention(program: Program) -> frozenset[str]:
    """The matrices that make queries, keys and values, and those that take up what attention gives."""
    steps = [step for step in program.instructions if isinstance(step, PagedAttention)]
    outs = {step.out for step in steps}
    after = {step.weight for step in program.instructions if isinstance(step, Linear) and step.x in outs}
    return _makers(program, [slot for step in steps for slot in (step.q, step.k, step.v)]) | after


def _makers(program: Program, slots: Iterable[Slot | None]) -> frozenset[str]:
    """The matrices whose products become these slots, whatever turns, norms or adapters come between."""
    made_by: dict[Slot | None, Instruction] = {step.out: step for step in program.instructions}
    names: set[str] = set()
    for slot in slots:
        maker = made_by.get(slot)
        while isinstance(maker, Lora | Rope | RmsNorm):
            maker = made_by.get(maker.y if isinstance(maker, Lora) else maker.x)
        if isinstance(maker, Linear):
            names.add(maker.weight)
    return frozenset(names)


def convert(
    program: Program, weights: Mapping[str, Tensor | QuantTensor], weight_format: WeightFormat
) -> dict[str, Tensor | QuantTensor]:
    """A program's weights as a driver keeps them under Limits.weight_format. Raises as `quantise` does."""
    chosen = formats(program, weight_format)
    return {
        name: quantise_as(tensor, chosen[name]) if name in chosen and isinstance(tensor, Tensor) else tensor
        for name, tensor in weights.items()
    }


def quantise_as(tensor: Tensor, to: MatrixFormat) -> QuantTensor:
    """One matrix, or a stack of them, (..., rows, columns). Raises as `quantise` does."""
    return quantise(tensor.to_f32(), *numbers_of(to, tensor.shape[-1]))


def numbers_of(to: MatrixFormat, columns: int) -> tuple[Literal[4, 8], int]:
    """Bits of a number, and columns that share a scale."""
    return 4 if to == "int4" else 8, columns if to == "int8" else GROUP


def quantise(values: F32, bits: Literal[4, 8], group: int = GROUP) -> QuantTensor:
    """(..., rows, columns) f32 in whole numbers, a scale for each `group` columns: 32, or for 8 bits all of them.

    Raises ValueError where a value is not finite, or a scale too large for f16.
    """
    columns = values.shape[-1]
    if group not in (GROUP, columns) or (bits == 4 and group != GROUP) or columns % GROUP:
        raise ValueError(f"{columns} columns cannot be {bits} bits in groups of {group}")
    if not np.isfinite(values).all():
        raise ValueError("a number that is not finite cannot be made whole")
    groups = values.astype(np.float32, copy=False).reshape(*values.shape[:-1], columns // group, group)
    scales = _scales_8(groups) if bits == 8 else _scales_4(groups)
    if group != columns or bits == 4:
        scales = _as_f16(scales)
    whole = _whole(groups, _inverse(scales), *((-127, 127) if bits == 8 else (-8, 7)))
    return QuantTensor(bits, whole.astype(np.int8).reshape(values.shape), scales)


def quantise_kv(values: F32) -> tuple[NDArray[np.int8], F32]:
    """Keys or values, (..., columns), as they are kept in i8: whole numbers, and a scale for each last axis (...).

    Where a number is not finite, the numbers are 0 and the scale is NaN: the token has no value, its block is sound.
    """
    largest = np.abs(values).max(axis=-1)
    is_finite = np.isfinite(largest)
    kept = np.where(is_finite[..., None], values, np.float32(0))
    scales: F32 = _scales_8(kept)
    whole = _whole(kept, _inverse(scales), -127, 127).astype(np.int8)
    return whole, np.where(is_finite, scales, np.float32(np.nan))


def _scales_8(groups: F32) -> F32:
    largest = np.abs(groups).max(axis=-1)
    scales: F32 = np.where(largest < LEAST, np.float32(0), largest / np.float32(127))
    return scales


def _scales_4(groups: F32) -> F32:
    """The sums run over the columns in order, one product and one addition after the other."""
    far = np.abs(groups).argmax(axis=-1)  # the first of several
    largest: F32 = np.take_along_axis(groups, far[..., None], axis=-1)[..., 0]
    if (np.abs(largest) > MOST).any():
        raise ValueError("a scale is too large for f16")
    is_there = np.abs(largest) >= LEAST
    best, scales = np.zeros_like(largest), np.zeros_like(largest)
    for reach in REACHES:
        inverse: F32 = np.divide(-reach, np.where(is_there, largest, np.float32(1)), dtype=np.float32)
        product, square = np.zeros_like(largest), np.zeros_like(largest)
        whole = _whole(groups, inverse, -8, 7)
        for column in range(GROUP):
            product = product + groups[..., column] * whole[..., column]
            square = square + whole[..., column] * whole[..., column]
        scale = product / np.where(is_there, square, np.float32(1))  # never 0: the largest becomes at least 6
        gain = product * scale
        is_better = is_there & (gain > best)
        best = np.where(is_better, gain, best)
        scales = np.where(is_better, scale, scales)
    return scales


def _whole(groups: F32, inverse: F32, least: int, most: int) -> F32:
    """Nearest whole numbers, ties to even, within bounds."""
    whole: F32 = np.clip(np.rint(groups * inverse[..., None]), np.float32(least), np.float32(most))
    return whole


def _inverse(scales: F32) -> F32:
    inverse: F32 = np.where(scales == 0, np.float32(0), np.float32(1) / np.where(scales == 0, np.float32(1), scales))
    return inverse


def _as_f16(scales: F32) -> F32:
    with np.errstate(over="ignore"):
        rounded = scales.astype(np.float16).astype(np.float32)
    if not np.isfinite(rounded).all():
        raise ValueError("a scale is too large for f16")
    return rounded
