"""Blocking work in a thread, with its progress told in the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
OnProgress = Callable[[str, int, int | None], None]
"""Called in the event loop with a stage, the bytes done and the bytes in all (None: not known yet)."""


class _Cancelled(Exception):
    """Raised inside the thread, by its call for progress, when nobody waits for it any more."""


async def with_progress(work: Callable[[Callable[[int, int], None]], T], stage: str, progress: OnProgress) -> T:
    """Run blocking `work` in a thread. Cancelling waits until the thread has stopped, at its next chunk."""
    loop = asyncio.get_running_loop()
    cancelled = threading.Event()

    def tell(done_bytes: int, total_bytes: int) -> None:
        if cancelled.is_set():
            raise _Cancelled
        loop.call_soon_threadsafe(progress, stage, done_bytes, total_bytes)

    thread = asyncio.ensure_future(asyncio.to_thread(work, tell))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        cancelled.set()
        await asyncio.wait([thread])
        thread.exception()  # whatever it was, nobody waits for it
        raise
