"""The node's own key, and what it seals: texts that nobody can make who has not the key.

HMAC-SHA256: who may read the key may also write the database, so a signature that others can check would promise no
more; what has to hold against the node's owner as well is a checkpoint kept elsewhere (kernel.state.journal).
Source: RFC 2104.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from thaloom.base.errors import StateUnusable
from thaloom.base.files import disk_errors, sync_folder

KEY_BYTES = 32


def node_key(path: Path) -> bytes:
    """The key in that file; one that is made now, for this user only, if there is none.

    Raises StateUnusable where the file is not such a key or others may read it, DiskFull.
    """
    try:
        return _read(path)
    except FileNotFoundError:
        pass
    with disk_errors(path):
        made = path.with_name(f"{path.name}.{os.getpid()}.partial")
        descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        made.rename(path)
        sync_folder(path.parent)
    return _read(path)


def sealing(key: bytes) -> Callable[[bytes], str]:
    """Seals with that key, in hexadecimal."""
    return lambda words: hmac.new(key, words, hashlib.sha256).hexdigest()


def _read(path: Path) -> bytes:
    key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise StateUnusable(f"the node's key {str(path)!r} has {len(key)} bytes, not {KEY_BYTES}")
    if path.stat().st_mode & 0o077:
        raise StateUnusable(f"the node's key {str(path)!r} may be read by others; chmod 600 it")
    return key
