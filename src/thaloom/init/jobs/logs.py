"""A job's log as it grows, over the seam between its two files (init.jobs.reaper.log)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import IO

from thaloom.base.clock import Clock
from thaloom.init.jobs.files import JobFiles
from thaloom.init.rounds.last_words import tail

_POLL_S = 0.2
_BLOCK_BYTES = 64 << 10


async def follow_job_log(
    files: JobFiles, num_lines: int, clock: Clock, going_on: Callable[[], bool]
) -> AsyncIterator[bytes]:
    """The last lines, then what is added while `going_on()`. Nothing, where there is no log."""
    file = _open(files.log)
    try:
        data = _last(files, file, num_lines)
        if data:
            yield data
        while True:
            last_look = not going_on()
            while True:
                if file is None:
                    file = _open(files.log)
                block = b"" if file is None else file.read(_BLOCK_BYTES)
                if block:
                    yield block
                elif file is not None and _turned(files.log, file):
                    file.close()
                    file = _open(files.log)
                else:
                    break
            if last_look:
                return
            await clock.sleep(_POLL_S)
    finally:
        if file is not None:
            file.close()


def _last(files: JobFiles, file: IO[bytes] | None, num_lines: int) -> bytes:
    """Leaves `file` where what was given ends."""
    if file is None:
        return b""
    data, end = tail(Path(f"/proc/self/fd/{file.fileno()}"), num_lines)
    file.seek(end)
    if len(data) == end and num_lines:  # all there is here: a line may have begun in the other one
        with contextlib.suppress(FileNotFoundError):
            data = tail(files.earlier_log, num_lines)[0] + data
    return b"".join(data.splitlines(keepends=True)[-num_lines:] if num_lines else [])


def _open(path: Path) -> IO[bytes] | None:
    try:
        return path.open("rb", buffering=0)
    except FileNotFoundError:
        return None


def _turned(path: Path, file: IO[bytes]) -> bool:
    """Whether another file has taken its place, and nothing is added to it any more."""
    try:
        return not os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
