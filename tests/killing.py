"""Killing a piece of work at each of its steps in turn, in a child, to look at what is left."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable

Step = Callable[[str], None]


def killed_at(point: int, work: Callable[[Step], object]) -> str | None:
    """Run `work` in a child that is killed (SIGKILL) when it tells its step number `point`; the step's name, or None if
    it ended well before that. AssertionError if it ended in an error of its own."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        seen = 0

        def step(name: str) -> None:
            nonlocal seen
            if seen == point:
                os.write(writing, name.encode())
                os.kill(os.getpid(), signal.SIGKILL)
            seen += 1

        with contextlib.suppress(BaseException):
            work(step)
            os._exit(0)
        os._exit(1)
    os.close(writing)
    name = os.read(reading, 100).decode()
    os.close(reading)
    _, status = os.waitpid(pid, 0)
    if os.WIFEXITED(status):
        assert os.WEXITSTATUS(status) == 0, "it ended in an error of its own"
        return None
    return name
