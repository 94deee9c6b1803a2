"""The first process of the guest: mounts what a system has, runs the suite, and ends the machine.

Needs nothing but the standard library. What is run lies in `ORDERS`: {"command": [...], "environment": {...},
"folder": where it is run}.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import struct
import time
from pathlib import Path

ORDERS = "/orders.json"
TELLING = "/dev/ttyS1"
_libc = ctypes.CDLL(None, use_errno=True)
_BIND, _MOVE = 0x1000, 0x2000
_RESTART = 0x01234567
"""With qemu's -no-reboot that is the end of the machine, also where it knows no switch."""


def main() -> None:
    status = -1
    try:
        _mount_system()
        _bring_up_loopback()
        _wait_for_disk("/dev/nvme0n1")
        orders = json.loads(Path(ORDERS).read_text())
        os.chdir(orders["folder"])
        status = _run(orders["command"], orders["environment"])
    finally:
        with Path(TELLING).open("w") as out:
            print(json.dumps({"ended": status}), file=out)
        os.sync()
        _libc.reboot(_RESTART)


def _mount_system() -> None:
    """The root the kernel unpacked cannot be moved away from (pivot_root refuses it), and every view begins with that:
    it is mounted a second time, above itself."""
    Path("/above").mkdir()
    _mount("/", "/above", flags=_BIND)
    os.chdir("/above")
    _mount(".", "/", flags=_MOVE)
    os.chroot(".")
    os.chdir("/")
    _mount("proc", "/proc", "proc")
    _mount("sysfs", "/sys", "sysfs")
    _mount("devtmpfs", "/dev", "devtmpfs")
    Path("/dev/shm").mkdir()
    _mount("tmpfs", "/dev/shm", "tmpfs")
    _mount("cgroup2", "/sys/fs/cgroup", "cgroup2", data="nsdelegate")


def _mount(source: str, target: str, kind: str | None = None, flags: int = 0, data: str | None = None) -> None:
    words = [None if word is None else word.encode() for word in (source, target, kind)]
    if _libc.mount(*words, ctypes.c_ulong(flags), None if data is None else data.encode()):
        number = ctypes.get_errno()
        raise OSError(number, f"mount {target}: {os.strerror(number)}")


def _bring_up_loopback() -> None:
    """Source: netdevice(7), SIOCSIFFLAGS; IFF_UP | IFF_RUNNING."""
    descriptor = _libc.socket(2, 2, 0)
    fcntl.ioctl(descriptor, 0x8914, struct.pack("16sh22x", b"lo", 0x41))
    os.close(descriptor)


def _wait_for_disk(path: str) -> None:
    """The kernel looks for disks beside starting us."""
    for _ in range(600):
        if Path(path).exists():
            return
        time.sleep(0.05)


def _run(command: list[str], environment: dict[str, str]) -> int:
    """Its exit status. Whoever is left without a parent is ours, and is waited for."""
    child = os.fork()
    if child == 0:
        os.setsid()
        os.execve(command[0], command, environment)
    while True:
        pid, status = os.wait()
        if pid == child:
            return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    main()
