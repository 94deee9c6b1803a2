"""Draws handed to the native library as arrays of its structs, and its findings read back."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from thaloom.hal.draws import Draw, Drawn, Row, logprobs
from thaloom.hal.drivers.cpu import native
from thaloom.hal.drivers.cpu.memory import HostMemory
from thaloom.hal.drivers.cpu.native import Library


def draw_rows(
    library: Library, handle: ctypes.c_void_p, result: HostMemory, plan: native.Plan, draws: Sequence[Draw]
) -> list[Drawn]:
    """One token for each of the first rows of `result`."""
    wishes = np.array([_told(wish) for wish in draws], native.DRAW)
    drawn = np.empty(len(draws), native.DRAWN)
    columns = min(int(plan.result_width), max((wish.num_top or 0 for wish in draws), default=0))
    top = np.empty((len(draws), columns), np.int32)
    np.minimum(wishes["num_top"], columns, out=wishes["num_top"])
    told = native.Draws(
        logits=result.address,
        logits_values=result.num_bytes // 4,
        wishes=wishes.ctypes.data,
        drawn=drawn.ctypes.data,
        top=top.ctypes.data,
        num_draws=len(draws),
        top_columns=columns,
    )
    library.draw(handle, told, native.Message())
    rows = result.data.view(np.float32)[: len(draws) * plan.result_stride].reshape(len(draws), plan.result_stride)
    found = zip(*(drawn[field].tolist() for field in native.DRAWN.fields or ()), strict=True)
    return [_read(*each) for each in zip(rows, draws, found, top, strict=True)]


def _told(wish: Draw) -> tuple[float, float, float, int, int, int]:
    num_top = -1 if wish.num_top is None else min(wish.num_top, 2**31 - 1)
    top_k = min(wish.top_k, 2**32 - 1)
    return wish.temperature, wish.top_p, wish.min_p, wish.uniform_steps, top_k, num_top


def _read(logits: Row, wish: Draw, found: tuple[int, int, float, int, int], top: NDArray[np.int32]) -> Drawn:
    token, num_not_finite, highest, num_top, total = found
    if num_not_finite or wish.num_top is None:
        return Drawn(token=token, num_not_finite=num_not_finite)
    return Drawn(token=token, logprobs=logprobs(logits, token, top[:num_top], highest=highest, total=total))
