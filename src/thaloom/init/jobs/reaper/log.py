"""A log within a bound: two files, the older one goes when the newer one is full."""

from __future__ import annotations

import os


class BoundedLog:
    """`path` grows to half of `num_bytes`, then becomes `path.1`. A full disk loses output, never the program."""

    def __init__(self, path: str, num_bytes: int) -> None:
        self._path = path
        self._most = max(1, num_bytes // 2)
        self._open()
        self.lost_bytes = 0

    def write(self, block: bytes) -> None:
        while block:
            if self._length >= self._most:
                self._turn()
            part = block[: self._most - self._length]
            block = block[len(part) :]
            try:
                written = os.write(self._descriptor, part)
            except OSError:
                written = 0
            self._length += written
            if written < len(part):
                self.lost_bytes += len(part) - written + len(block)
                return

    def close(self) -> None:
        os.close(self._descriptor)

    def _turn(self) -> None:
        os.close(self._descriptor)
        os.replace(self._path, f"{self._path}.1")
        self._open()

    def _open(self) -> None:
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._length = os.fstat(self._descriptor).st_size
