"""What a driver does behind the interpreter: child processes, sockets, libraries. Seen through audit hooks.

Source: docs.python.org/3/library/audit_events.html
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

_PROCESS = ("subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system", "os.exec", "os.spawn")
_NETWORK = ("socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo", "urllib.Request")
_WATCHED = frozenset({*_PROCESS, *_NETWORK, "ctypes.dlopen"})

_listening: list[list[tuple[str, str]]] = []
_installed = False


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if _listening and event in _WATCHED:
        for seen in _listening:
            seen.append((event, str(arguments[0]) if arguments else ""))


class Watched:
    """What was seen. Complete once the block has ended."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def processes(self) -> list[str]:
        return [f"{event} {what}" for event, what in self.events if event in _PROCESS]

    def network(self) -> list[str]:
        return [f"{event} {what}" for event, what in self.events if event in _NETWORK]

    def libraries(self) -> list[str]:
        return [what for event, what in self.events if event == "ctypes.dlopen"]


@contextmanager
def watching() -> Iterator[Watched]:
    """Record what this process does in the block. An audit hook cannot be removed: one is installed, once."""
    global _installed
    if not _installed:
        sys.addaudithook(_hook)
        _installed = True
    watched = Watched()
    _listening.append(watched.events)
    try:
        yield watched
    finally:
        _listening[:] = [seen for seen in _listening if seen is not watched.events]
