"""Several works of one request, a few of them under way at once: others want their turn too."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


async def in_turn(works: Sequence[Callable[[], Awaitable[T]]], *, at_once: int) -> list[T]:
    """What all `works` give, in their order, no more than `at_once` of them under way.

    Raises the first error of any; then the others are cancelled.
    """
    turns = asyncio.Semaphore(at_once)

    async def one(work: Callable[[], Awaitable[T]]) -> T:
        async with turns:
            return await work()

    tasks = [asyncio.create_task(one(work)) for work in works]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
