"""A file as a block device, for as long as somebody has it mounted.

The kernel clears such a device by itself when its last user goes (LO_FLAGS_AUTOCLEAR), however that happens. Until then
it keeps the file open, and with it the lock on it: who gets the lock knows that nobody else has the file mounted. Two
mounts of one file would ruin what is in it.

Source: loop(4); flock(2): a lock is the open file's, whoever has it open.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
import time

from thaloom.kernel.sandbox.inside.kernel_calls import libc_call

_CONFIGURE, _GET_FREE = 0x4C0A, 0x4C82
_AUTOCLEAR = 4
_CONFIG_BYTES, _FLAGS_AT = 304, 60
"""struct loop_config: fd, block size, struct loop_info64 (its flags at 52), room."""
_TRIES = 100
"""Others take devices at the same moment; each try is lost to one of them."""
_PATIENCE_S = 10.0
"""For an earlier mount to go: that of an attempt whose processes have just ended."""


def loop_device(path: str) -> tuple[str, int]:
    """The path of a device that has the content of the file, and a descriptor that keeps it so until it is mounted.
    Raises OSError, EBUSY where the file is mounted still."""
    file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        _lock(file)
        for _ in range(_TRIES):
            name = _free_device()
            device = os.open(name, os.O_RDWR | os.O_CLOEXEC)
            config = bytearray(_CONFIG_BYTES)
            struct.pack_into("=I", config, 0, file)
            struct.pack_into("=I", config, _FLAGS_AT, _AUTOCLEAR)
            buffer = (ctypes.c_char * _CONFIG_BYTES).from_buffer(config)
            try:
                libc_call("ioctl", ctypes.c_int(device), ctypes.c_ulong(_CONFIGURE), buffer)
            except OSError as error:
                os.close(device)
                if error.errno != errno.EBUSY:
                    raise
            else:
                return name, device
        raise OSError(errno.EBUSY, "every loop device is taken at once")
    finally:
        os.close(file)


def _lock(file: int) -> None:
    give_up = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > give_up:
                raise OSError(errno.EBUSY, "its disk is mounted still") from None
            time.sleep(0.01)


def _free_device() -> str:
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        number = libc_call("ioctl", ctypes.c_int(control), ctypes.c_ulong(_GET_FREE))
    finally:
        os.close(control)
    return f"/dev/loop{number}"
