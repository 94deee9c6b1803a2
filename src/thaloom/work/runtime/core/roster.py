"""Who is in the engine: sequences that wait, sequences that run, and the blocks they hold, with memory for as many
as they need.

Makes the snapshot that `kernel.sched` plans from and carries the plan out. One thread at a time (its engine's lock).
"""

from __future__ import annotations

import itertools
from collections import deque

from thaloom.hal.ops import BLOCK_TOKENS
from thaloom.kernel.memory.pages import BlockPool, blocks_for
from thaloom.kernel.sched import line
from thaloom.kernel.sched.chunks import next_pressure
from thaloom.kernel.sched.line import place
from thaloom.kernel.sched.step_times import StepHistory
from thaloom.kernel.sched.steps import Running, Snapshot, StepPlan, Waiting, plan_step
from thaloom.work.runtime.core.admission import EngineConfig
from thaloom.work.runtime.core.batch import Work, shape_of
from thaloom.work.runtime.core.counters import EngineCounters, EngineLoad
from thaloom.work.runtime.core.sequence import Sequence, Ticket
from thaloom.work.runtime.core.speculation import Speculation
from thaloom.work.runtime.kv.memory import KvMemory
from thaloom.work.runtime.kv.tiers import KvTiers

LOOK_AHEAD = 2
"""Of those who wait: more would push each other out of the nearer tier before their turn."""
RESTORE_WAIT_S = 1.0
"""Whoever waits for his blocks to come back, while others run, is let in without the rest if none came for so long."""


class Roster:
    """Those that run stand in the order they were let in; those that wait in the order they will be
    (kernel.sched.line): that of their arrival, where all are equally urgent."""

    def __init__(
        self, config: EngineConfig, counters: EngineCounters, memory: KvMemory, tiers: KvTiers | None = None
    ) -> None:
        self._limits = config.limits
        self._targets = config.targets
        self._prefix_reuse = config.prefix_reuse
        self._counters = counters
        self._memory = memory
        self._tiers = tiers if config.prefix_reuse else None
        self._pool = BlockPool(
            config.num_blocks,
            room=memory.room,
            prefix_reuse=config.prefix_reuse,
            most_pinned=int(config.pin_share * memory.promised),
            leaving=None if tiers is None else lambda block, key: tiers.leave(block, key, self._history.times),
        )
        self._live: dict[Ticket, Sequence] = {}
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []
        self._speculation = Speculation(config.limits, self._pool)
        self._history = StepHistory()
        self._pressure = 0.0

    def __len__(self) -> int:
        return len(self._live)

    def load(self) -> EngineLoad:
        return EngineLoad(
            running=len(self._running),
            waiting=len(self._waiting),
            num_blocks=self._pool.num_blocks,
            free_blocks=self._pool.num_blocks - self._pool.held_blocks,
            cached_blocks=self._pool.cached_blocks,
            pinned_blocks=self._pool.pinned_blocks,
            num_broken_pins=self._pool.num_broken_pins,
            room=self._pool.room,
        )

    def find(self, ticket: Ticket) -> Sequence | None:
        return self._live.get(ticket)

    def everybody(self) -> list[Sequence]:
        return [*self._running, *self._waiting]

    def progress(self) -> list[tuple[int, int]]:
        """Of each running sequence: tokens generated, tokens it may generate."""
        return [(sequence.num_generated, sequence.request.max_tokens) for sequence in self._running]

    def add(self, sequence: Sequence) -> None:
        """Into the queue, where its urgency puts it; its ticket is younger than all others."""
        self._live[sequence.ticket] = sequence
        rank = sequence.request.rank
        index = place([line.Waiting(one.request.rank, one.num_overtaken) for one in self._waiting], rank)
        for overtaken in itertools.islice(self._waiting, index, None):
            overtaken.num_overtaken += 1
        self._waiting.insert(index, sequence)
        self._look_ahead()

    def next_work(self, now: float) -> list[Work]:
        """What goes into the next step; nothing if there is nobody. Preempts and admits as planned."""
        self.pass_to(now)
        self._make_way()
        while (plan := plan_step(self._snapshot())).preempt is not None:
            self._preempt(self._live[Ticket(plan.preempt)])
        self._pressure = next_pressure(self._pressure, plan.left_waiting)
        work = self._carry_out(plan, now)
        self._look_ahead()
        return self._speculation.add_drafts(work, self._history.times, len(self._running))

    def pass_to(self, now: float) -> None:
        """It is so late now: of what is pinned, the time ends."""
        self._pool.pass_to(now)

    def took(self, work: list[Work], seconds: float) -> None:
        """How long the step that computed this took."""
        self._history.add(shape_of(work), seconds)

    def expected_s(self, work: list[Work]) -> float:
        """How long it will take; 0 where nobody knows."""
        return self._history.expected_s(shape_of(work))

    def computed(self, work: Work, num_accepted: int) -> None:
        """The step has stored the keys and values of these tokens and of so many of its draft, which are among the
        sequence's tokens by now: whole blocks may be found by others."""
        sequence = work.sequence
        sequence.num_computed = work.end + num_accepted
        if self._prefix_reuse:
            num_full = sequence.num_computed // BLOCK_TOKENS
            keys = sequence.keys(num_full)
            for index in range(sequence.num_published, num_full):
                self._pool.publish(sequence.blocks[index], keys[index])
            sequence.num_published = num_full
            self._pin(sequence)

    def end(self, sequence: Sequence) -> None:
        """It is gone, and its blocks are free."""
        del self._live[sequence.ticket]
        if sequence.first_token_at is not None:  # all of its prompt was computed, and could have been pinned
            self._counters.refused_pin_tokens += (sequence.num_to_pin - sequence.num_pinned) * BLOCK_TOKENS
        (self._running if sequence.state == "running" else self._waiting).remove(sequence)
        self._let_go(sequence)
        sequence.state = "ended"

    def give_back(self) -> None:
        """Memory in which nothing is kept goes back; what is kept moves together for that."""
        if not self._memory.is_fixed:
            self._keep(self._pool.held_blocks + self._pool.cached_blocks)

    def _make_way(self) -> None:
        """Where others are to have memory back: what is cached goes first, then who came last waits again. Whoever is
        alone stays: its memory is promised."""
        limit = self._memory.limit
        if limit >= self._pool.room:
            return
        while self._pool.held_blocks > limit and len(self._running) > 1:
            self._preempt(self._running[-1])
        held = self._pool.held_blocks
        self._keep(max(held, min(held + self._pool.cached_blocks, limit)))

    def _keep(self, used: int) -> None:
        """So many blocks, moved to the beginning, and memory for no more than must be."""
        moves = self._pool.shrink(used)
        for source, target in moves:
            self._memory.copy(source, target)
        renamed = dict(moves)
        for sequence in self._running:
            sequence.blocks = [renamed.get(block, block) for block in sequence.blocks]
        self._pool.grow(self._memory.shrink(used))

    def check(self) -> None:
        """Prove the invariants (AssertionError otherwise)."""
        assert self._pool.room == self._memory.room, "blocks without memory, or memory without blocks"
        self._pool.check(sequence.blocks for sequence in self._running)
        order = [(sequence.request.rank, sequence.ticket) for sequence in self.everybody()]
        assert sorted(order) == sorted(order, key=lambda one: one[0]), "someone overtook an equal"
        assert {ticket for _, ticket in order} == set(self._live), "a request is neither running nor waiting"
        assert len(self._running) <= self._limits.max_sequences, "more sequences than a step may have"
        for sequence in self._running:
            assert sequence.state == "running", f"request {sequence.ticket} thinks it is {sequence.state}"
            assert sequence.num_computed < len(sequence.tokens), "nothing left to compute, yet running"
            assert sequence.num_computed <= len(sequence.blocks) * BLOCK_TOKENS, "tokens without a block"
        for sequence in self._waiting:
            assert not sequence.blocks, "a waiting request holds blocks"

    def _snapshot(self) -> Snapshot:
        arrivals = tuple(self._arrivals())
        self._provide(sum(arrival.new_blocks for arrival in arrivals) + 2 * len(self._running))
        return Snapshot(
            running=tuple(
                Running(
                    sequence.ticket,
                    len(sequence.tokens),
                    sequence.num_computed,
                    len(sequence.blocks),
                    sequence.most_rows,
                )
                for sequence in self._running
            ),
            waiting=arrivals,
            free_blocks=self._pool.free_blocks,
            limits=self._limits,
            targets=self._targets,
            times=self._history.times,
            pressure=self._pressure,
        )

    def _arrivals(self) -> list[Waiting]:
        """Those that could be let in: nobody overtakes, so none behind the first for whom there are no blocks."""
        arrivals: list[Waiting] = []
        free = self._pool.num_blocks - self._pool.held_blocks  # with those that get memory only when they are needed
        for sequence in itertools.islice(self._waiting, self._limits.max_sequences - len(self._running)):
            found = self._find_prefix(sequence)
            num_in_use = sum(not self._pool.is_free(block) for block in found)
            arrival = Waiting(
                id=sequence.ticket,
                num_tokens=len(sequence.tokens),
                reused_tokens=(len(found) + (0 if arrivals else self._num_to_come(sequence, found))) * BLOCK_TOKENS,
                new_blocks=blocks_for(len(sequence.tokens)) - num_in_use,
                most_rows=sequence.most_rows,
            )
            arrivals.append(arrival)
            free -= arrival.new_blocks
            if free < 0:
                break
        return arrivals

    def _num_to_come(self, sequence: Sequence, found: list[int]) -> int:
        """Blocks that will follow those found in the pool. Of the first who waits: where that ends, its rows begin."""
        if self._tiers is None:
            return 0
        keys, start = sequence.reusable_keys()[len(found) :], len(found) * BLOCK_TOKENS
        return self._tiers.num_to_come(keys, start, len(sequence.tokens), self._history.times)

    def _provide(self, new_blocks: int) -> None:
        """Memory for so many blocks (of those that run one for the next token, one for guesses), as far as it can be
        had, so that what is cached is given away only where it cannot."""
        if self._memory.is_fixed:
            return
        self._memory.want(min(self._pool.held_blocks + new_blocks, self._pool.num_blocks))
        if (missing := new_blocks - self._pool.blank_blocks) > 0 and self._pool.room < self._pool.num_blocks:
            self._pool.grow(self._memory.grow(min(self._pool.room + missing, self._pool.num_blocks)))

    def _find_prefix(self, sequence: Sequence) -> list[int]:
        return self._pool.lookup(sequence.reusable_keys()) if self._prefix_reuse else []

    def _preempt(self, sequence: Sequence) -> None:
        """Its blocks are free; its tokens stay, to be computed again when its turn comes, which is the next."""
        self._running.remove(sequence)
        self._let_go(sequence)
        sequence.state = "waiting"
        self._waiting.appendleft(sequence)
        self._counters.preemptions += 1

    def _carry_out(self, plan: StepPlan, now: float) -> list[Work]:
        """Take the blocks the plan counted on, running sequences first. An admission may evict what the next one
        meant to reuse: then the plan is stale from there on, and the rest waits for the next. So it does where blocks
        come back for longer than those who run are to bear."""
        work = []
        until = now + self._targets.token_s if self._running else None
        for rows in plan.rows:
            sequence = self._live[Ticket(rows.id)]
            if sequence.state == "running":
                self._grow(sequence)
            elif not self._admit(sequence, now, until):
                break
            work.append(Work.of(sequence, min(rows.count, len(sequence.tokens) - sequence.num_computed)))
        return work

    def _grow(self, sequence: Sequence) -> None:
        missing = blocks_for(len(sequence.tokens)) - len(sequence.blocks)
        if missing > 0:
            fresh = self._pool.allocate(missing)
            assert fresh is not None, "the plan promised blocks that are not there"
            sequence.blocks += fresh

    def _admit(self, sequence: Sequence, now: float, until: float | None) -> bool:
        found = self._find_prefix(sequence)
        missing = blocks_for(len(sequence.tokens)) - len(found)
        if missing > self._pool.free_blocks - sum(self._pool.is_free(block) for block in found):
            return False  # before anything is shared: the pool would take it for a use
        self._pool.share(found)
        if not self._restore(sequence, found, now, until):
            self._pool.release(found)  # cached until the next step, which goes on from there
            return False
        fresh = self._pool.allocate(blocks_for(len(sequence.tokens)) - len(found))
        assert fresh is not None, "free blocks were counted that are not there"
        self._waiting.remove(sequence)
        self._running.append(sequence)
        sequence.state = "running"
        sequence.blocks = found + fresh
        sequence.num_published = len(found)
        sequence.num_pinned = 0
        self._pin(sequence)
        sequence.num_computed = len(found) * BLOCK_TOKENS
        if sequence.admitted_at is None:  # not after a preemption
            sequence.admitted_at = now
            sequence.cached_tokens = sequence.num_computed
            self._counters.prompt_tokens += len(sequence.request.prompt)
            self._counters.cached_tokens += sequence.cached_tokens
        return True

    def _pin(self, sequence: Sequence) -> None:
        """Of what it has published, what is to be pinned, as far as there is room: from its beginning on, for nobody
        finds what comes behind a gap."""
        keys = sequence.keys(min(sequence.num_to_pin, sequence.num_published))
        owner = sequence.request.owner or sequence.root
        while (index := sequence.num_pinned) < len(keys):
            if not self._pool.pin(keys[index], owner, sequence.pin_s(index)):
                return
            sequence.num_pinned += 1

    def _restore(self, sequence: Sequence, found: list[int], now: float, until: float | None) -> bool:
        """Add to `found`, which are held, what comes back for it now. False: let it wait for the rest."""
        if self._tiers is None:
            return True
        num_tokens, times = len(sequence.tokens), self._history.times
        is_all = self._tiers.extend(found, sequence.reusable_keys(), num_tokens, self._pool, times, until=until)
        if not is_all and (sequence.restored is None or len(found) > sequence.restored[0]):
            sequence.restored = len(found), now
        elif is_all or sequence.restored is None or now - sequence.restored[1] >= RESTORE_WAIT_S:
            sequence.restored = None
            return True
        return False

    def _look_ahead(self) -> None:
        """What those who wait will ask for comes nearer while a step computes."""
        if self._tiers is None:
            return
        for sequence in itertools.islice(self._waiting, LOOK_AHEAD):
            if not sequence.looked_ahead:
                sequence.looked_ahead = True
                keys = sequence.reusable_keys()
                self._tiers.look_ahead(keys[len(self._pool.lookup(keys)) :])

    def _let_go(self, sequence: Sequence) -> None:
        self._pool.release(sequence.blocks)
        sequence.blocks = []
        sequence.num_computed = sequence.num_published = 0
