"""Several answers followed at once, merged into what one connection can carry."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from thaloom.base.errors import InternalError
from thaloom.work.runtime.types import Delta, Done, GenerateRequest, Generation

MAX_PENDING = 256
"""Items read ahead of a slow client, all answers of a request together; then the worker's socket waits."""
Item = Delta | Done
Take = Callable[[list[tuple[int, Item]]], Awaitable[None]]


async def start_all(generation: Generation, requests: Sequence[GenerateRequest]) -> list[AsyncIterator[Item]]:
    """Every answer admitted, or none: raises the first refusal."""
    answers: list[AsyncIterator[Item]] = []
    try:
        for request in requests:
            answers.append(await generation.start(request))
    except BaseException:
        await close_all(answers)
        raise
    return answers


async def follow(answers: Sequence[AsyncIterator[Item]], take: Take) -> None:
    """Give every item to `take`, with its answer's index, until all are done; whatever is there at once comes at once.

    Raises the first error of any answer. All answers are closed in the end, which cancels what still runs.
    """
    if len(answers) == 1:
        await _follow_one(answers[0], take)
        return
    items: asyncio.Queue[tuple[int, Item | BaseException]] = asyncio.Queue(MAX_PENDING)
    pumps = [asyncio.create_task(_pump(index, answer, items)) for index, answer in enumerate(answers)]
    num_open = len(answers)
    try:
        while num_open:
            batch = [await items.get()]
            while not items.empty():
                batch.append(items.get_nowait())
            told: list[tuple[int, Item]] = []
            failure: BaseException | None = None
            for index, item in batch:
                if isinstance(item, BaseException):
                    failure = failure or item
                else:
                    told.append((index, item))
                    num_open -= isinstance(item, Done)
            if told:
                await take(told)
            if failure is not None:
                raise failure
    finally:
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        await close_all(answers)


async def _follow_one(answer: AsyncIterator[Item], take: Take) -> None:
    """Without a queue and a task between: most requests ask for one answer, and every token comes this way."""
    item: Item | None = None
    try:
        async for item in answer:
            await take([(0, item)])
    finally:
        await close_all([answer])
    if not isinstance(item, Done):
        raise InternalError("the answer ended without its last word")


async def _pump(
    index: int, answer: AsyncIterator[Item], items: asyncio.Queue[tuple[int, Item | BaseException]]
) -> None:
    item: Item | None = None
    try:
        async for item in answer:
            await items.put((index, item))
        if not isinstance(item, Done):
            raise InternalError("the answer ended without its last word")
    except Exception as error:  # noqa: BLE001 - whatever it is, `follow` raises it in its caller
        await items.put((index, error))


async def close_all(answers: Sequence[AsyncIterator[Item]]) -> None:
    for answer in answers:
        close = getattr(answer, "aclose", None)
        if close is not None:
            await close()
