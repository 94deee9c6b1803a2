"""How many rows of prompts go into a step beside rows that decode.

Two things pull. Every row of a prompt makes the step longer, and whoever decodes waits for it. But a step reads all
weights whatever it holds: prompts cut into tiny chunks pay for that again and again, and where prompts are always
waiting, small chunks cost a third of the throughput and in the end make everybody wait longer.

So, in this order:

1. Nobody decodes: as many rows as there may be.
2. What the targets allow: the step takes at most `stretch` times what it would without prompts, or `token_s`. Rows
   that are nearly free (the device waits for memory anyway) are always taken.
3. Where prompts are always waiting (`pressure`): at least the rows at which a step does `keep_throughput` of the
   work per second that the largest chunk would do. This wins over 2.
4. Never fewer than `least_rows`, so that a prompt comes to its end however slow the device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from thaloom.kernel.sched.step_times import StepShape, StepTimes, rows_from

NEARLY_FREE = 1.1
"""Steps differ by a tenth for no reason that anybody knows: nobody notices what lies within."""
PRESSURE_STEPS = 64
"""Steps over which it is judged whether prompts are always waiting: some seconds. A lone prompt of ordinary length is
over by then."""
CALM, PRESSED = 0.5, 0.9
"""Shares of steps that leave prompts waiting: up to the one only time per token counts, from the other on throughput
has its say, and in between in proportion."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTargets:
    """What running requests may be asked to bear while prompts come in."""

    stretch: float = 3.0
    """A step may take so many times what it would without prompts..."""
    token_s: float = 0.05
    """...or so long: 20 tokens a second, several times what people read."""
    least_rows: int = 32
    keep_throughput: float = 0.95
    """Share of the throughput of full chunks that is kept where prompts are always waiting; 0: time per token first,
    whatever it costs."""

    def __post_init__(self) -> None:
        if not 1.0 <= self.stretch < float("inf"):
            raise ValueError(f"stretch must be at least 1 and finite, not {self.stretch}")
        if not 0.0 <= self.token_s < float("inf"):
            raise ValueError(f"token_s must not be negative, nor infinite: {self.token_s}")
        if self.least_rows < 1:
            raise ValueError(f"least_rows must be at least 1, not {self.least_rows}")
        if not 0.0 <= self.keep_throughput <= 1.0:
            raise ValueError(f"keep_throughput must be between 0 and 1, not {self.keep_throughput}")


DEFAULT_TARGETS = StepTargets()


def choose_chunk(
    decoding: StepShape, depth: int, most_rows: int, *, times: StepTimes | None, targets: StepTargets, pressure: float
) -> int:
    """Rows for prompts in a step whose decoding rows are `decoding`; the first of them stands at position `depth`.

    Without measurements (`times` is None) few: harmless, and unlike the full steps that came before, so that base
    and slope can soon be told apart.
    """
    if decoding.rows == 0:
        return most_rows
    if times is None:
        return min(max(most_rows // 8, targets.least_rows), most_rows)

    def seconds(count: int) -> float:
        return times.seconds(decoding.plus(rows_from(depth, count)))

    alone_s = times.seconds(decoding)
    allowed_s = max(max(targets.stretch, NEARLY_FREE) * alone_s, targets.token_s)
    calm = _last(lambda count: seconds(count) <= allowed_s, most_rows)
    wish = calm
    if pressure > CALM:
        wanted = targets.keep_throughput * (decoding.rows + most_rows) / seconds(most_rows)
        busy = 1 + _last(lambda count: (decoding.rows + count) / seconds(count) < wanted, most_rows - 1)
        share = min(1.0, (pressure - CALM) / (PRESSED - CALM))
        wish = round(calm + share * max(0, busy - calm))
    return min(max(wish, targets.least_rows), most_rows)


def next_pressure(pressure: float, left_waiting: bool) -> float:
    """The share of recent steps that left prompts waiting for want of rows, one step later."""
    return pressure + (left_waiting - pressure) / PRESSURE_STEPS


def _last(holds: Callable[[int], bool], most: int) -> int:
    """The largest count up to `most` for which it holds, if it holds for all below; 0 if for none."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if holds(middle):
            low = middle
        else:
            high = middle - 1
    return low
