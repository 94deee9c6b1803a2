"""A foreign server as its worker sees it: started through its keeper, its words passed on, its end noticed."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from thaloom.base.procs import resident_bytes
from thaloom.work.runtime.engines.keeper import FIRST_LINE

GRACE_S = 5.0
"""Between SIGTERM and SIGKILL: its requests are over by then, it has only to let go."""
KEPT_LINES = 8
MAX_LINE_BYTES = 2048


class EngineProcess:
    """Runs from construction until `stop`. Its output goes to `log`, the worker's own standard error in real life."""

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        log: BinaryIO | None = None,
        grace_s: float = GRACE_S,
    ) -> None:
        """Raises OSError if not even the keeper could be started."""
        self._log = sys.stderr.buffer if log is None else log
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._engine_pid: int | None = None
        self._on_end: Callable[[], None] | None = None
        self._lock = threading.Lock()
        self._keeper = subprocess.Popen(
            [sys.executable, "-P", "-m", f"{__package__}.keeper", "--grace", str(grace_s), "--", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(environment),
        )
        self._reader = threading.Thread(target=self._read, name="engine output", daemon=True)
        self._ended = threading.Event()
        self._reader.start()

    @property
    def ended(self) -> bool:
        return self._ended.is_set()

    def last_words(self) -> str:
        """The last lines it wrote, and how it ended if it has."""
        told = list(self._lines)
        if self.ended:
            told.append(_ending(self._keeper.returncode))
        return "\n".join(told) or "it wrote nothing"

    def on_end(self, call: Callable[[], None]) -> None:
        """Called once, on a thread of ours, when it has ended; at once if it has already."""
        with self._lock:
            if not self.ended:
                self._on_end = call
                return
        call()

    def wait(self, timeout_s: float) -> bool:
        """Whether it has ended, or does within that time."""
        return self._ended.wait(timeout_s)

    def resident_bytes(self) -> int:
        """Of the server and what it started; pages that these share are counted for each."""
        return 0 if self._engine_pid is None or self.ended else sum(map(_resident, _family(self._engine_pid)))

    def stop(self, timeout_s: float) -> bool:
        """Let it end: SIGTERM, after the grace SIGKILL. False if even that took longer. Harmless when repeated."""
        if self._keeper.stdin is not None and not self._keeper.stdin.closed:
            self._keeper.stdin.close()
        return self._ended.wait(timeout_s)

    def _read(self) -> None:
        """Until every writer of its output is gone, which is when the whole group has ended."""
        assert self._keeper.stdout is not None
        with self._keeper.stdout as output:
            while line := output.readline(MAX_LINE_BYTES):
                if self._engine_pid is None and line.startswith(FIRST_LINE):
                    self._engine_pid = int(line[len(FIRST_LINE) :])
                    continue
                if text := line.decode(errors="replace").rstrip():
                    self._lines.append(text)
                self._log.write(line)
                self._log.flush()
        self._keeper.wait()
        with self._lock:
            self._ended.set()
            call = self._on_end
        if call is not None:
            call()


def _ending(status: int | None) -> str:
    if status is None:
        return "it has ended"
    return f"it ended with signal {status - 128}" if status > 128 else f"it ended with {status}"


def _resident(pid: int) -> int:
    return resident_bytes(pid) or 0


def _family(pid: int) -> list[int]:
    """The process and its descendants, as far as they can be seen. Source: proc(5), /proc/pid/task/tid/children."""
    found = [pid]
    for parent in found:
        try:
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
        except (OSError, ValueError):
            continue
    return found
