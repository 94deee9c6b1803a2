"""System calls that Python does not have, through the C library. Each raises OSError."""

from __future__ import annotations

import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

AT_FDCWD = -100

MS_BIND, MS_REC, MS_SLAVE, MS_NOSUID, MS_NODEV, MS_NOEXEC = 0x1000, 0x4000, 0x80000, 2, 4, 8
MNT_DETACH = 2
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWNET = (
    0x20000, 0x4000000, 0x8000000, 0x10000000, 0x40000000,
)  # fmt: skip

_MOUNT_SETATTR = 442
"""Since Linux 5.12 every architecture gives a new call the same number."""
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}
_SCHED_GETATTR = {"x86_64": 315, "aarch64": 275}

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_SECUREBITS = 1, 4, 22, 24, 28
PR_SET_NO_NEW_PRIVS = 38


def libc_call(name: str, *arguments: object) -> int:
    result = int(getattr(_libc, name)(*arguments))
    if result < 0:
        _raise(name)
    return result


def system_call(number: int, *arguments: object) -> int:
    result = int(_libc.syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        _raise(f"system call {number}")
    return result


def unshare(flags: int) -> None:
    libc_call("unshare", ctypes.c_int(flags))


def mount(source: str, target: str, kind: str | None = None, flags: int = 0, data: str | None = None) -> None:
    libc_call(
        "mount", _path(source), _path(target), None if kind is None else kind.encode(), ctypes.c_ulong(flags),
        None if data is None else data.encode(),
    )  # fmt: skip


def umount(target: str) -> None:
    libc_call("umount2", _path(target), ctypes.c_int(MNT_DETACH))


def pivot_root(new: str, old: str) -> None:
    system_call(_PIVOT_ROOT[os.uname().machine], _path(new), _path(old))


class _MountAttr(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd")]


_RDONLY, _NOSUID, _RECURSIVE = 1, 2, 0x8000


def set_mount(path: str, *, read_only: bool) -> None:
    """Nothing below `path` can be written, nor give anybody rights; or this one mount can be written.
    Source: mount_setattr(2)."""
    attr = _MountAttr(attr_set=_NOSUID | (_RDONLY if read_only else 0), attr_clr=0 if read_only else _RDONLY)
    system_call(
        _MOUNT_SETATTR, ctypes.c_int(AT_FDCWD), _path(path), ctypes.c_uint(_RECURSIVE if read_only else 0),
        ctypes.byref(attr), ctypes.c_size_t(ctypes.sizeof(attr)),
    )  # fmt: skip


def prctl(option: int, first: int = 0, second: int = 0) -> int:
    words = (ctypes.c_ulong(first), ctypes.c_ulong(second), ctypes.c_ulong(0), ctypes.c_ulong(0))
    return libc_call("prctl", ctypes.c_int(option), *words)


class _SchedAttr(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_uint32), ("policy", ctypes.c_uint32), ("flags", ctypes.c_uint64), ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32), ("runtime", ctypes.c_uint64), ("deadline", ctypes.c_uint64),
        ("period", ctypes.c_uint64),
    ]  # fmt: skip


def set_scheduling(policy: int, nice: int, slice_ns: int) -> None:
    """Of this process and what it starts. `slice_ns`: how long a turn it asks for, 0 for the kernel's own; a shorter
    one comes sooner. Source: sched_setattr(2); Documentation/scheduler/sched-eevdf (custom slices since 6.12)."""
    attr = _SchedAttr(size=48, policy=policy, nice=nice, runtime=slice_ns)
    pid, flags = ctypes.c_int(0), ctypes.c_uint(0)
    system_call(_SCHED_SETATTR[os.uname().machine], pid, ctypes.byref(attr), flags)


def turn_ns() -> int:
    """The turn this process is given; 0 where the kernel knows no turns of one's own. Source: sched_getattr(2)."""
    attr = _SchedAttr()
    pid, flags = ctypes.c_int(0), ctypes.c_uint(0)
    system_call(_SCHED_GETATTR[os.uname().machine], pid, ctypes.byref(attr), ctypes.c_uint(48), flags)
    return int(attr.runtime)


def drop_capabilities() -> None:
    """All of them, in every set, for good: not even uid 0 gets one back by starting a program."""
    with open("/proc/sys/kernel/cap_last_cap") as file:
        last = int(file.read())
    for capability in range(last + 1):
        prctl(PR_CAPBSET_DROP, capability)
    prctl(PR_SET_SECUREBITS, 0x2F)  # no-root and its lock, no setuid fix-up and its lock, keep-caps locked
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3, this process
    libc_call("capset", header, (ctypes.c_uint32 * 6)())


class _InterfaceRequest(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char * 16), ("flags", ctypes.c_short), ("rest", ctypes.c_char * 22)]


def bring_up_loopback() -> None:
    """Source: netdevice(7), SIOCGIFFLAGS and SIOCSIFFLAGS."""
    family, datagram, up = 2, 2, 1
    descriptor = libc_call("socket", family, datagram, 0)
    try:
        request = _InterfaceRequest(name=b"lo")
        libc_call("ioctl", descriptor, ctypes.c_ulong(0x8913), ctypes.byref(request))
        request.flags |= up
        libc_call("ioctl", descriptor, ctypes.c_ulong(0x8914), ctypes.byref(request))
    finally:
        os.close(descriptor)


def _path(path: str) -> bytes:
    return os.fsencode(path)


def _raise(what: str) -> None:
    number = ctypes.get_errno()
    raise OSError(number, f"{what}: {os.strerror(number)}")
