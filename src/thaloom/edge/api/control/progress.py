"""Long work as lines of JSON: its progress, and at last its end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

from fastapi.responses import StreamingResponse

from thaloom.base.actions import TERMS
from thaloom.base.errors import InternalError, ThaloomError
from thaloom.edge.api.control.messages import error_body
from thaloom.edge.api.control.plane import OnProgress
from thaloom.edge.wire import control as wire

_SILENCE_S = 2.0
"""A stream says something at least this often, so that a caller can tell slow from dead."""


async def followed(work: Callable[[OnProgress], Awaitable[wire.Answer]]) -> StreamingResponse:
    """Run `work` and stream its progress. What fails before the first word is an ordinary error answer, and so is the
    plan of a dry run, which has no progress."""
    if TERMS.get().dry_run:
        return StreamingResponse(iter([_line(await work(_unheard))]), media_type=wire.NDJSON)
    stream = _lines(work)
    first = await anext(stream)

    async def rest() -> AsyncIterator[str]:
        async with contextlib.aclosing(stream):
            yield first
            async for line in stream:
                yield line

    return StreamingResponse(rest(), media_type=wire.NDJSON)


async def _lines(work: Callable[[OnProgress], Awaitable[wire.Answer]]) -> AsyncGenerator[str, None]:
    """One JSON line per step of progress, at least one each 2 s, and a last one. Closing it cancels the work."""
    latest = wire.Progress(stage="starting", done_bytes=0, total_bytes=None)
    news = asyncio.Event()

    def progress(stage: str, done_bytes: int, total_bytes: int | None) -> None:
        nonlocal latest
        latest = wire.Progress(stage=stage, done_bytes=done_bytes, total_bytes=total_bytes)
        news.set()

    async def run() -> wire.Answer:
        try:
            return await work(progress)
        finally:
            news.set()

    task = asyncio.ensure_future(run())
    spoken = False
    try:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SILENCE_S):
                    await news.wait()
            news.clear()
            if task.done():
                break
            spoken = True
            yield _line(latest)
        try:
            last: wire.Answer = await task
        except ThaloomError as error:
            if not spoken:
                raise
            last = wire.StreamError(error=error_body(error))
        except Exception as error:  # noqa: BLE001 - the stream must end in words; the event and the status tell of it
            last = wire.StreamError(error=error_body(InternalError(f"{type(error).__name__}: {error}")))
        yield _line(last)
    finally:
        if not task.done():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, ThaloomError):
                await task


def _unheard(stage: str, done_bytes: int, total_bytes: int | None) -> None:
    """Nobody waits for it."""


def _line(message: wire.Answer) -> str:
    return message.model_dump_json() + "\n"
