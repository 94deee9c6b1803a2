"""Draws handed to the native library as arrays of its structs, and its findings read back."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thaloom.hal.draws import EDIT, MAX_FURTHER, Draw, Drawn, drawn, logprobs
from thaloom.hal.drivers.cpu import native
from thaloom.hal.drivers.cpu.memory import HostMemory
from thaloom.hal.drivers.cpu.native import Library

_DRAW, _DRAWN = struct.Struct(f"dddQ{MAX_FURTHER}QIiPPIIII"), struct.Struct(f"iIfIQ{MAX_FURTHER}i")
"""native.Draw and native.Drawn, to be written and read at once."""
_WORD = np.dtype(np.uint32)
_NO_FURTHER = (0,) * MAX_FURTHER


def draw_rows(
    library: Library,
    handle: ctypes.c_void_p,
    result: HostMemory | None,
    plan: native.Plan,
    rows: Sequence[int],
    draws: Sequence[Draw],
    *,
    num_rows: int,
) -> list[Drawn]:
    """One token for each of `rows`, of the `num_rows` that `result` has, by the draw in its place. No result: the step
    was greedy, and so are the draws.

    Plain structs, for this runs after every step, which has swept the caches: by NumPy's records it took nearly twice
    as long."""
    count = len(draws)
    columns = min(plan.result_width, max((wish.num_top or 0 for wish in draws), default=0))
    wishes, findings = (native.Draw * count)(), (native.Drawn * count)()
    for index, (row, wish) in enumerate(zip(rows, draws, strict=True)):
        _DRAW.pack_into(wishes, index * _DRAW.size, *_told(wish, columns), row, len(wish.further))
    top = np.empty((count, columns), np.int32) if columns else None
    told = native.Draws(
        logits=None if result is None else result.address,
        logits_values=0 if result is None else result.num_bytes // 4,
        wishes=ctypes.addressof(wishes),
        drawn=ctypes.addressof(findings),
        top=None if top is None else top.ctypes.data,
        num_rows=num_rows,
        num_draws=count,
        top_columns=columns,
    )
    library.draw(handle, told, native.Message())

    def read(
        index: int, token: int, num_not_finite: int, highest: float, num_top: int, total: int, *further: int
    ) -> Drawn:
        row, wish, stride = rows[index], draws[index], plan.result_stride
        if token < 0:
            return Drawn(token=token, num_not_finite=num_not_finite)
        tokens = (token, *(each for each in further if each >= 0))
        if wish.num_top is None or result is None:
            return drawn(tokens)
        logits = result.data.view(np.float32)[row * stride : (row + 1) * stride]
        likeliest = np.empty(0, np.int32) if top is None else top[index, :num_top]
        return drawn(tokens, [logprobs(logits, each, likeliest, wish, highest=highest, total=total) for each in tokens])

    return [read(index, *found) for index, found in enumerate(_DRAWN.iter_unpack(findings))]


def _told(wish: Draw, columns: int) -> tuple[float | int, ...]:
    """The fields of native.Draw up to its row. Edits and what is allowed are pointed to: the wish keeps them."""
    num_top = -1 if wish.num_top is None else min(wish.num_top, columns)
    top_k = min(wish.top_k, 2**32 - 1)
    edits, num_edits = _array(wish.edits, EDIT)
    allowed, num_words = _array(wish.allowed, _WORD)
    steps = (*wish.further_steps, *_NO_FURTHER)[:MAX_FURTHER] if wish.further else _NO_FURTHER
    filters = (wish.temperature, wish.top_p, wish.min_p, wish.uniform_steps, *steps, top_k, num_top)
    return *filters, edits, allowed, num_edits, num_words


def _array(values: NDArray[Any] | None, dtype: np.dtype[Any]) -> tuple[int, int]:
    """Where it lies, and how long it is."""
    if values is None or not len(values):
        return 0, 0
    if values.dtype != dtype or not values.flags.c_contiguous or values.ndim != 1:
        raise ValueError(f"an array of {values.dtype} in a draw, not of {dtype}")
    return values.ctypes.data, len(values)
