"""A log as it grows, for whoever watches it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from thaloom.base.clock import Clock
from thaloom.init.rounds.last_words import tail

_POLL_S = 0.2
_BLOCK_BYTES = 64 * 1024


async def follow_log(path: Path, num_lines: int, clock: Clock, going_on: Callable[[], bool]) -> AsyncIterator[bytes]:
    """The last lines, then what is added while `going_on()`. Nothing, where there is no log yet."""
    try:
        data, offset = tail(path, num_lines)
    except FileNotFoundError:
        data, offset = b"", 0
    if data:
        yield data
    while True:
        last_look = not going_on()
        while True:
            block, offset = _read_on(path, offset)
            if not block:
                break
            yield block
        if last_look:
            return
        await clock.sleep(_POLL_S)


def _read_on(path: Path, offset: int) -> tuple[bytes, int]:
    """What comes after `offset`, and where that ends. A log that is shorter now was emptied: it begins anew."""
    try:
        with path.open("rb") as file:
            file.seek(offset if offset <= file.seek(0, os.SEEK_END) else 0)
            return file.read(_BLOCK_BYTES), file.tell()
    except FileNotFoundError:
        return b"", 0
