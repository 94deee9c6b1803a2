import asyncio

import pytest

from thaloom.base.clock import ManualClock, SystemClock, first_of


def test_sleepers_wake_in_the_order_of_their_deadlines() -> None:
    async def story() -> list[tuple[str, float]]:
        clock, woken = ManualClock(100.0), []

        async def sleeper(name: str, seconds: float) -> None:
            await clock.sleep(seconds)
            woken.append((name, clock.now()))

        tasks = [asyncio.ensure_future(sleeper(name, s)) for name, s in (("late", 5), ("early", 1), ("never", 50))]
        await asyncio.sleep(0)
        await clock.advance(10)
        tasks[2].cancel()
        return woken

    assert asyncio.run(story()) == [("early", 101.0), ("late", 105.0)]


def test_one_who_sleeps_again_on_the_way_is_woken_again() -> None:
    async def story() -> list[float]:
        clock, ticks = ManualClock(), []

        async def ticker() -> None:
            for _ in range(3):
                await clock.sleep(2)
                ticks.append(clock.monotonic())

        task = asyncio.ensure_future(ticker())
        await asyncio.sleep(0)
        await clock.advance(7)
        await task
        return ticks

    assert asyncio.run(story()) == [2.0, 4.0, 6.0]


def test_the_system_clock_moves_forward() -> None:
    clock = SystemClock()
    first = clock.monotonic()
    asyncio.run(clock.sleep(0))
    assert clock.monotonic() >= first
    assert clock.now() > 1_700_000_000


def test_whichever_is_over_first_ends_the_others() -> None:
    async def story() -> tuple[bool, list[str]]:
        clock, news, ended = ManualClock(), asyncio.Event(), []

        async def sleep() -> None:
            try:
                await clock.sleep(50)
            finally:
                ended.append("sleep")

        waiting = asyncio.ensure_future(first_of(news.wait(), sleep()))
        await clock.advance(10)
        early = waiting.done()
        news.set()
        await waiting
        return early, ended

    assert asyncio.run(story()) == (False, ["sleep"])


def test_who_waits_for_the_first_can_be_cancelled() -> None:
    async def story() -> None:
        waiting = asyncio.ensure_future(first_of(asyncio.Event().wait(), ManualClock().sleep(50)))
        await asyncio.sleep(0)
        waiting.cancel()
        await waiting

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(story())
