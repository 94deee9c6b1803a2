"""Every way in which a program, a weight or a step can be wrong, and what is said of it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from thaloom.base.errors import MalformedFile, NotServable
from thaloom.hal.checks import MemoryWeights, StepChecker, check_program, read_weights
from thaloom.hal.driver import Limits
from thaloom.hal.ops import VERSION, Add, Linear, Pool, Slot, Step
from thaloom.hal.reference import SUPPORT
from thaloom.hal.tensors import Tensor
from thaloom.hal.testing.programs import operator_cases, tiny_model
from thaloom.hal.types import Support

LIMITS = Limits(max_rows=8, max_sequences=2, max_context=40)
NUM_BLOCKS = 5


def i32(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def good(**changes: object) -> Step:
    """Two sequences: a chunk of three rows from position 15, and a decode row at 4."""
    step = Step(
        tokens=i32(1, 2, 3, 4),
        positions=i32(15, 16, 17, 4),
        sequences=i32(0, 0, 0, 1),
        block_tables=np.array([[3, 0, -1], [4, -1, -1]], np.int32),
        outputs=i32(2, 3),
    )
    return dataclasses.replace(step, **changes)


@pytest.fixture
def checker() -> StepChecker:
    return StepChecker(tiny_model(1).program, LIMITS)


def test_a_good_step_passes(checker: StepChecker) -> None:
    checker.check(good(), NUM_BLOCKS)
    checker.check(good(outputs=i32()), NUM_BLOCKS)
    checker.check(good(adapters=i32(-1, -1, -1, -1)), NUM_BLOCKS)


def test_sequences_may_share_blocks_they_only_read(checker: StepChecker) -> None:
    shared = good(positions=i32(16, 17, 18, 16), block_tables=np.array([[3, 0], [3, 1]], np.int32))
    checker.check(shared, NUM_BLOCKS)


@pytest.mark.parametrize(
    ("step", "complaint"),
    [
        (good(tokens=np.array([1, 2, 3, 4], np.int64)), "tokens is int64"),
        (good(positions=i32(15, 16, 17)), "positions has shape"),
        (good(sequences=i32(0, 0, 0, 1, 1)), "sequences has shape"),
        (good(block_tables=i32(3, 0)), "block_tables has shape"),
        (good(adapters=i32(0)), "adapters has shape"),
        (good(outputs=np.zeros((1, 1), np.int32)), "outputs has shape"),
        (good(block_tables=np.zeros((3, 1), np.int32)), "3 sequences"),
        (good(block_tables=np.zeros((2, 4), np.int32)), "4 columns"),
        (good(outputs=np.zeros(9, np.int32)), "9 outputs"),
        (good(tokens=i32(1, 2, 3, 61)), "tokens must be in"),
        (good(tokens=i32(-1, 2, 3, 4)), "tokens must be in"),
        (good(positions=i32(38, 39, 40, 4)), "positions must be in"),
        (good(sequences=i32(0, 0, 0, 2)), "sequences must be in"),
        (good(outputs=i32(4)), "outputs must be in"),
        (good(outputs=i32(-1)), "outputs must be in"),
        (good(adapters=i32(-1, -1, -1, 0)), "adapters names 0"),
        (good(sequences=i32(1, 1, 1, 0)), "must not decrease"),
        (good(positions=i32(15, 16, 18, 4)), "consecutive"),
        (good(positions=i32(17, 16, 15, 4)), "consecutive"),
        (good(block_tables=np.array([[3], [4]], np.int32)), "needs 2 blocks"),
        (good(block_tables=np.array([[3, -1], [4, -1]], np.int32)), "outside the pool"),
        (good(block_tables=np.array([[3, 5], [4, -1]], np.int32)), "outside the pool"),
        (good(positions=i32(3, 4, 5, 4), block_tables=np.array([[4], [4]], np.int32)), "the same place"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_step_is_refused(checker: StepChecker, step: Step, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        checker.check(step, NUM_BLOCKS)


@pytest.mark.parametrize("num_rows", [0, 9])
def test_a_step_of_an_impossible_size_is_refused(checker: StepChecker, num_rows: int) -> None:
    rows = np.arange(num_rows, dtype=np.int32)
    with pytest.raises(ValueError, match=f"{num_rows} rows"):
        checker.check(good(tokens=rows, positions=rows, sequences=0 * rows, outputs=i32()), NUM_BLOCKS)


def test_a_program_without_layers_needs_no_blocks() -> None:
    checker = StepChecker(operator_cases("linear")[0].program, LIMITS)
    checker.check(good(block_tables=np.full((2, 1), -1, np.int32)), 0)


def test_an_adapter_of_the_program_passes() -> None:
    checker = StepChecker(operator_cases("lora")[0].program, LIMITS)
    checker.check(good(adapters=i32(0, 0, 1, -1)), NUM_BLOCKS)
    with pytest.raises(ValueError, match="names 2"):
        checker.check(good(adapters=i32(0, 0, 2, -1)), NUM_BLOCKS)


def test_limits_must_be_positive() -> None:
    with pytest.raises(ValueError, match="positive"):
        Limits(max_rows=0, max_sequences=1, max_context=1)


class TestPrograms:
    def test_unsupported_operator(self) -> None:
        with pytest.raises(NotServable, match="'add'"):
            check_program(tiny_model(0).program, Support(levels={"embedding": "L3"} | _without("add")))

    def test_other_version(self) -> None:
        with pytest.raises(NotServable, match=f"version {VERSION + 1}"):
            check_program(dataclasses.replace(tiny_model(0).program, version=VERSION + 1), SUPPORT)

    def test_no_end(self) -> None:
        program = tiny_model(0).program
        with pytest.raises(ValueError, match="ends with"):
            check_program(dataclasses.replace(program, instructions=program.instructions[:-1]), SUPPORT)
        with pytest.raises(ValueError, match="ends with"):
            check_program(dataclasses.replace(program, instructions=()), SUPPORT)

    def test_end_in_the_middle(self) -> None:
        program = tiny_model(0).program
        first, *rest = program.instructions
        with pytest.raises(ValueError, match="only stand at the end"):
            bad = (first, Pool(out=Slot(1), x=Slot(0)), *rest)
            check_program(dataclasses.replace(program, instructions=bad), SUPPORT)

    def test_instruction_under_another_name(self) -> None:
        class Disguised(Linear):
            op = "add"

        program = tiny_model(0).program
        bad = (Disguised(out=Slot(1), x=Slot(0), weight=next(iter(program.weights))), program.instructions[-1])
        with pytest.raises(ValueError, match="not the operator"):
            check_program(dataclasses.replace(program, instructions=bad), SUPPORT)
        assert Add.op == "add"


class TestWeights:
    def test_missing(self) -> None:
        case = tiny_model(0)
        case.weights.pop("0.q")
        with pytest.raises(MalformedFile, match=r"0\.q"):
            read_weights(case.program, MemoryWeights(case.weights), SUPPORT)

    def test_wrong_shape(self) -> None:
        case = tiny_model(0)
        case.weights["0.q"] = Tensor("f32", np.zeros((1, 2), np.float32))
        with pytest.raises(MalformedFile, match=r"0\.q.*\(1, 2\)"):
            read_weights(case.program, MemoryWeights(case.weights), SUPPORT)

    def test_wrong_dtype(self) -> None:
        case = tiny_model(0)
        case.weights["0.q"] = Tensor("i8", np.zeros(case.weights["0.q"].shape, np.int8))
        with pytest.raises(NotServable, match=r"0\.q.*i8"):
            read_weights(case.program, MemoryWeights(case.weights), SUPPORT)


def _without(operator: str) -> dict[str, str]:
    return {name: level for name, level in SUPPORT.levels.items() if name != operator}
