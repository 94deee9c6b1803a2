"""A worker's unix socket: whole and private from the moment it can be seen, and gone when its worker is."""

from __future__ import annotations

import os
import socket
from pathlib import Path


def listen(path: Path, *, backlog: int = 128) -> socket.socket:
    """A listening socket at `path`, mode 0600, in place of whatever lay there (a dead worker's). Not inheritable.

    It is bound under another name and renamed, so that nobody meets one that is not listening, or not private.
    """
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)  # no moment in which others may connect
    try:
        server.bind(str(fresh))
        server.listen(backlog)
        server.setblocking(False)
        fresh.replace(path)
    except OSError:
        server.close()
        fresh.unlink(missing_ok=True)
        raise
    finally:
        os.umask(before)
    return server


def identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of what lies there."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def remove(path: Path, mine: tuple[int, int] | None) -> None:
    """Remove the socket unless another worker's has taken its place."""
    if mine is not None and identity(path) == mine:
        path.unlink(missing_ok=True)
