"""Sleeping until a word of memory that several processes map is changed, and waking who sleeps: Linux's futex.

Without it (another machine than those below) a sleeper looks again after POLL_S. Source: futex(2).
"""

from __future__ import annotations

import ctypes
import os
import time

POLL_S = 0.005

_NUMBER = {"x86_64": 202, "aarch64": 98, "riscv64": 98}.get(os.uname().machine)
_WAIT, _WAKE = 0, 1
_EVERYBODY = 2**31 - 1


class _Timespec(ctypes.Structure):
    _fields_ = [("seconds", ctypes.c_int64), ("nanoseconds", ctypes.c_int64)]


_call = ctypes.CDLL(None, use_errno=True).syscall
_call.restype = ctypes.c_long
_call.argtypes = (ctypes.c_long, ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32, ctypes.POINTER(_Timespec))


def wait(address: int, value: int, timeout_s: float) -> None:
    """Sleep while the 32-bit word at `address` is `value`, until somebody wakes us, at most `timeout_s`. May return
    earlier for no reason: look at the word."""
    if _NUMBER is None:
        time.sleep(min(timeout_s, POLL_S))
        return
    whole = int(timeout_s)
    span = _Timespec(whole, int((timeout_s - whole) * 1e9))
    _call(_NUMBER, address, _WAIT, value, ctypes.byref(span))


def wake(address: int) -> None:
    """Everybody who sleeps on that word. Change the word first."""
    if _NUMBER is not None:
        _call(_NUMBER, address, _WAKE, _EVERYBODY, None)
