"""What a latency class comes to: a share of the processors, and turns that come sooner or give way.

Nothing here keeps a processor for anybody: an idle class costs nobody anything. Real time is not used, for a busy loop
in it would stop the host; and interrupts stay where the host has put them.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping

from thaloom.kernel.sandbox.inside import kernel_calls
from thaloom.kernel.sandbox.types import BATCH_NICE, SCHED_BATCH, TURN_NS, Ability, Latency, LimitName

WEIGHTS: Mapping[Latency, int] = {"interactive": 300, "normal": 100, "batch": 10}
"""Shares under contention (`Limits.cpu_weight`). Wide enough that whoever answers somebody feels little of a job with
as many threads as it likes: 3 % of a processor go to the job; small enough that no job comes to a stand."""


def ability_of(latency: Latency, limits: Mapping[LimitName, Ability]) -> Ability:
    """Whether this host can do all that a class stands for. `limits`: what its control groups hold."""
    if latency == "normal":
        return Ability(name=latency, by="as every program")
    needed = [limits["cpu_weight"], find_turns() if latency == "interactive" else find_batch()]
    missing = [f"{ability.name}: {ability.why_not}" for ability in needed if not ability.enforced]
    if missing:
        return Ability(name=latency, why_not="; ".join(missing))
    return Ability(name=latency, by="; ".join(str(ability.by) for ability in needed))


@functools.cache
def find_batch() -> Ability:
    """Whether a program may be made one that gives way."""
    refused = _in_a_thread(lambda: kernel_calls.set_scheduling(SCHED_BATCH, BATCH_NICE, 0))
    if isinstance(refused, OSError):
        return Ability(name="batch", why_not=f"the kernel refuses it: {refused.strerror}")
    return Ability(name="batch", by=f"SCHED_BATCH, nice {BATCH_NICE}")


@functools.cache
def find_turns() -> Ability:
    """Whether a turn of a chosen length is given: asked for and read again, for older kernels take it and forget it."""

    def ask() -> int:
        kernel_calls.set_scheduling(0, 0, TURN_NS)
        return kernel_calls.turn_ns()

    given = _in_a_thread(ask)
    if given == TURN_NS:
        return Ability(name="turns", by=f"EEVDF: turns of {TURN_NS / 1e6:g} ms for interactive work")
    if isinstance(given, OSError):
        return Ability(name="turns", why_not=f"the kernel refuses it: {given.strerror}")
    return Ability(name="turns", why_not="this kernel does not heed the length of a turn (Linux 6.12)")


def _in_a_thread(attempt: Callable[[], int | None]) -> int | OSError | None:
    """What it gives, or why it fails. In a thread of its own: what that is made ends with it."""
    found: list[int | OSError | None] = []

    def run() -> None:
        try:
            found.append(attempt())
        except OSError as error:
            found.append(error)

    trying = threading.Thread(target=run)
    trying.start()
    trying.join()
    return found[0]
