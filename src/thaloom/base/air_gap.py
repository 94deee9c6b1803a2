"""The switch that keeps this node from calling out, and the list of what would have gone out.

Every outgoing call asks `require_open` first (base.outgoing is the only way out). A closed gap refuses each, those to
this machine too: an open tunnel on loopback leads out as well.
"""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from thaloom.base.clock import Clock
from thaloom.base.errors import AirGapped

_MOST_BYTES = 256 * 1024
"""Of the list; the older half goes when it is full."""
_MOST_URL = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedCall:
    """A call that was not made. The URL is without query and password: both may be secrets."""

    time: float
    purpose: str
    method: str
    url: str
    reason: str


class AirGap:
    """`closed`: why no call goes out, or None. The list lies at `record`, for all processes of a node."""

    def __init__(self, record: Path, clock: Clock, *, closed: str | None) -> None:
        self.closed = closed
        self._record = record
        self._clock = clock

    def require_open(self, *, purpose: str, method: str, url: str) -> None:
        """Raises AirGapped, which names the call, and keeps it in the list."""
        if self.closed is None:
            return
        call = RefusedCall(
            time=self._clock.now(), purpose=purpose, method=method, url=without_secrets(url), reason=self.closed
        )
        self._keep(call)
        raise AirGapped(
            f"not sent, because {call.reason}: {method} {call.url} ({purpose})",
            purpose=purpose,
            method=method,
            url=call.url,
        )

    def refused(self) -> list[RefusedCall]:
        """The oldest first."""
        return [call for line in self._lines() if (call := _read(line)) is not None]

    def _keep(self, call: RefusedCall) -> None:
        line = json.dumps(asdict(call), ensure_ascii=False).encode(errors="replace") + b"\n"
        descriptor = os.open(self._record, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "r+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if os.fstat(file.fileno()).st_size + len(line) > _MOST_BYTES:
                file.seek(0)
                kept = file.read()[-_MOST_BYTES // 2 :].partition(b"\n")[2]
                file.truncate(0)
                file.write(kept)
            file.write(line)

    def _lines(self) -> list[bytes]:
        try:
            return self._record.read_bytes().splitlines()
        except FileNotFoundError:
            return []


def without_secrets(url: str) -> str:
    """A URL as it may be shown and kept."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = "" if parts.port is None else f":{parts.port}"
    except ValueError:
        return "(not a URL)"
    shown = f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{port}{parts.path}"
    return shown if len(shown) <= _MOST_URL else shown[: _MOST_URL - 1] + "…"


def _read(line: bytes) -> RefusedCall | None:
    """None for a line that was cut: the machine stopped while it was written."""
    try:
        return RefusedCall(**json.loads(line))
    except (ValueError, TypeError):
        return None
