"""What each instruction costs, known before it runs: operations, and the fewest bytes it must move.

Divide by a device's measured ceilings and the larger of the two quotients is a floor under the time of a step: what
benchmarks compare with, and what placement starts from. Fewest bytes means weights once and keys and values once;
activations count nothing, for they may stay on the chip.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from thaloom.hal.ops import (
    Add,
    Embedding,
    Gated,
    Instruction,
    Linear,
    Logits,
    Lora,
    Moe,
    PagedAttention,
    Pool,
    Program,
    RmsNorm,
    Rope,
    Weight,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Rows of one sequence in a step: `num_rows` of them, the last at position `length` - 1."""

    num_rows: int
    length: int

    def __post_init__(self) -> None:
        if not 0 < self.num_rows <= self.length:
            raise ValueError(f"{self.num_rows} rows cannot end a sequence of {self.length}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a step holds, as far as its cost goes. Value sizes in bytes: 4 for f32, 2 for bf16 ..."""

    runs: tuple[Run, ...]
    num_outputs: int
    weight_value_bytes: float = 4.0
    kv_value_bytes: float = 4.0

    @property
    def num_rows(self) -> int:
        return sum(run.num_rows for run in self.runs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Floating-point operations (a multiply-add is two), and the fewest bytes moved."""

    num_operations: float
    num_bytes: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            num_operations=self.num_operations + other.num_operations, num_bytes=self.num_bytes + other.num_bytes
        )

    def floor_s(self, *, operations_per_s: float, bytes_per_s: float) -> float:
        """The shortest time a device with these ceilings can take."""
        return max(self.num_operations / operations_per_s, self.num_bytes / bytes_per_s)


NOTHING = Cost(num_operations=0, num_bytes=0)


def step_cost(program: Program, load: Load) -> Cost:
    """The whole program for one step. A weight that several instructions read is counted for each."""
    return sum((instruction_cost(program, step, load) for step in program.instructions), NOTHING)


def instruction_cost(program: Program, instruction: Instruction, load: Load) -> Cost:
    """One instruction. Raises KeyError for one that is not costed (`sample`, which the host does)."""
    operations, values = _COSTS[type(instruction)](program, instruction, load)
    kv_bytes = _kv_values(instruction, load) * load.kv_value_bytes if isinstance(instruction, PagedAttention) else 0.0
    return Cost(num_operations=operations, num_bytes=values * load.weight_value_bytes + kv_bytes)


def attended(run: Run, *, causal: bool, window: int) -> int:
    """Pairs of a row and a position it sees, over the rows of one sequence."""
    positions = range(run.length - run.num_rows, run.length)
    ends = [position + 1 if causal else run.length for position in positions]
    starts = [max(0, position + 1 - window) if window else 0 for position in positions]
    return sum(ends) - sum(starts)


def _kv_values(op: PagedAttention, load: Load) -> int:
    """Numbers of the store that are read or written: each position that any row of its sequence sees, once."""
    stored = op.num_kv_heads * (op.head_size + (0 if op.value_is_key_prefix else op.value_size))
    reach = [run.length if not op.window else min(run.length, run.num_rows + op.window - 1) for run in load.runs]
    return stored * (sum(reach) + load.num_rows)


def _attention(_program: Program, op: PagedAttention, load: Load) -> tuple[float, float]:
    pairs = sum(attended(run, causal=op.causal, window=op.window) for run in load.runs)
    return pairs * op.num_heads * (2 * op.head_size + 2 * op.value_size + 4), 0


def _moe(program: Program, op: Moe, load: Load) -> tuple[float, float]:
    """At best the rows agree on top_k experts; at worst every choice is another: the fewest bytes take the best."""
    experts, mlp_size, width = program.weights[op.gate]
    operations = load.num_rows * (2 * experts * width + op.top_k * (6 * mlp_size * width + 5 * mlp_size))
    return operations, experts * width + min(op.top_k, experts) * 3 * mlp_size * width


def _lora(program: Program, op: Lora, load: Load) -> tuple[float, float]:
    values = _size(program, op.a, op.b)
    return load.num_rows * 2 * values, values


def _matrix(program: Program, weights: Sequence[Weight], num_rows: int) -> tuple[float, float]:
    values = _size(program, *weights)
    return num_rows * 2 * values, values


def _per_value(operations: int) -> Callable[[Program, Instruction, Load], tuple[float, float]]:
    """So many operations for each number of the result, and nothing that must be read."""
    return lambda program, op, load: (operations * load.num_rows * program.widths[op.out], 0)


def _size(program: Program, *names: Weight) -> int:
    return sum(math.prod(program.weights[name]) for name in names)


_COSTS: dict[type[Instruction], Callable[..., tuple[float, float]]] = {
    Embedding: lambda program, op, load: (
        load.num_rows * program.widths[op.out],
        load.num_rows * program.widths[op.out],
    ),
    RmsNorm: lambda program, op, load: (4 * load.num_rows * program.widths[op.out], _size(program, op.weight)),
    Linear: lambda program, op, load: _matrix(
        program, [op.weight] if op.bias is None else [op.weight, op.bias], load.num_rows
    ),
    Rope: _per_value(3),
    PagedAttention: _attention,
    Gated: _per_value(5),
    Add: _per_value(1),
    Moe: _moe,
    Lora: _lora,
    Pool: lambda program, op, load: (3 * load.num_outputs * program.widths[op.out], 0),
    Logits: lambda program, op, load: _matrix(program, [op.weight], load.num_outputs),
}
