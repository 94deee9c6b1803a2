"""Processes by identity, not by number: a pid alone may already belong to somebody else."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessIdentity:
    """A process for as long as it lives: its pid and the kernel's start time of it (clock ticks since boot)."""

    pid: int
    start_ticks: int

    def alive(self) -> bool:
        """Whether this very process still runs (a zombie does not)."""
        status = _stat(self.pid)
        return status is not None and status[0] == self.start_ticks and status[1] not in ("Z", "X")

    def send(self, signum: signal.Signals) -> bool:
        """Deliver a signal to this very process; False if it is gone. Free of the pid-reuse race (pidfd)."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except OSError:
            return False
        try:
            if not self.alive():
                return False
            signal.pidfd_send_signal(descriptor, signum)
        except ProcessLookupError:
            return False
        finally:
            os.close(descriptor)
        return True

    async def wait(self) -> int | None:
        """Return when the process has ended to its last thread (a killed one is a zombie a little before that, with all
        its memory and sockets), child of ours or not: of a child its exit code, or minus the signal that ended it; else
        None."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except OSError:
            return self.reap()
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        status = None
        try:
            if identify(self.pid) == self:
                loop.add_reader(descriptor, ended.set)  # readable once no thread is left
                await ended.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)
            status = self.reap()
        return status

    def reap(self) -> int | None:
        """Take the exit status of an ended child, so that no zombie stays: as `wait` gives it. Harmless otherwise; of
        several who wait for one process, one learns it."""
        with contextlib.suppress(ChildProcessError, OSError):
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            return os.waitstatus_to_exitcode(status) if pid else None
        return None

    async def stop(self, *, grace_s: float) -> None:
        """Ask with SIGTERM, then insist with SIGKILL after `grace_s`; return when it has ended."""
        self.send(signal.SIGTERM)
        try:
            await asyncio.wait_for(self.wait(), grace_s)
        except TimeoutError:
            self.send(signal.SIGKILL)
            await self.wait()


def identify(pid: int) -> ProcessIdentity | None:
    """The identity of the process that has `pid` now, or None if there is none."""
    status = _stat(pid)
    return None if status is None else ProcessIdentity(pid=pid, start_ticks=status[0])


def spawn(
    command: Sequence[str],
    *,
    log: Path,
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
    pass_fds: Sequence[int] = (),
    stdin: int = subprocess.DEVNULL,
) -> ProcessIdentity:
    """Start `command` in a session of its own, so that it outlives us; its output is appended to `log`. It inherits
    the descriptors `pass_fds` under their own numbers, `stdin` as its standard input, and no others."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            list(command),
            stdin=stdin,
            stdout=output,
            stderr=output,
            env=env,
            cwd=cwd,
            start_new_session=True,
            pass_fds=pass_fds,
        )
    process.returncode = 0  # we wait by pidfd, not by Popen: keep it from warning about a living child
    identity = identify(process.pid)
    if identity is None:  # ended and reaped before we looked: cannot happen while we do not wait for it
        raise ProcessLookupError(process.pid)
    return identity


def resident_bytes(pid: int) -> int | None:
    """Resident set of a process, or None if it is gone. Source: proc(5), /proc/pid/statm field 2."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return None


def unshared_bytes(pid: int) -> int | None:
    """Resident set of a process without what it has of memory files; None if it is gone. Source: proc(5), VmRSS and
    RssShmem of /proc/pid/status."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
    except OSError:
        return None
    told = {name: rest for name, _, rest in (line.partition(":") for line in lines) if name in ("VmRSS", "RssShmem")}
    if len(told) < 2:  # a process that has ended has no memory to tell of
        return None
    return (int(told["VmRSS"].split()[0]) - int(told["RssShmem"].split()[0])) * 1024


def _stat(pid: int) -> tuple[int, str] | None:
    """(start ticks, state letter). Source: proc(5), /proc/pid/stat fields 22 and 3; the name may hold spaces."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")  # a process may call itself any bytes
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()
    return int(fields[19]), fields[0]
