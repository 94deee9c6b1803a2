"""From rows of logits to tokens, the same whatever else runs: by the device where it can, else by the definition.

The draw for a position comes from a counter-based generator keyed by (seed, position): it needs no state, so neither
neighbours nor a preemption nor a draft that was given up changes it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from thaloom.base.errors import InternalError
from thaloom.hal.draws import Allowed, Draw, Drawn, Edits, draw
from thaloom.hal.driver import Executable, SamplesNatively
from thaloom.work.runtime.types import Sampling

Logits = NDArray[np.float32]
"""(num_rows, V)"""
_MASK = 2**64 - 1
_HALF = 2**32 - 1
_AGAIN = 2**63
"""Beyond every position."""


def wish(
    sampling: Sampling,
    *,
    position: int,
    num_top: int | None,
    report: tuple[int, ...] = (),
    edits: Edits | None = None,
    allowed: Allowed | None = None,
    again: bool = False,
    spares: bool = False,
) -> Draw:
    """The draw of the token at `position` (0 is the prompt's first). `num_top`: how many likeliest to report, None: no
    logprobs. `sampling.seed` must be set unless temperature is 0. `again`: by another number than the first time.
    `spares`: with all further tokens a draw can have, unless temperature is 0. The rest is as Draw has it."""
    is_plain = edits is None and allowed is None
    if sampling.temperature == 0:
        return (
            _greedy(num_top, report) if is_plain else Draw(num_top=num_top, report=report, edits=edits, allowed=allowed)
        )
    first, *further = uniforms(sampling.seed or 0, position + (_AGAIN if again else 0))
    return Draw(
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        uniform=first,
        further=tuple(further) if spares else (),
        num_top=num_top,
        report=report,
        edits=edits,
        allowed=allowed,
    )


@functools.lru_cache(maxsize=256)
def _greedy(num_top: int | None, report: tuple[int, ...]) -> Draw:
    return Draw(num_top=num_top, report=report)


def draw_all(executable: Executable, logits: Logits, wishes: Sequence[Draw]) -> Sequence[Drawn]:
    """One token for each row of `logits`, which is what the executable's last run gave."""
    if samples_natively(type(executable)):
        return cast(SamplesNatively, executable).draw(wishes)  # samples_natively looked
    return [draw(row, each) for row, each in zip(logits, wishes, strict=True)]


def draw_again(executable: Executable, logits: Logits, rows: Sequence[int], wishes: Sequence[Draw]) -> Sequence[Drawn]:
    """Another token for each of those rows, as `draw_all`."""
    if samples_natively(type(executable)):
        return cast(SamplesNatively, executable).redraw(rows, wishes)
    return [draw(logits[row], each) for row, each in zip(rows, wishes, strict=True)]


@functools.cache
def samples_natively(kind: type) -> bool:
    """Asked once for each kind of executable: such a look costs as much as ten draws."""
    return issubclass(kind, SamplesNatively)


def refusal(drawn: Drawn, position: int) -> InternalError | None:
    """Why there is no token, if there is none."""
    if drawn.token >= 0:
        return None
    if not drawn.num_not_finite:
        return InternalError(f"no token is allowed at position {position}", position=position)
    return InternalError(
        f"the model gave {drawn.num_not_finite} logits that are not finite for position {position}", position=position
    )


def uniforms(seed: int, position: int) -> tuple[float, ...]:
    """Seven numbers in [0, 1) that depend on these two alone: the first a multiple of 2^-53, the others of 2^-32.

    From the first words of NumPy's Philox with that key; written out because making a generator costs more than a draw.
    Source: Philox 4x64-10, Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
    """
    key_low, key_high = seed & _MASK, position & _MASK
    a, b, c, d = 1, 0, 0, 0  # the counter
    for _ in range(10):
        low, high = 0xD2E7470EE14C6C93 * a, 0xCA5A826395121157 * c
        a, b, c, d = (high >> 64) ^ b ^ key_low, high & _MASK, (low >> 64) ^ d ^ key_high, low & _MASK
        key_low, key_high = (key_low + 0x9E3779B97F4A7C15) & _MASK, (key_high + 0xBB67AE8584CAA73B) & _MASK
    first, half = (a >> 11) * 2.0**-53, 2.0**-32  # written out too
    low_b, low_c, low_d = (b & _HALF) * half, (c & _HALF) * half, (d & _HALF) * half
    return first, low_b, (b >> 32) * half, low_c, (c >> 32) * half, low_d, (d >> 32) * half
