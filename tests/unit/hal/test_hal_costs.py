"""Costs against counts by hand, and laws they must keep."""

from __future__ import annotations

import pytest

from thaloom.hal.costs import Cost, Load, Run, attended, instruction_cost, step_cost
from thaloom.hal.ops import OPERATORS, ProgramBuilder, Sample, Slot
from thaloom.hal.testing.programs import operator_cases, operator_names, tiny_model


def decode(*lengths: int) -> Load:
    return Load(runs=tuple(Run(num_rows=1, length=length) for length in lengths), num_outputs=len(lengths))


def linear_program() -> ProgramBuilder:
    builder = ProgramBuilder()
    x = builder.embedding("table", vocab_size=10, width=8)
    builder.logits(builder.linear(x, "w", width=6), "head", vocab_size=10)
    return builder


def test_a_matrix_is_read_once_and_multiplied_for_each_row() -> None:
    program = linear_program().build()
    load = Load(runs=(Run(num_rows=5, length=9),), num_outputs=1, weight_value_bytes=2.0)
    assert instruction_cost(program, program.instructions[1], load) == Cost(num_operations=5 * 2 * 48, num_bytes=96)
    assert instruction_cost(program, program.instructions[2], load) == Cost(num_operations=2 * 60, num_bytes=120)
    assert step_cost(program, load).num_bytes == 96 + 120 + 5 * 8 * 2


def test_attention_reads_the_context_once_for_all_rows_of_a_sequence() -> None:
    builder = ProgramBuilder()
    x = builder.embedding("table", vocab_size=10, width=8)
    builder.pool(builder.paged_attention(x, x, x, num_heads=2, num_kv_heads=2, head_size=4))
    program = builder.build()
    load = Load(runs=(Run(num_rows=3, length=10),), num_outputs=1)
    cost = instruction_cost(program, program.instructions[1], load)
    assert cost.num_bytes == 4 * 16 * (10 + 3)
    assert cost.num_operations == (8 + 9 + 10) * 2 * (8 + 8 + 4)


@pytest.mark.parametrize(
    ("run", "causal", "window", "pairs"),
    [
        (Run(num_rows=3, length=3), True, 0, 6),
        (Run(num_rows=3, length=3), False, 0, 9),
        (Run(num_rows=1, length=100), True, 0, 100),
        (Run(num_rows=1, length=100), True, 7, 7),
        (Run(num_rows=3, length=4), True, 2, 6),
        (Run(num_rows=2, length=4), False, 2, 5),
    ],
)
def test_pairs_are_those_the_contract_lets_see(run: Run, causal: bool, window: int, pairs: int) -> None:
    assert attended(run, causal=causal, window=window) == pairs


def test_every_operator_but_sample_has_a_cost() -> None:
    load = decode(5, 9)
    for operator in operator_names():
        for case in operator_cases(operator):
            cost = step_cost(case.program, load)
            assert cost.num_operations > 0
            assert cost.num_bytes > 0
    assert set(operator_names()) == set(OPERATORS) - {"sample"}
    with pytest.raises(KeyError):
        instruction_cost(linear_program().build(), Sample(out=Slot(9), x=Slot(0)), load)


def test_together_is_never_dearer_than_apart() -> None:
    program = tiny_model(3).program
    together = step_cost(program, decode(20, 30))
    apart = step_cost(program, decode(20)) + step_cost(program, decode(30))
    assert together.num_operations == apart.num_operations
    assert together.num_bytes < apart.num_bytes


def test_floor_is_the_slower_of_the_two() -> None:
    cost = Cost(num_operations=100, num_bytes=10)
    assert cost.floor_s(operations_per_s=50, bytes_per_s=100) == 2.0
    assert cost.floor_s(operations_per_s=1000, bytes_per_s=1) == 10.0


@pytest.mark.parametrize(("num_rows", "length"), [(0, 3), (4, 3)])
def test_impossible_runs_are_refused(num_rows: int, length: int) -> None:
    with pytest.raises(ValueError):
        Run(num_rows=num_rows, length=length)
