"""What goes into one forward pass: a frozen snapshot of an engine in, a plan out.

The rules, in order:

1. Every running sequence that has one token to compute gets its row: decoding never waits for prefill.
2. If those rows need more blocks than are free, the plan is to preempt the youngest running sequence and nothing
   else; the engine frees its blocks and asks again. A preempted sequence keeps its tokens and computes them again.
3. Running sequences with more to compute (prompts) share the rows that `chunks` finds right, at most `chunk_tokens`,
   oldest first.
4. Waiting sequences are admitted strictly in the order they stand in (line.py: that of arrival among equals), while
   there is a place in the batch, a row left for them, and blocks for *all* tokens they have now. None is passed over,
   so nobody starves.

Why it ends: running sequences always stand before waiting ones, the first is never preempted while another runs,
and alone it fits (the engine refuses at submission what never will). So the oldest goes on in every step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from thaloom.hal.ops import BLOCK_TOKENS
from thaloom.kernel.sched.chunks import DEFAULT_TARGETS, StepTargets, choose_chunk
from thaloom.kernel.sched.step_times import StepShape, StepTimes

NO_LIMIT = 2**31


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLimits:
    """`max_sequences` in one step, each with at least a row; `chunk_tokens` prefill rows in one step, in all;
    `draft_rows` guessed tokens, in all, which take the place of prefill rows."""

    max_sequences: int
    chunk_tokens: int
    draft_rows: int = 0

    def __post_init__(self) -> None:
        if min(self.max_sequences, self.chunk_tokens) < 1 or self.draft_rows < 0:
            raise ValueError(f"limits must be positive: {self}")

    @property
    def max_rows(self) -> int:
        return self.max_sequences + self.chunk_tokens

    @property
    def max_outputs(self) -> int:
        return self.max_sequences + self.draft_rows


class Running(NamedTuple):
    """A sequence in the batch. `num_computed` of its `num_tokens` tokens lie in its `num_blocks` blocks.

    A tuple, because there is one for each sequence in every step."""

    id: int
    num_tokens: int
    num_computed: int
    num_blocks: int
    most_rows: int = NO_LIMIT
    """In one step."""

    @property
    def pending(self) -> int:
        return self.num_tokens - self.num_computed


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A sequence that is not in the batch. Of its `num_tokens`, `reused_tokens` (whole blocks, never all tokens)
    are in the pool already, or expected there when it is admitted: if fewer come, its rows begin earlier. `new_blocks`
    is how many free blocks it takes to admit it, those that are cached and would stop being free included."""

    id: int
    num_tokens: int
    reused_tokens: int
    new_blocks: int
    most_rows: int = NO_LIMIT
    """In one step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """`running` and `waiting` both oldest first."""

    running: tuple[Running, ...]
    waiting: tuple[Waiting, ...]
    free_blocks: int
    limits: StepLimits
    targets: StepTargets = DEFAULT_TARGETS
    times: StepTimes | None = None
    """What steps take; None while that is not known."""
    pressure: float = 0.0
    """The share of recent steps that left prompts waiting (chunks.next_pressure)."""


@dataclass(frozen=True, slots=True)
class Rows:
    """`count` rows of sequence `id`, from its first token that is not computed on."""

    id: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan:
    """Either `preempt` is set and nothing else, or `rows` (running sequences first, then those in `admit`)."""

    preempt: int | None = None
    admit: tuple[int, ...] = ()
    rows: tuple[Rows, ...] = ()
    left_waiting: bool = False
    """Whether prompts had to wait because there were no more rows for them."""


def plan_step(snapshot: Snapshot) -> StepPlan:
    """The next step. An empty plan means that nothing is left to do."""
    decoding = [sequence for sequence in snapshot.running if sequence.pending == 1]
    free = snapshot.free_blocks - sum(_growth(sequence) for sequence in decoding)
    if free < 0 and len(snapshot.running) > 1:
        return StepPlan(preempt=snapshot.running[-1].id)
    rows = [Rows(sequence.id, 1) for sequence in decoding]
    if len(decoding) == len(snapshot.running) and not snapshot.waiting:
        return StepPlan(rows=tuple(rows))
    budget = _chunk(snapshot, decoding)
    for sequence in snapshot.running:
        if sequence.pending > 1 and budget:
            count = min(sequence.pending, budget, sequence.most_rows)
            rows.append(Rows(sequence.id, count))
            budget -= count
    admit = []
    places = snapshot.limits.max_sequences - len(snapshot.running)
    for arrival in snapshot.waiting[: max(places, 0)]:
        if not budget or arrival.new_blocks > free:
            break
        count = min(arrival.num_tokens - arrival.reused_tokens, budget, arrival.most_rows)
        admit.append(arrival.id)
        rows.append(Rows(arrival.id, count))
        budget -= count
        free -= arrival.new_blocks
    return StepPlan(admit=tuple(admit), rows=tuple(rows), left_waiting=budget == 0)


def _chunk(snapshot: Snapshot, decoding: list[Running]) -> int:
    """Rows for prompts in this step. Those of the one that stands first decide how deep the attention goes."""
    first = next((sequence.num_computed for sequence in snapshot.running if sequence.pending > 1), None)
    if first is None:
        first = snapshot.waiting[0].reused_tokens if snapshot.waiting else 0
    return choose_chunk(
        StepShape(len(decoding), len(decoding), sum(sequence.num_tokens for sequence in decoding)),
        first,
        snapshot.limits.chunk_tokens,
        times=snapshot.times,
        targets=snapshot.targets,
        pressure=snapshot.pressure,
    )


def _growth(sequence: Running) -> int:
    """Blocks that are missing for all tokens of a running sequence: 0 or 1 when it decodes."""
    return max(0, -(-sequence.num_tokens // BLOCK_TOKENS) - sequence.num_blocks)
