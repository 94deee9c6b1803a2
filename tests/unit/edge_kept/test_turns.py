"""What nobody waits for runs as much at once as others leave room for, and nothing waits for ever."""

from __future__ import annotations

import asyncio
import contextlib

from thaloom.edge.api.openai.kept.turns import Turns


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_lines_hold_back_while_somebody_waits_and_go_on_afterwards() -> None:
    async def run() -> None:
        turns = Turns(alone=3, beside_others=1)
        ends = [asyncio.Event() for _ in range(6)]

        async def line(end: asyncio.Event) -> None:
            async with turns.patient():
                await end.wait()

        tasks = [asyncio.create_task(line(end)) for end in ends]
        await settle()
        assert turns.num_patient == 3
        with turns.interactive(), turns.interactive():
            for end in ends[:3]:
                end.set()
            await settle()
            assert turns.num_patient == 1, "one goes on beside others"
        await settle()
        assert turns.num_patient == 3
        for end in ends:
            end.set()
        await asyncio.gather(*tasks)
        assert (turns.num_patient, turns.num_interactive) == (0, 0)

    asyncio.run(run())


def test_who_only_listens_takes_no_turn_from_what_he_listens_to() -> None:
    async def run() -> None:
        turns = Turns(alone=2, beside_others=1)
        end = asyncio.Event()

        async def line() -> None:
            async with turns.patient():
                await end.wait()

        with turns.interactive():
            tasks = [asyncio.create_task(line()) for _ in range(2)]
            await settle()
            assert turns.num_patient == 1
            with turns.given_up():
                await settle()
                assert turns.num_patient == 2
            assert turns.num_interactive == 1
        end.set()
        await asyncio.gather(*tasks)
        assert (turns.num_patient, turns.num_interactive) == (0, 0)

    asyncio.run(run())


def test_a_line_that_is_cancelled_gives_its_turn_back() -> None:
    async def run() -> None:
        turns = Turns(alone=1)
        inside = asyncio.Event()

        async def line() -> None:
            async with turns.patient():
                inside.set()
                await asyncio.Event().wait()

        first, second = asyncio.create_task(line()), asyncio.create_task(line())
        await inside.wait()
        inside.clear()
        first.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await first
        await asyncio.wait_for(inside.wait(), 5)
        second.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await second
        assert turns.num_patient == 0

    asyncio.run(run())
