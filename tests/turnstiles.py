"""Turnstiles whose stores can be watched, and processes that take turns."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.boards import Stores
from thaloom.kernel.sched.turns import PASSES
from thaloom.work.runtime.turns.file import HOLDING, LENGTH, STATE, WEIGHT, WIDTH, WIDTH_AT, base_of
from thaloom.work.runtime.turns.turnstile import Turnstile


def watched(path: Path, before: Callable[[str], None]) -> Turnstile:
    """An opening whose user is called before each of its stores."""
    turnstile = Turnstile.open(path)
    turnstile.words = Stores(turnstile.file.words, before)  # type: ignore[assignment]
    return turnstile


def assert_no_crowd(turnstile: Turnstile) -> None:
    """To be asked guarded: those that have a turn fit beside each other, but for who passes the others."""
    words = turnstile.file.words
    holders = [base_of(seat) for seat in turnstile.busy() if words[base_of(seat) + STATE] == HOLDING]
    if not holders:
        return

    def urgency(begin: int) -> float:
        return words[begin + WEIGHT] / max(1, words[begin + LENGTH])

    urgent = max(map(urgency, holders))
    widths = [words[begin + WIDTH] for begin in holders if urgency(begin) * PASSES > urgent]
    assert len(widths) == 1 or sum(widths) <= words[WIDTH_AT], f"a crowd of {widths} at a device of {words[WIDTH_AT]}"


@contextlib.contextmanager
def process(work: Callable[[], None]) -> Iterator[int]:
    """A child that does it; afterwards it has ended well, or by a signal."""
    pid = os.fork()
    if pid == 0:
        ended = 1
        try:
            work()
            ended = 0
        finally:
            os._exit(ended)
    try:
        yield pid
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "it ended in an error of its own"
