"""Whom the door turned away is told to the daemon: at once, then once a minute, and none is lost from the count."""

from __future__ import annotations

import asyncio

from tests.contract.edge.doorkeepers import StandingClock
from thaloom.base.errors import Forbidden, NodeNotRunning, RateLimited, Unauthorized
from thaloom.edge.api.entrance.refusals import EACH_S, Refusals, TurnedAway


def test_at_once_then_once_a_minute() -> None:
    async def test() -> None:
        told: list[TurnedAway] = []
        clock = StandingClock()

        async def tell(one: TurnedAway) -> None:
            told.append(one)

        refusals = Refusals(tell, clock)
        for number in range(100):
            refusals.note("192.0.2.1", f"GET /{number}", Unauthorized("no key"))
            await asyncio.sleep(0)
        assert [(one.address, one.what, one.num) for one in told] == [("192.0.2.1", "GET /0", 1)]
        clock.at += EACH_S
        refusals.note("192.0.2.2", "GET /x", RateLimited("too many", limit_of="guesses"))
        await asyncio.sleep(0)
        assert [(one.address, one.num) for one in told[1:]] == [("192.0.2.2", 100)]

    asyncio.run(test())


def test_what_a_key_ran_out_of_or_is_not_for_is_no_turning_away() -> None:
    async def test() -> None:
        told: list[TurnedAway] = []

        async def tell(one: TurnedAway) -> None:
            told.append(one)

        refusals = Refusals(tell, StandingClock())
        refusals.note("192.0.2.1", "GET /", RateLimited("used up", limit_of="tokens"))
        refusals.note("192.0.2.1", "GET /", Forbidden("not for that"))
        await asyncio.sleep(0)
        assert told == []

    asyncio.run(test())


def test_without_a_daemon_it_is_counted_for_the_next() -> None:
    async def test() -> None:
        told: list[int] = []
        clock = StandingClock()

        async def tell(one: TurnedAway) -> None:
            if not told and clock.at < 1000.0 + EACH_S:
                raise NodeNotRunning("no daemon")
            told.append(one.num)

        refusals = Refusals(tell, clock)
        for _ in range(3):
            refusals.note("192.0.2.1", "GET /", Unauthorized("no key"))
            await asyncio.sleep(0)
        clock.at += EACH_S
        refusals.note("192.0.2.1", "GET /", Unauthorized("no key"))
        await asyncio.sleep(0)
        assert told == [4]

    asyncio.run(test())
