"""The command lines of the processes that a node keeps."""

from __future__ import annotations

import sys
from pathlib import Path

_PYTHON = (sys.executable, "-P")
"""-P: a file in the folder somebody happened to start the node from must not stand in for a module."""


def worker_command(spec: Path, *, standby: str | None = None) -> list[str]:
    """`standby`: it waits until it is told that `spec` is there, ready for what that driver serves."""
    command = [*_PYTHON, "-m", "thaloom.worker", "--spec", str(spec)]
    return command if standby is None else [*command, "--standby", standby]


def door_command(home: Path, address: str) -> list[str]:
    place = address.removeprefix("https://")
    host, _, port = place.rpartition(":")
    command = [*_PYTHON, "-m", "thaloom.door", "--home", str(home), "--host", host.strip("[]"), "--port", port]
    return command if place == address else [*command, "--tls"]
