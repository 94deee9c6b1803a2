"""What goes into one forward pass: a frozen snapshot of an engine in, a plan out.

The rules, in order:

1. Every running sequence that has one token to compute gets its row: decoding never waits for prefill.
2. If those rows need more blocks than are free, the plan is to preempt the youngest running sequence and nothing
   else; the engine frees its blocks and asks again. A preempted sequence keeps its tokens and computes them again.
3. Running sequences with more to compute (prompts) share `chunk_tokens` rows, oldest first.
4. Waiting sequences are admitted strictly in order of arrival, while there is a place in the batch, a row left for
   them, and blocks for *all* tokens they have now. Nobody overtakes, so nobody starves.

Why it ends: running sequences are always older than waiting ones, the oldest is never preempted while another runs,
and alone it fits (the engine refuses at submission what never will). So the oldest goes on in every step.
"""

from __future__ import annotations

from dataclasses import dataclass

from thaloom.hal.ops import BLOCK_TOKENS


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLimits:
    """`max_sequences` in one step, each with at least a row; `chunk_tokens` prefill rows in one step, in all."""

    max_sequences: int
    chunk_tokens: int

    def __post_init__(self) -> None:
        if min(self.max_sequences, self.chunk_tokens) < 1:
            raise ValueError(f"limits must be positive: {self}")

    @property
    def max_rows(self) -> int:
        return self.max_sequences + self.chunk_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A sequence in the batch. `num_computed` of its `num_tokens` tokens lie in its `num_blocks` blocks."""

    id: int
    num_tokens: int
    num_computed: int
    num_blocks: int

    @property
    def pending(self) -> int:
        return self.num_tokens - self.num_computed


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A sequence that is not in the batch. Of its `num_tokens`, `reused_tokens` (whole blocks, never all tokens)
    are in the pool already; `new_blocks` is how many free blocks it takes to admit it, those that are cached
    and would stop being free included."""

    id: int
    num_tokens: int
    reused_tokens: int
    new_blocks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """`running` and `waiting` both oldest first."""

    running: tuple[Running, ...]
    waiting: tuple[Waiting, ...]
    free_blocks: int
    limits: StepLimits


@dataclass(frozen=True, slots=True, kw_only=True)
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


def plan_step(snapshot: Snapshot) -> StepPlan:
    """The next step. An empty plan means that nothing is left to do."""
    decoding = [sequence for sequence in snapshot.running if sequence.pending == 1]
    free = snapshot.free_blocks - sum(_growth(sequence) for sequence in decoding)
    if free < 0 and len(snapshot.running) > 1:
        return StepPlan(preempt=snapshot.running[-1].id)
    rows = [Rows(id=sequence.id, count=1) for sequence in decoding]
    budget = snapshot.limits.chunk_tokens
    for sequence in snapshot.running:
        if sequence.pending > 1 and budget:
            count = min(sequence.pending, budget)
            rows.append(Rows(id=sequence.id, count=count))
            budget -= count
    admit = []
    places = snapshot.limits.max_sequences - len(snapshot.running)
    for arrival in snapshot.waiting[: max(places, 0)]:
        if not budget or arrival.new_blocks > free:
            break
        count = min(arrival.num_tokens - arrival.reused_tokens, budget)
        admit.append(arrival.id)
        rows.append(Rows(id=arrival.id, count=count))
        budget -= count
        free -= arrival.new_blocks
    return StepPlan(admit=tuple(admit), rows=tuple(rows))


def _growth(sequence: Running) -> int:
    """Blocks that are missing for all tokens of a running sequence: 0 or 1 when it decodes."""
    return max(0, -(-sequence.num_tokens // BLOCK_TOKENS) - sequence.num_blocks)
