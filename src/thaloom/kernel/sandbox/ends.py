"""How an end is named: pure. What the kernel counted comes first, then how the process ended, then what it said."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from thaloom.base.units import format_bytes
from thaloom.kernel.sandbox.types import Confinement, Strikes

Reason = Literal[
    "MemoryLimit", "ProcessLimit", "DiskLimit", "ForbiddenCall", "NetworkForbidden", "ScratchFull", "FileLimit",
    "OutsideItsView",
]  # fmt: skip
"""One word for each wall; the reason of the condition people are shown."""

_NO_NETWORK = "Machine is not on the network"
"""ENONET: the kernel gives it to nobody; our filter does (inside/seccomp.py)."""
_PATH = re.compile(r"""['"`]?(/[^'"`:\s]+)""")
_MOST_PATHS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """What is known of a process that has ended."""

    status: int | None
    """Exit code, or minus the signal; None: it was not our child."""
    strikes: Strikes
    words: str
    """The end of its log."""
    log_full: bool = False
    """Its log is as long as any file of it may get: it can have said nothing more."""
    has_scratch: bool = True
    """It has scratch space of its own, so that what is full may be that."""
    full_disk_bytes: int | None = None
    """Size of the disk of its own, if that is full."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Met:
    """A wall that a program met, in words for people."""

    reason: Reason
    message: str


def met_wall(ending: Ending, wish: Confinement, hidden: Callable[[str], bool]) -> Met | None:
    """The wall that ended it, as far as there is evidence; None if there is none.

    `hidden(path)`: whether something lies there that the program was not shown.
    """
    limits, strikes = wish.limits, ending.strikes
    if strikes.oom_kills:
        limit = "" if limits.memory_bytes is None else f" of {format_bytes(limits.memory_bytes)}"
        return Met(reason="MemoryLimit", message=f"it met its memory limit{limit} and was ended by the kernel")
    if ending.status == -signal.SIGSYS:
        message = "it made a system call that its walls forbid, and was ended by the kernel (SIGSYS)"
        return Met(reason="ForbiddenCall", message=message)
    if strikes.forks_refused:
        return forks_refused(strikes.forks_refused, limits.num_pids)
    if ending.status == -signal.SIGXFSZ or ending.log_full or "File too large" in ending.words:
        limit = "" if wish.file_bytes is None else f" of {format_bytes(wish.file_bytes)}"
        return Met(reason="FileLimit", message=f"it met its limit{limit} on the length of a file")
    if ending.full_disk_bytes is not None:
        size = format_bytes(ending.full_disk_bytes)
        return Met(reason="DiskLimit", message=f"it filled its disk of {size}: {ending.words}".rstrip(": "))
    return _from_words(ending, wish, hidden)


def forks_refused(times: int, limit: int | None) -> Met:
    """Of one that lives or lived."""
    most = "" if limit is None else f" of {limit}"
    return Met(reason="ProcessLimit", message=f"it met its limit{most} on processes and threads: {times} were refused")


def _from_words(ending: Ending, wish: Confinement, hidden: Callable[[str], bool]) -> Met | None:
    words = ending.words
    if _NO_NETWORK in words:
        return Met(
            reason="NetworkForbidden", message=f"it asked for the network, which its walls keep from it: {words}"
        )
    if "No space left on device" in words and ending.has_scratch:
        limit = format_bytes(wish.scratch_bytes)
        return Met(reason="ScratchFull", message=f"it filled its {limit} of scratch space: {words}")
    if any(sign in words for sign in ("No such file or directory", "Permission denied", "Read-only file system")):
        for path in _PATH.findall(words)[:_MOST_PATHS]:
            if hidden(path):
                return Met(
                    reason="OutsideItsView", message=f"it asked for {path}, which its walls keep from it: {words}"
                )
    return None
