"""Namespaces of its own, as root or as anybody else."""

from __future__ import annotations

import os

from thaloom.kernel.sandbox.inside import kernel_calls as kernel

_FLAGS = {
    "mount": kernel.CLONE_NEWNS,
    "network": kernel.CLONE_NEWNET,
    "ipc": kernel.CLONE_NEWIPC,
    "user": kernel.CLONE_NEWUSER,
}


def separate(names: tuple[str, ...]) -> None:
    """Leave the host's namespaces of these kinds. `user` is what lets an ordinary user leave the others: the same user
    inside, who may do there what root may, until the last step takes that away again."""
    uid, gid = os.geteuid(), os.getegid()
    flags = 0
    for name in names:
        flags |= _FLAGS[name]
    kernel.unshare(flags)
    if "user" in names:
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{uid} {uid} 1")
        _write("/proc/self/gid_map", f"{gid} {gid} 1")
    if "network" in names:
        kernel.bring_up_loopback()


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
