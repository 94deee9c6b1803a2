"""The engine under any order of calls: nobody's tokens change, no block is lost, everybody comes to an end."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.unit.runtime.doubles import (
    ColdStore,
    Cost,
    HistoryExecutable,
    PagedBuffer,
    ask,
    greedy,
    line,
    lost,
    make_bench,
)
from thaloom.base.errors import QueueFull
from thaloom.hal.ops import BLOCK_TOKENS
from thaloom.kernel.memory.pages import blocks_for
from thaloom.kernel.sched.chunks import StepTargets
from thaloom.work.runtime.core.sequence import Ticket
from thaloom.work.runtime.kv.memory import ElasticKv
from thaloom.work.runtime.messages import Finished, Generate

LONGEST = 71


class Lent(ElasticKv):
    """May have what others leave."""

    @property
    def limit(self) -> int:
        return min(self._num_blocks, self._buffer.limit // self._block_bytes)

    @property
    def promised(self) -> int:
        return self._floor


class Requests(RuleBasedStateMachine):
    """Requests with common beginnings come, are stepped, cancelled, and hit by steps that raise."""

    @initialize(
        num_blocks=st.integers(5, 14),
        max_sequences=st.integers(1, 5),
        chunk_tokens=st.integers(1, 40),
        prefix_reuse=st.booleans(),
        habit=st.sampled_from([0.0, 4.0]),
        draft_rows=st.sampled_from([0, 3, 16]),
        cost=st.builds(line, st.sampled_from([0.0, 1e-3, 1e-1]), st.sampled_from([0.0, 1e-5, 1e-3])),
        elastic=st.booleans(),
        host_blocks=st.sampled_from([0, 1, 6, 100]),
        disk_blocks=st.sampled_from([0, 5, 100]),
        move_s=st.sampled_from([0.0, 1e-4, 1e-2]),
        pin_share=st.sampled_from([0.0, 0.5, 1.0]),
    )
    def begin(
        self,
        num_blocks: int,
        max_sequences: int,
        chunk_tokens: int,
        prefix_reuse: bool,
        habit: float,
        draft_rows: int,
        cost: Cost,
        elastic: bool,
        host_blocks: int,
        disk_blocks: int,
        move_s: float,
        pin_share: float,
    ) -> None:
        self.num_blocks = num_blocks
        self.habit = habit
        self.executable = HistoryExecutable(num_blocks, habit)
        self.buffer = PagedBuffer(self.executable) if elastic else None
        memory = None if self.buffer is None else Lent(self.buffer, self.executable, floor=blocks_for(LONGEST))
        self.store = ColdStore(host_blocks, disk_blocks)
        self.bench = make_bench(
            self.executable,
            num_blocks=num_blocks,
            context_length=LONGEST,
            max_sequences=max_sequences,
            chunk_tokens=chunk_tokens,
            max_queue=4,
            prefix_reuse=prefix_reuse,
            draft_rows=draft_rows,
            targets=StepTargets(least_rows=1),
            cost=cost,
            memory=memory,
            store=self.store if host_blocks else None,
            move_s=move_s,
            pin_share=pin_share,
        )
        self.most_pinned = int(pin_share * (num_blocks if memory is None else memory.promised))
        self.asked: dict[Ticket, Generate] = {}
        self.excused: set[Ticket] = set()
        self.most = max_sequences + 4

    @rule(
        head=st.integers(0, 1),
        length=st.integers(1, 50),
        last=st.integers(0, 3),
        answer=st.integers(1, 20),
        rank=st.integers(0, 2),
        pin_s=st.sampled_from([None, 1.0, 60.0]),
    )
    def submit(self, head: int, length: int, last: int, answer: int, rank: int, pin_s: float | None) -> None:
        pins = [] if pin_s is None else [(length + 1, pin_s)]
        request = ask([head] * length + [last], answer, rank=rank, pins=pins)
        try:
            self.asked[self.bench.submit(request)] = request
        except QueueFull:
            load = self.bench.engine.load()
            refused_at = load.running + load.waiting
        else:
            return
        assert refused_at == self.most, "refused before it was full"

    @rule(count=st.integers(1, 6))
    def step(self, count: int) -> None:
        self.bench.step(count)

    @rule(seconds=st.sampled_from([0.5, 30.0]))
    def wait(self, seconds: float) -> None:
        """Pins end."""
        self.bench.wait(seconds)

    @rule()
    def rest(self) -> None:
        self.bench.engine.rest()

    @precondition(lambda self: self.buffer is not None)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        """Others take more of the memory, or less, but never what was promised."""
        promised = blocks_for(LONGEST) * BLOCK_TOKENS + self.buffer.page_bytes
        self.buffer.limit = data.draw(st.integers(promised, max(promised, self.buffer.capacity_bytes)))

    @rule(full=st.booleans())
    def fill_store(self, full: bool) -> None:
        """It takes nothing more, or has room again."""
        self.store.full = full

    @rule(data=st.data(), gone=st.booleans())
    def lose(self, data: st.DataObject, gone: bool) -> None:
        """Of what left, something is damaged, or not there any more."""
        place = data.draw(st.sampled_from(["host", "disk"]))
        if kept := self.store.kept[place]:
            key = data.draw(st.sampled_from(sorted(kept)))
            self.store.damaged.add(key)
            if gone:
                del kept[key]

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(sorted(self.asked)))
        if self.bench.engine.cancel(ticket):
            self.excused.add(ticket)

    @precondition(lambda self: self.bench.engine.busy)
    @rule()
    def fail(self) -> None:
        self.executable.next_errors.append(RuntimeError("torn"))
        self.bench.step()
        assert not self.executable.next_errors
        self.excused |= {ticket for ticket in self.asked if self._failed(ticket)}

    def _failed(self, ticket: Ticket) -> bool:
        return self.bench.ended(ticket) and not isinstance(self.bench.news[ticket][-1], Finished)

    @invariant()
    def holds(self) -> None:
        if not hasattr(self, "bench"):
            return
        self.bench.engine.check()
        assert self.bench.engine.load().pinned_blocks <= self.most_pinned
        for ticket, request in self.asked.items():
            tokens = self.bench.tokens(ticket)
            assert tokens == greedy(request.prompt, len(tokens), self.habit)

    def teardown(self) -> None:
        if not hasattr(self, "bench"):
            return
        self.bench.run()
        self.holds()
        assert self.bench.engine.load().free_blocks == self.num_blocks
        for ticket, request in self.asked.items():
            if ticket not in self.excused:
                assert len(self.bench.tokens(ticket)) == request.max_tokens
                assert self.bench.finished(ticket).completion_tokens == request.max_tokens
        self.bench.wait(61.0)
        assert self.bench.engine.load().pinned_blocks == 0, "a pin that never ends"
        self._lose()

    def _lose(self) -> None:
        ticket = self.bench.submit(ask([1], 3))
        self.executable.next_errors.append(lost())
        self.bench.step()
        assert self.bench.failed(ticket)["code"] == "device_lost"
        assert self.bench.engine.load().free_blocks == self.num_blocks


TestRequests = Requests.TestCase
TestRequests.settings = settings(max_examples=60, stateful_step_count=25)
