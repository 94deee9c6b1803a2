# Made from async_jobs.py by tools/generate_sync_client.py (make docs): change that one.
"""Programs that a node runs to their end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Sequence
from typing import Unpack

from thaloom.base.errors import DeadlineExceeded
from thaloom.edge.client.sdk.calls import delete, get, post, put
from thaloom.edge.client.sdk.connection import Asking, Stream
from thaloom.edge.client.sdk.options import JobOptions
from thaloom.edge.wire import control as wire

LONGEST_WAIT_S = 10
"""Of one request for the end of a job."""
_P = wire.PREFIX


class Jobs(Asking):
    """The part of `Node` that is about jobs. Only over the node's own socket."""

    def jobs(self, *, phase: str | None = None, limit: int = 100) -> wire.Jobs:
        """Newest first, and how many there are in each phase.

        >>> [(job.name, job.phase) for job in (client.node.jobs(limit=5)).jobs]
        """
        return self._connection.ask(wire.Jobs, get(f"{_P}/jobs", phase=phase, limit=limit))

    def job(self, name: str) -> wire.Job:
        """One job. Raises JobNotFound.

        >>> (client.node.job("prepare")).phase
        """
        return self._connection.ask(wire.Job, get(f"{_P}/jobs/{{}}", name))

    def run_job(self, name: str, command: Sequence[str], **wish: Unpack[JobOptions]) -> wire.Job:
        """Wish for a program to be run to its end. Returns at once, see `wait_job`.

        >>> client.node.run_job("prepare", ["sh", "-c", "echo hello"], retries=2, deadline_s=60.0)
        >>> (client.node.wait_job("prepare")).phase
        """
        return self._connection.ask(wire.Job, put(f"{_P}/jobs/{{}}", name, command=list(command), **wish))

    def stop_job(self, name: str) -> wire.Job:
        """Ask it to end; it is killed after its grace. Returns at once.

        >>> client.node.stop_job("prepare")
        """
        return self._connection.ask(wire.Job, post(f"{_P}/jobs/{{}}/stop", name))

    def remove_job(self, name: str, *, stop: bool = False) -> wire.Removed:
        """Forget it, with its logs and its folder; `stop`: end it first if it is not over.

        >>> client.node.remove_job("prepare")
        """
        return self._connection.ask(wire.Removed, delete(f"{_P}/jobs/{{}}", name, stop=str(stop).lower()))

    def wait_job(self, name: str, *, timeout_s: float | None = None) -> wire.Job:
        """The job once it is over, however it ended. Raises DeadlineExceeded.

        >>> (client.node.wait_job("prepare", timeout_s=60)).phase
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left_s = LONGEST_WAIT_S if deadline is None else deadline - time.monotonic()
            share_s = f"{max(0.0, min(left_s, LONGEST_WAIT_S)):.3f}"
            job = self._connection.ask(wire.Job, get(f"{_P}/jobs/{{}}/wait", name, timeout_s=share_s))
            if job.over:
                return job
            if left_s <= 0:
                raise DeadlineExceeded(f"job {name!r} is still {job.phase} after {timeout_s:g} s", job=name)

    def job_logs(self, name: str, *, follow: bool = False, tail: int = 100) -> Stream[str]:
        """The last `tail` lines of a job's log, without line ends; with `follow`, then all until it is over.

        >>> with client.node.job_logs("prepare", tail=10) as lines:
        ...     for line in lines:
        ...         print(line)
        """
        call = get(f"{_P}/jobs/{{}}/logs", name, follow=follow, tail=tail, endless=follow)

        def texts() -> Generator[str, None, None]:
            with contextlib.closing(self._connection.lines(call)) as lines:
                for line in lines:
                    yield line.decode(errors="replace")

        return Stream(texts())
