"""Runs one foreign server and ends it, with all its processes, when its worker goes away, however that ends.

`python -P -m thaloom.work.runtime.engines.keeper --grace S -- COMMAND...`: standard input is the worker's rope. When it
ends (the worker let go, or was killed), the server gets SIGTERM and after S seconds SIGKILL, as a group. The first line
of standard output is `thaloom-keeper: pid N`; the rest is what the server writes. Exits as the server did.

A process of its own, because a worker that was killed cannot end anything any more, and a server that outlives its
worker holds memory that nobody accounts for.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

FIRST_LINE = b"thaloom-keeper: pid "
CANNOT_START = 127


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="thaloom-keeper")
    parser.add_argument("--grace", type=float, required=True)
    parser.add_argument("command", nargs="+")
    asked = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # whoever ends us by name would leave the server behind
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        server = subprocess.Popen(asked.command, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT, process_group=0)
    except OSError as error:
        print(f"cannot start {asked.command[0]!r}: {error.strerror}", flush=True)
        return CANNOT_START
    os.write(1, FIRST_LINE + f"{server.pid}\n".encode())
    ended = os.pidfd_open(server.pid)
    try:
        _watch(server.pid, ended, asked.grace)
    finally:
        _signal(server.pid, signal.SIGKILL)  # before it is reaped, so that the group's number is still its own
    status = server.wait()
    return status if status >= 0 else 128 - status


def _watch(group: int, ended: int, grace_s: float) -> None:
    """Returns when the server has ended, or has had its time to."""
    while True:
        ready, _, _ = select.select([ended, 0], [], [])
        if ended in ready:
            return
        if not os.read(0, 4096):
            break
    _signal(group, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    select.select([ended], [], [], max(0.0, deadline - time.monotonic()))


def _signal(group: int, signum: signal.Signals) -> None:
    try:
        os.killpg(group, signum)
    except ProcessLookupError:
        pass


if __name__ == "__main__":
    sys.exit(main())
