"""An errand: a process of ours that does one thing, says on standard output how far it is, and ends.

What it says are JSON lines: `{"stage", "done", "total"}` any number of times, then one other, its outcome. It ends with
us: it gives up when nobody reads it any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from thaloom.base.errors import InternalError, OutOfMemory, ThaloomError
from thaloom.init.errands.progress import OnProgress
from thaloom.init.walls.fencing import Fence

_GRACE_S = 5.0
"""What the process may take to put its things away."""
_LINE_BYTES = 1024 * 1024


async def run_errand(
    module: str,
    arguments: Sequence[str],
    progress: OnProgress,
    *,
    said: bytes | None = None,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    fence: Fence | None = None,
) -> dict[str, Any]:
    """Run `python -m module` to its end; what it said last. `said` is its standard input; `env` goes over ours.

    Raises the error it ended with; OutOfMemory where it met the memory limit of its `fence`; InternalError if it ended
    without a word, with the limit if it met another. Cancelling ends it.
    """
    command = [sys.executable, "-P", "-m", module, *arguments]
    if fence is not None:
        command = await asyncio.to_thread(fence.command, command)
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL if said is None else asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE, limit=_LINE_BYTES, start_new_session=True,
        env=None if env is None else os.environ | dict(env), pass_fds=pass_fds,
    )  # fmt: skip
    try:
        await _tell(process, said)
        last = await _listen(process, progress)
        await process.wait()
    finally:
        if process.returncode is None:
            await _end(process)
    if "error" in last:
        raise ThaloomError.from_dict(last["error"])
    if not last:
        raise _wordless(module, process.returncode, fence)
    return last


def _wordless(module: str, status: int | None, fence: Fence | None) -> ThaloomError:
    met = None if fence is None else fence.met(status)
    if met is None:
        return InternalError(f"{module} ended with code {status} and without a word")
    if met.reason == "MemoryLimit" and fence is not None:
        return OutOfMemory(f"{module}: {met.message}", reason=met.reason, limit_bytes=fence.limits.memory_bytes)
    return InternalError(f"{module}: {met.message}", reason=met.reason)


async def _tell(process: asyncio.subprocess.Process, said: bytes | None) -> None:
    if said is None:
        return
    assert process.stdin is not None
    with contextlib.suppress(ConnectionError):  # it ended already: what it said tells why
        process.stdin.write(said)
        await process.stdin.drain()
        process.stdin.close()


async def _listen(process: asyncio.subprocess.Process, progress: OnProgress) -> dict[str, Any]:
    """The last thing it says that is no progress; empty if it ends without."""
    assert process.stdout is not None
    last: dict[str, Any] = {}
    async for line in process.stdout:
        said = json.loads(line)
        if "stage" in said:
            progress(said["stage"], said["done"], said["total"])
        else:
            last = said
    return last


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(_GRACE_S):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
