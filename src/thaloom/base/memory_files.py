"""Files in memory that have a descriptor and no name: they live for as long as anybody holds or maps them.

A *sealed* one is as it is for good: nobody can change, lengthen or shorten it, whoever he is and whatever right he has
to it, so who maps it can neither be fooled nor be ended by SIGBUS. Source: memfd_create(2); fcntl(2), file sealing.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

_NOEXEC_SEAL = 8
"""MFD_NOEXEC_SEAL, since Linux 6.3; some hosts refuse memory files without it (vm.memfd_noexec)."""
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_BLOCK = 512
"""Of st_blocks, whatever the file system's own are."""


def create(name: str) -> int:
    """An empty one; the name is told in /proc alone. Raises OSError."""
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create(name, flags | _NOEXEC_SEAL)
    except OSError:
        return os.memfd_create(name, flags)


def name_of(descriptor: int, pid: int | str = "self") -> str | None:
    """The name it was made with; None for what is no memory file, or is gone."""
    with contextlib.suppress(OSError):
        target = str(Path(f"/proc/{pid}/fd/{descriptor}").readlink())
        if target.startswith("/memfd:"):
            return target.removeprefix("/memfd:").removesuffix(" (deleted)")
    return None


def reader(descriptor: int, pid: int | str = "self") -> int:
    """The same file, opened for reading alone. Raises OSError."""
    return os.open(f"/proc/{pid}/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)


def seal(descriptor: int) -> None:
    """From now on it is as it is. Raises OSError, EBUSY while anybody could write through a mapping."""
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)


def is_sealed(descriptor: int) -> bool:
    """Whether `seal` was done to it: False for any other file."""
    with contextlib.suppress(OSError):
        return fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & _SEALS == _SEALS
    return False


def lock(descriptor: int) -> bool:
    """Take the file for oneself and all who inherit this descriptor, until the last of them has closed it, however that
    happens; False if others have it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_locked(descriptor: int) -> bool:
    """Whether anybody has locked the file through another opening of it. `descriptor` is one that nobody locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False


def held_bytes(descriptor: int) -> int:
    """Bytes of memory its pages take. Raises OSError."""
    return os.fstat(descriptor).st_blocks * _BLOCK
