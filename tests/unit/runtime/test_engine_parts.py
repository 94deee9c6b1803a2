"""The engine's small parts: pace, the layout of a step, outboxes."""

from __future__ import annotations

import asyncio

from tests.unit.runtime.doubles import ask
from thaloom.kernel.memory.pages import root_key
from thaloom.work.runtime.core.batch import Work, lay_out
from thaloom.work.runtime.core.choosing import Chooser
from thaloom.work.runtime.core.pace import UNMEASURED_S, Pace
from thaloom.work.runtime.core.sequence import Sequence
from thaloom.work.runtime.messages import Accepted, Failed, Finished, Generate, LogprobRow, Reply, Started, Tokens
from thaloom.work.runtime.outbox import Outbox, merge
from thaloom.work.runtime.types import Sampling


class TestPace:
    def test_nothing_measured_is_one_second(self) -> None:
        assert Pace().next_place_s([(0, 10)]) == UNMEASURED_S == 1.0

    def test_the_next_place_is_where_least_is_left(self) -> None:
        pace = Pace()
        pace.stepped(0.5)
        assert pace.next_place_s([(0, 10), (4, 8)]) == 2.0

    def test_answers_are_taken_to_be_as_long_as_the_recent_ones(self) -> None:
        pace = Pace()
        pace.stepped(0.5)
        pace.answered(10)
        pace.answered(20)
        assert pace.next_place_s([(5, 1000)]) == 5.0
        assert pace.next_place_s([(50, 1000)]) == 0.5, "longer than usual: may end with any step"
        assert pace.next_place_s([]) == 0.5


def chooser(request: Generate) -> Chooser:
    return Chooser(request, Sampling(), vocab_size=200, matcher=None)


def sequence(tokens: list[int], *, computed: int, blocks: list[int]) -> Sequence:
    made = Sequence(ask(tokens), chooser(ask(tokens)), root=root_key(b""), now=0.0)
    made.num_computed, made.blocks = computed, blocks
    return made


def test_a_step_is_laid_out_as_the_contract_says() -> None:
    decoding = sequence(list(range(100, 118)), computed=17, blocks=[5, 3])
    prefilling = sequence(list(range(40)), computed=16, blocks=[0, 1, 2])
    step = lay_out([Work.of(decoding, 1), Work.of(prefilling, 4)])
    assert step.tokens.tolist() == [117, 16, 17, 18, 19]
    assert step.positions.tolist() == [17, 16, 17, 18, 19]
    assert step.sequences.tolist() == [0, 1, 1, 1, 1]
    assert step.block_tables.tolist() == [[5, 3, -1], [0, 1, 2]]
    assert step.outputs.tolist() == [0]
    assert {array.dtype.name for array in (step.tokens, step.positions, step.sequences, step.outputs)} == {"int32"}


def test_work_stays_what_it_was_when_its_sequence_is_cancelled() -> None:
    cancelled = sequence([1, 2, 3], computed=0, blocks=[0])
    work = Work.of(cancelled, 3)
    cancelled.num_computed = 1
    assert (work.start, work.end, work.wants_token) == (0, 3, True)


def finished() -> Finished:
    return Finished(
        reason="stop",
        prompt_tokens=1,
        completion_tokens=1,
        cached_tokens=0,
        queue_s=0.0,
        prefill_s=0.0,
        decode_s=0.0,
    )


def tokens(*ids: int) -> Tokens:
    return Tokens(tokens=list(ids), logprobs=None)


class TestOutlet:
    def test_tokens_that_waited_together_become_one_message(self) -> None:
        row = LogprobRow(chosen=-1.0, top_tokens=[], top_logprobs=[])
        started = Started(cached_tokens=1, queue_s=0.0, prefill_s=0.0)
        first = Tokens(tokens=[1], logprobs=[row], started=started)
        merged = merge([first, Tokens(tokens=[2, 3], logprobs=[row, row]), finished()])
        assert merged == [Tokens(tokens=[1, 2, 3], logprobs=[row] * 3, started=started), finished()]
        assert merge([Accepted(waiting=0), tokens(1), tokens(2)]) == [Accepted(waiting=0), tokens(1, 2)]

    def test_take_gives_all_there_is_and_makes_room(self) -> None:
        async def story() -> list[Reply]:
            outbox = Outbox(3)
            assert outbox.put(tokens(1, 2))
            assert outbox.put(tokens(3))
            assert not outbox.put(tokens(4)), "full"
            first = await outbox.take()
            assert outbox.put(tokens(4))
            return first + await outbox.take()

        assert asyncio.run(story()) == [tokens(1, 2, 3), tokens(4)]

    def test_an_end_always_fits_and_nothing_follows_it(self) -> None:
        async def story() -> list[Reply]:
            outbox = Outbox(1)
            outbox.put(tokens(1))
            assert outbox.put(Failed(error={}))
            assert outbox.put(tokens(2, 3))
            assert outbox.ended
            return await outbox.take()

        assert asyncio.run(story()) == [tokens(1), Failed(error={})]

    def test_what_comes_while_somebody_waits_goes_straight_as_long_as_it_is_taken(self) -> None:
        async def run() -> None:
            outbox, gone = Outbox(2), list[Reply]()

            def straight(reply: Reply) -> bool:
                gone.append(reply)
                return reply != tokens(4)

            taking = asyncio.create_task(outbox.take(straight))
            await asyncio.sleep(0)
            for token in (1, 2, 3, 4):
                assert outbox.put(tokens(token))
            assert outbox.put(tokens(5)), "behind what was refused, not past it"
            assert await taking == [tokens(4, 5)]
            assert gone == [tokens(1), tokens(2), tokens(3), tokens(4)]
            taking = asyncio.create_task(outbox.take(straight))
            await asyncio.sleep(0)
            assert not outbox.over
            outbox.put(finished())
            assert await taking == []
            assert outbox.over

        asyncio.run(run())

    def test_take_waits_for_the_first(self) -> None:
        async def story() -> list[Reply]:
            outbox = Outbox()
            taking = asyncio.create_task(outbox.take())
            await asyncio.sleep(0)
            assert not taking.done()
            outbox.put(finished())
            return await taking

        assert asyncio.run(story()) == [finished()]
