"""The step planner over whole lives of requests: never more than there is, and every request comes to its end."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from thaloom.kernel.sched.chunks import StepTargets, next_pressure
from thaloom.kernel.sched.step_times import StepTimes
from thaloom.kernel.sched.steps import Running, Snapshot, StepLimits, StepPlan, Waiting, plan_step


@dataclass(eq=False)
class Life:
    """One request: `prompt` tokens, then `answer` more; what it holds now."""

    id: int
    prompt: int
    answer: int
    arrives: int
    tokens: int = 0
    computed: int = 0
    blocks: int = 0

    @property
    def most_blocks(self) -> int:
        return _blocks(self.prompt + self.answer - 1)


def _blocks(tokens: int) -> int:
    return -(-tokens // 16)


lives = st.lists(st.tuples(st.integers(1, 90), st.integers(1, 40), st.integers(0, 30)), min_size=1, max_size=12).map(
    lambda facts: [
        Life(id=number, prompt=prompt, answer=answer, arrives=arrives, tokens=prompt)
        for number, (prompt, answer, arrives) in enumerate(sorted(facts, key=lambda fact: fact[2]))
    ]
)
cost = st.floats(1e-6, 1.0)
limits = st.builds(StepLimits, max_sequences=st.integers(1, 6), chunk_tokens=st.integers(1, 70))


def check_safety(plan: StepPlan, snapshot: Snapshot) -> None:
    """Every row once, every limit held, no block promised twice."""
    by_id = {sequence.id: sequence for sequence in snapshot.running}
    arrivals = {arrival.id: arrival for arrival in snapshot.waiting}
    if plan.preempt is not None:
        assert plan.preempt == snapshot.running[-1].id
        assert len(snapshot.running) > 1
        assert plan == StepPlan(preempt=plan.preempt)
        return
    ids = [rows.id for rows in plan.rows]
    assert len(ids) == len(set(ids))
    assert len(snapshot.running) + len(plan.admit) <= max(snapshot.limits.max_sequences, len(snapshot.running))
    assert plan.admit == tuple(arrivals)[: len(plan.admit)], "someone overtook"
    needed = prefill = 0
    for rows in plan.rows:
        if rows.id in by_id:
            sequence = by_id[rows.id]
            assert 1 <= rows.count <= sequence.pending
            needed += max(0, _blocks(sequence.num_computed + rows.count) - sequence.num_blocks)
            prefill += rows.count if sequence.pending > 1 else 0
        else:
            assert rows.id in plan.admit
            assert 1 <= rows.count <= arrivals[rows.id].num_tokens - arrivals[rows.id].reused_tokens
            needed += arrivals[rows.id].new_blocks
            prefill += rows.count
    assert needed <= snapshot.free_blocks
    assert prefill <= snapshot.limits.chunk_tokens
    assert sum(rows.count for rows in plan.rows) <= snapshot.limits.max_rows
    decoding = {sequence.id for sequence in snapshot.running if sequence.pending == 1}
    assert decoding <= set(ids), "decoding waited"


@settings(max_examples=300)
@given(
    lives=lives,
    limits=limits,
    spare=st.integers(0, 10),
    times=st.none() | st.builds(StepTimes, cost, cost, cost, cost, st.just(()), st.just(())),
    targets=st.builds(
        StepTargets,
        stretch=st.floats(1, 10),
        token_s=st.floats(0, 1),
        least_rows=st.integers(1, 20),
        keep_throughput=st.floats(0, 1),
    ),
)
def test_safe_at_every_step_and_all_come_to_an_end(
    lives: list[Life], limits: StepLimits, spare: int, times: StepTimes | None, targets: StepTargets
) -> None:
    pool = max(life.most_blocks for life in lives) + spare
    free, step, pressure = pool, 0, 0.0
    running: list[Life] = []
    waiting: list[Life] = []
    done: list[Life] = []
    coming = list(lives)
    while len(done) < len(lives):
        waiting += [coming.pop(0) for life in lives if life.arrives == step and life in coming]
        snapshot = Snapshot(
            running=tuple(
                Running(id=life.id, num_tokens=life.tokens, num_computed=life.computed, num_blocks=life.blocks)
                for life in running
            ),
            waiting=tuple(
                Waiting(id=life.id, num_tokens=life.tokens, reused_tokens=0, new_blocks=_blocks(life.tokens))
                for life in waiting
            ),
            free_blocks=free,
            limits=limits,
            times=times,
            targets=targets,
            pressure=pressure,
        )
        plan = plan_step(snapshot)
        check_safety(plan, snapshot)
        if plan.preempt is not None:
            youngest = running.pop()
            free += youngest.blocks
            youngest.blocks = youngest.computed = 0
            waiting.insert(0, youngest)
            continue
        pressure = next_pressure(pressure, plan.left_waiting)
        for rows in plan.rows:
            life = lives[rows.id]
            if rows.id in plan.admit:
                waiting.remove(life)
                running.append(life)
            free -= _blocks(life.tokens) - life.blocks
            life.blocks = _blocks(life.tokens)
            life.computed += rows.count
            if life.computed == life.tokens:
                life.tokens += 1
            if life.tokens == life.prompt + life.answer:
                running.remove(life)
                done.append(life)
                free += life.blocks
        assert free >= 0
        assert plan.rows or not running, "nothing moves"
        assert plan.rows or not waiting, "nobody is let in"
        step += 1
        assert step < 200 + 50 * sum(life.prompt + life.answer for life in lives), "it does not end"
    assert free == pool
