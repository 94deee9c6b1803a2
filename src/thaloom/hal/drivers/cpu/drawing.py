"""Draws handed to the native library as arrays of its structs, and its findings read back."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence

import numpy as np

from thaloom.hal.draws import Draw, Drawn, logprobs
from thaloom.hal.drivers.cpu import native
from thaloom.hal.drivers.cpu.memory import HostMemory
from thaloom.hal.drivers.cpu.native import Library

_DRAW, _DRAWN = struct.Struct("dddQIi"), struct.Struct("iIfIQ")
"""native.Draw and native.Drawn, to be written and read at once."""


def draw_rows(
    library: Library, handle: ctypes.c_void_p, result: HostMemory, plan: native.Plan, draws: Sequence[Draw]
) -> list[Drawn]:
    """One token for each of the first rows of `result`. Plain structs, for this runs after every step, which has swept
    the caches: by NumPy's records it took nearly twice as long."""
    count = len(draws)
    columns = min(plan.result_width, max((wish.num_top or 0 for wish in draws), default=0))
    wishes, drawn = (native.Draw * count)(), (native.Drawn * count)()
    for row, wish in enumerate(draws):
        _DRAW.pack_into(wishes, row * _DRAW.size, *_told(wish, columns))
    top = np.empty((count, columns), np.int32) if columns else None
    told = native.Draws(
        logits=result.address,
        logits_values=result.num_bytes // 4,
        wishes=ctypes.addressof(wishes),
        drawn=ctypes.addressof(drawn),
        top=None if top is None else top.ctypes.data,
        num_draws=count,
        top_columns=columns,
    )
    library.draw(handle, told, native.Message())

    def read(row: int, wish: Draw, token: int, num_not_finite: int, highest: float, num_top: int, total: int) -> Drawn:
        if num_not_finite or wish.num_top is None:
            return Drawn(token=token, num_not_finite=num_not_finite)
        stride = plan.result_stride
        logits = result.data.view(np.float32)[row * stride : (row + 1) * stride]
        likeliest = np.empty(0, np.int32) if top is None else top[row, :num_top]
        return Drawn(token=token, logprobs=logprobs(logits, token, likeliest, highest=highest, total=total))

    return [read(row, draws[row], *found) for row, found in enumerate(_DRAWN.iter_unpack(drawn))]


def _told(wish: Draw, columns: int) -> tuple[float, float, float, int, int, int]:
    num_top = -1 if wish.num_top is None else min(wish.num_top, columns)
    return wish.temperature, wish.top_p, wish.min_p, wish.uniform_steps, min(wish.top_k, 2**32 - 1), num_top
