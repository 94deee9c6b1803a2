"""Server-sent events out of bytes as they come. Source: WHATWG HTML, 9.2 "Server-sent events"."""

from __future__ import annotations

from thaloom.base.errors import WorkerLost

MAX_EVENT_BYTES = 4 * 1024 * 1024


class EventStream:
    """`feed` bytes, get the data of the events that are complete. Names and ids of events are not looked at."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []
        self._num_bytes = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Raises WorkerLost for an event without end."""
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        done: list[bytes] = []
        for line in lines:
            line = line.removesuffix(b"\r")
            if not line:
                if self._data:
                    done.append(b"\n".join(self._data))
                self._data, self._num_bytes = [], 0
            elif line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
                self._num_bytes += len(line)
        if self._num_bytes + len(self._rest) > MAX_EVENT_BYTES:
            raise WorkerLost(f"the engine sent an event of more than {MAX_EVENT_BYTES} bytes")
        return done
