"""Events into systemd's journal, each fact a field of its own: `journalctl -u thaloom THALOOM_EVENT=ProcessLost`.

Source: systemd.io/JOURNAL_NATIVE_PROTOCOL; systemd.exec(5), JOURNAL_STREAM.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import socket
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from thaloom.base.clock import Clock
from thaloom.base.events import Event, Level, at_least
from thaloom.base.log import LogWriter

SOCKET = Path("/run/systemd/journal/socket")
PRIORITY: dict[Level, int] = {"debug": 7, "info": 6, "warning": 4, "error": 3}
"""Source: syslog(3)."""
_NOT_A_FIELD = re.compile(r"[^A-Z0-9_]")


class JournalWriter:
    """An `Emit`. What the journal does not take is written to `stream` instead, with its priority in front of the line,
    which the journal understands too (sd-daemon(3))."""

    def __init__(self, clock: Clock, stream: TextIO, *, level: Level = "info", path: Path = SOCKET) -> None:
        self.level: Level = level
        self._clock = clock
        self._stream = stream
        self._path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)  # a journal that does not read stops nobody's work

    def __call__(self, event: Event) -> None:
        if not at_least(event.level, self.level):
            return
        try:
            self._send(encode(event))
        except OSError:
            prefix = f"<{PRIORITY[event.level]}>"
            line = json.dumps({"event": event.name} | event.fields(), ensure_ascii=False, default=str)
            with contextlib.suppress(OSError, ValueError):
                self._stream.write(f"{prefix}{line}\n")
                self._stream.flush()

    def close(self) -> None:
        """What comes afterwards goes to the stream."""
        self._socket.close()

    def _send(self, message: bytes) -> None:
        try:
            self._socket.sendto(message, self._path)
        except OSError as error:
            if error.errno != errno.EMSGSIZE:  # more than a datagram holds goes as a file
                raise
            self._send_file(message)

    def _send_file(self, message: bytes) -> None:
        descriptor = os.memfd_create("journal", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.write(descriptor, message)
            seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", descriptor))]
            self._socket.sendmsg([b""], rights, 0, self._path)
        finally:
            os.close(descriptor)


def encode(event: Event) -> bytes:
    """The event in the journal's own form. A value with a line's end has its length in front."""
    fields = event.fields()
    facts = " ".join(f"{key}={value!r}" for key, value in fields.items())
    told = {
        "MESSAGE": f"{event.name} {facts}".rstrip(),
        "PRIORITY": str(PRIORITY[event.level]),
        "SYSLOG_IDENTIFIER": "thaloomd",
        "THALOOM_EVENT": event.name,
    }
    for key, value in fields.items():
        if value is not None:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
            told[f"THALOOM_{_NOT_A_FIELD.sub('_', key.upper())}"[:64]] = text
    return b"".join(_field(name, value.encode("utf-8", "backslashreplace")) for name, value in told.items())


def _field(name: str, value: bytes) -> bytes:
    if b"\n" in value:
        return name.encode() + b"\n" + struct.pack("<Q", len(value)) + value + b"\n"
    return name.encode() + b"=" + value + b"\n"


def is_journal(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Whether what `stream` is given goes to the journal anyway."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environment.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def log_to(clock: Clock, stream: TextIO, *, level: Level, environment: Mapping[str, str]) -> LogWriter | JournalWriter:
    """The log of a process that may run under systemd."""
    if is_journal(stream, environment):
        return JournalWriter(clock, stream, level=level)
    return LogWriter(clock, stream, level=level, human=stream.isatty())
