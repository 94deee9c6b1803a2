"""The node as a service of systemd: says when it is ready, that it lives, what it is doing. Without systemd, nothing.

Source: sd_notify(3), systemd.service(5) Type=notify and WatchdogSec.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import MutableMapping

from thaloom.base.clock import Clock


class ServiceManager:
    """Whoever started us and wants to be told. A message that cannot be sent stops nobody's work."""

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        """Takes its variables out of `environment`: they are ours, and not our children's."""
        self._address = environment.pop("NOTIFY_SOCKET", "")
        usec, pid = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
        ours = pid in ("", str(os.getpid()))
        self._interval_s = int(usec) / 2e6 if ours and usec.isascii() and usec.isdigit() and int(usec) else None

    def ready(self, status: str) -> None:
        self._tell("READY=1", f"STATUS={status}", f"MAINPID={os.getpid()}")

    def reloading(self) -> None:
        """Until `ready` is told again."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self, status: str) -> None:
        self._tell("STOPPING=1", f"STATUS={status}")

    async def keep_alive(self, clock: Clock) -> None:
        """Say that this event loop turns, twice as often as it must; returns at once where nobody asked."""
        while self._address and self._interval_s is not None:
            self._tell("WATCHDOG=1")
            await clock.sleep(self._interval_s)

    def _tell(self, *lines: str) -> None:
        if not self._address:
            return
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as speaking:
            speaking.settimeout(1.0)
            speaking.sendto("\n".join(lines).encode(), address)
