"""The promise: a request is answered with the same tokens whatever else runs.

Alone, or beside 15 others of mixed lengths; in one piece, or cut into chunks; computed, or found in the prefix cache;
undisturbed, or preempted again and again; held, or moved to slower memory and back; token by token, or with guesses
verified; with one thread, or two.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass

import numpy as np
import pytest

from tests.property.runtime.models import CONTEXT, NUM_BLOCKS, VOCAB, ready
from tests.unit.runtime.doubles import Bench, ColdStore, Cost, ask, line, make_bench
from thaloom.kernel.memory.pages import blocks_for
from thaloom.kernel.sched.chunks import StepTargets
from thaloom.work.runtime.core.sequence import Ticket
from thaloom.work.runtime.messages import Generate, PromptLogprobs, Tokens

CHUNKS = (1, 2, 7, 16, 33, 64, 128, 512)
NUM_SCHEDULES = {
    "cpu": 100,
    "cpu int8": 30,
    "cpu int4": 30,
    "cpu kv f32": 15,
    "cpu kv bf16": 15,
    "cpu kv i8": 30,
    "cpu int8 kv i8": 15,
}
NATIVE = [pytest.param(name, number, marks=pytest.mark.hardware) for name, number in NUM_SCHEDULES.items()]
NATIVE_COLD = [pytest.param(name, number // 3, marks=pytest.mark.hardware) for name, number in NUM_SCHEDULES.items()]


@functools.cache
def requests() -> tuple[Generate, ...]:
    """40 requests: short and long, many with a beginning in common, most greedy and some drawn."""
    random = np.random.default_rng(7)
    prefixes = [random.integers(0, VOCAB, size=length).tolist() for length in (17, 48, 100)]
    found = []
    for number in range(40):
        own = random.integers(0, VOCAB, size=int(random.integers(1, 60))).tolist()
        prompt = (prefixes[number % 3] if number % 2 else []) + own
        drawn = number % 5 == 4
        found.append(
            ask(
                prompt,
                int(random.integers(1, 25)),
                id=f"request {number}",
                temperature=0.9 if drawn else 0.0,
                top_k=40 if drawn else 0,
                top_p=0.95 if drawn else 1.0,
                seed=number,
                logprobs=1,
                frequency_penalty=0.5 if number % 7 == 3 else 0.0,
                repetition_penalty=1.2 if number % 7 == 5 else 1.0,
                logit_bias=[(number, 2.5)] if number % 6 == 2 else [],
                prompt_logprobs=1 if number % 8 == 6 else None,
            )
        )
    return tuple(found)


Answer = list[tuple[int, float, float]]
"""Tokens (-1: one of the prompt), each with its log-probability and that of the likeliest: equal to the last bit, or
the luck of a wide margin between two logits would pass for sameness."""


def answer(bench: Bench, ticket: Ticket) -> Answer:
    parts = [reply for reply in bench.news[ticket] if isinstance(reply, Tokens)]
    of_prompt = [reply for reply in bench.news[ticket] if isinstance(reply, PromptLogprobs)]
    rows = [
        row for part in [*of_prompt, *parts] for row in (part.logprobs if isinstance(part, Tokens) else part.rows) or []
    ]
    tokens = [-1 for part in of_prompt for _ in part.rows] + [token for part in parts for token in part.tokens]
    return [(token, row.chosen, row.top_logprobs[0]) for token, row in zip(tokens, rows, strict=True)]


@functools.cache
def alone(backend: str) -> tuple[Answer, ...]:
    """Each request in an empty engine, its prompt in one piece, by one thread."""
    answers = []
    for request in requests():
        bench = engine(backend, chunk_tokens=512, prefix_reuse=False)
        ticket = bench.submit(request)
        bench.run()
        answers.append(answer(bench, ticket))
    return tuple(answers)


def engine(
    backend: str,
    *,
    threads: int = 1,
    chunk_tokens: int,
    prefix_reuse: bool,
    num_blocks: int = NUM_BLOCKS,
    max_sequences: int = 16,
    draft_rows: int = 0,
    cost: Cost | None = None,
    store: ColdStore | None = None,
) -> Bench:
    executable = ready(backend).by_threads[threads]
    return make_bench(
        executable,
        num_blocks=num_blocks,
        vocab_size=VOCAB,
        context_length=CONTEXT,
        max_sequences=max_sequences,
        chunk_tokens=chunk_tokens,
        prefix_reuse=prefix_reuse,
        draft_rows=draft_rows,
        targets=StepTargets(least_rows=1),
        cost=cost,
        store=store,
    )


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """16 requests, when each comes and goes, and the engine they meet."""

    picks: tuple[int, ...]
    arrivals: tuple[int, ...]
    cancelled: dict[int, int]
    threads: int
    chunk_tokens: int
    prefix_reuse: bool
    num_blocks: int
    max_sequences: int
    draft_rows: int
    base_s: float
    row_s: float
    """What steps seem to take, which is what chunks and guesses are chosen by."""
    host_blocks: int = 0
    disk_blocks: int = 0
    """Of a store below the pool; none: no store."""

    @classmethod
    def of(cls, seed: int, num_threads: int) -> Schedule:
        random = np.random.default_rng(seed)
        picks = tuple(int(pick) for pick in random.integers(0, len(requests()), size=16))
        largest = max(blocks_for(len(requests()[p].prompt) + requests()[p].max_tokens) for p in picks)
        return cls(
            picks=picks,
            arrivals=tuple(sorted(int(step) for step in random.integers(0, 12, size=16))),
            cancelled={int(index): int(random.integers(1, 20)) for index in random.integers(0, 16, size=2)},
            threads=int(random.integers(1, num_threads + 1)),
            chunk_tokens=int(random.choice(CHUNKS)),
            prefix_reuse=bool(random.integers(0, 2)),
            num_blocks=int(random.choice([largest + 1, 2 * largest, NUM_BLOCKS])),
            max_sequences=int(random.choice([2, 5, 16, 16])),
            draft_rows=int(random.choice([0, 5, 16, 16])),
            base_s=float(random.choice([1e-3, 1e-2])),
            row_s=float(random.choice([0.0, 0.0, 1e-5, 1e-3])),
        )


def run(backend: str, schedule: Schedule) -> Bench:
    """Play it and compare every answer (of a cancelled request: as far as it came)."""
    bench = engine(
        backend,
        threads=schedule.threads,
        chunk_tokens=schedule.chunk_tokens,
        prefix_reuse=schedule.prefix_reuse,
        num_blocks=schedule.num_blocks,
        max_sequences=schedule.max_sequences,
        draft_rows=schedule.draft_rows,
        cost=line(schedule.base_s, schedule.row_s),
        store=ColdStore(schedule.host_blocks, schedule.disk_blocks) if schedule.host_blocks else None,
    )
    tickets = {}
    step = 0
    while bench.engine.busy or len(tickets) < 16:
        for index in range(16):
            if schedule.arrivals[index] == step:
                tickets[index] = bench.submit(requests()[schedule.picks[index]])
            if index in tickets and schedule.cancelled.get(index) == step:
                bench.engine.cancel(tickets[index])
        bench.step()
        step += 1
        assert step < 20_000, "the schedule does not come to an end"
    for index, ticket in tickets.items():
        expected, given = alone(backend)[schedule.picks[index]], answer(bench, ticket)
        assert bench.ended(ticket) or index in schedule.cancelled
        assert given == (expected if bench.ended(ticket) else expected[: len(given)]), (schedule, index)
    assert bench.engine.load().free_blocks == schedule.num_blocks
    return bench


@pytest.mark.parametrize(("backend", "num_schedules"), [("reference", 8), *NATIVE])
def test_the_same_tokens_whatever_else_runs(backend: str, num_schedules: int) -> None:
    num_threads = max(ready(backend).by_threads)
    totals = {"preemptions": 0, "cached_tokens": 0, "cancelled": 0, "completion_tokens": 0}
    totals |= {"drafted_tokens": 0, "accepted_tokens": 0}
    for seed in range(num_schedules):
        bench = run(backend, Schedule.of(seed, num_threads))
        for name in totals:
            totals[name] += getattr(bench.engine.counters, name)
    assert all(totals.values()), f"schedules that never meet what they are about: {totals}"


@pytest.mark.parametrize(("backend", "num_schedules"), [("reference", 3), *NATIVE_COLD])
def test_the_same_tokens_where_blocks_leave_and_come_back(backend: str, num_schedules: int) -> None:
    """Pools for the largest request and little more, above stores of all sizes."""
    saved = restored = 0
    for seed in range(num_schedules):
        schedule = Schedule.of(seed, max(ready(backend).by_threads))
        largest = max(blocks_for(len(requests()[p].prompt) + requests()[p].max_tokens) for p in schedule.picks)
        host_blocks, disk_blocks = ((1000, 0), (5, 1000), (20, 20))[seed % 3]
        cold = dataclasses.replace(
            schedule, prefix_reuse=True, num_blocks=largest + 1, host_blocks=host_blocks, disk_blocks=disk_blocks
        )
        tiers = run(backend, cold).engine.tiers
        assert tiers is not None
        saved, restored = saved + tiers.saved_blocks, restored + tiers.restored_blocks
    assert min(saved, restored) > 0, "schedules in which nothing comes back"


@pytest.mark.parametrize(
    "backend",
    ["reference", *(pytest.param(name, marks=pytest.mark.hardware) for name in NUM_SCHEDULES)],
)
def test_the_model_is_worth_asking(backend: str) -> None:
    """Were all answers alike, the promise would be empty."""
    long = [tuple(token for token, _, _ in given) for given in alone(backend) if len(given) >= 4]
    assert len({tokens[:4] for tokens in long}) > 0.8 * len(long)
    assert sum(len(set(tokens)) for tokens in long) > 0.5 * sum(len(tokens) for tokens in long)
    first = ask(requests()[1].prompt, 1, logprobs=1)
    changed = ask([(first.prompt[0] + 1) % VOCAB, *first.prompt[1:]], 1, logprobs=1)
    bench = engine(backend, chunk_tokens=512, prefix_reuse=False)
    tickets = [bench.submit(first), bench.submit(changed)]
    bench.run()
    assert answer(bench, tickets[0]) != answer(bench, tickets[1]), "the prompt's first token has no say in the answer"


@pytest.mark.hardware
@pytest.mark.parametrize("backend", ["cpu", "cpu int8", "cpu int4"])
def test_both_numbers_of_threads_give_the_same_answers_alone(backend: str) -> None:
    for request, expected in zip(requests(), alone(backend), strict=True):
        bench = engine(backend, threads=2, chunk_tokens=512, prefix_reuse=False)
        ticket = bench.submit(request)
        bench.run()
        assert answer(bench, ticket) == expected
