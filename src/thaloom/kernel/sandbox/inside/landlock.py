"""Landlock: what this process and all it starts may do with files, whoever they are. Needs no rights at all.

Source: kernel documentation, userspace-api/landlock; landlock(7).
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct

from thaloom.kernel.sandbox.inside.kernel_calls import system_call

_CREATE, _ADD, _RESTRICT = 444, 445, 446
_PATH_BENEATH = 1

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REMOVE_DIR, REMOVE_FILE = (1 << bit for bit in range(6))
MAKE_DIR, MAKE_REG, MAKE_SOCK, MAKE_FIFO, MAKE_SYM = 1 << 7, 1 << 8, 1 << 9, 1 << 10, 1 << 12
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15

READ = EXECUTE | READ_FILE | READ_DIR
WRITE = (
    READ | WRITE_FILE | TRUNCATE | REMOVE_DIR | REMOVE_FILE | REFER
    | MAKE_DIR | MAKE_REG | MAKE_SOCK | MAKE_FIFO | MAKE_SYM
)  # fmt: skip
SOCKETS = READ | MAKE_SOCK | REMOVE_FILE
DEVICE = READ_FILE | WRITE_FILE | IOCTL_DEV
_OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV

_LAST_BIT = {1: 12, 2: 13, 3: 14, 4: 14}
"""The rights each ABI knows end with this bit; from 5 on with 15."""

FILE = READ_FILE | WRITE_FILE | TRUNCATE

WORDS = READ_FILE | WRITE_FILE

RIGHTS = {"read": READ, "file": FILE, "words": WORDS, "write": WRITE, "sockets": SOCKETS, "device": DEVICE}
SIGNALS_ABI = 6
"""From here on signals and abstract sockets can be kept inside."""


def abi() -> int:
    """The kernel's version of it; 0 where there is none or it is switched off."""
    try:
        return system_call(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint(1))
    except OSError:
        return 0


class Rules:
    """Everything is refused but what is allowed before `enforce`."""

    def __init__(self, *, forbid_tcp: bool) -> None:
        known = abi()
        if known == 0:
            raise OSError("this kernel has no Landlock")
        self._known = (1 << (_LAST_BIT.get(known, 15) + 1)) - 1
        words = [self._known]
        if known >= 4:
            words.append(3 if forbid_tcp else 0)
        if known >= SIGNALS_ABI:
            words.append(3)
        attr = struct.pack(f"<{len(words)}Q", *words)
        self._rules = system_call(_CREATE, attr, ctypes.c_size_t(len(attr)), ctypes.c_uint(0))

    def allow(self, path: str, rights: int) -> None:
        """`path` and, if it is a folder, all below it."""
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
                rights &= _OF_FILES
            attr = struct.pack("<Qi", rights & self._known, descriptor)
            kind, flags = ctypes.c_int(_PATH_BENEATH), ctypes.c_uint(0)
            system_call(_ADD, ctypes.c_int(self._rules), kind, attr, flags)
        finally:
            os.close(descriptor)

    def enforce(self) -> None:
        """From now on, for good. The process must have given up new privileges."""
        system_call(_RESTRICT, ctypes.c_int(self._rules), ctypes.c_uint(0))
        os.close(self._rules)
