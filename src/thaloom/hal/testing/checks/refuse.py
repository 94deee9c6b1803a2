"""What cannot be run is refused, with the right error, before anything is changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import get_args

import numpy as np

from thaloom.base.errors import MalformedFile, NotServable
from thaloom.hal.checks import MemoryWeights
from thaloom.hal.driver import Limits
from thaloom.hal.ops import VERSION, Program, Sample, Slot, Step
from thaloom.hal.tensors import Tensor
from thaloom.hal.testing.bench import LIMITS, NUM_BLOCKS, bench, expect_close, right, sequences_for
from thaloom.hal.testing.programs import VOCAB_SIZE, Case, arrived_whole, operator_cases, tiny_model
from thaloom.hal.testing.schedules import make_step, together
from thaloom.hal.testing.suite import Nonconforming, Subject, check
from thaloom.hal.types import DTYPE_BYTES, WeightFormat


def _expect_refusal(subject: Subject, case: Case, program: Program, error: type[Exception], what: str) -> None:
    try:
        subject.open().compile(program, MemoryWeights(case.weights), LIMITS).close()
    except error:
        return
    raise Nonconforming(f"{what} gives no {error.__name__}")


@check("refuse.unknown_operator")
def unknown_operator(subject: Subject) -> None:
    """An operator that is not claimed; where all are, `sample`, or else one of a later contract."""
    case = tiny_model(0)
    program = case.program
    if "sample" in subject.support().levels:
        _expect_refusal(subject, case, dataclasses.replace(program, version=VERSION + 1), NotServable, "a new version")
        return
    last = Slot(len(program.widths))
    sampled = dataclasses.replace(
        program,
        instructions=(*program.instructions, Sample(out=last, x=program.instructions[-1].out)),
        widths=(*program.widths, 1),
    )
    _expect_refusal(subject, case, sampled, NotServable, "an operator that is not supported")


@check("refuse.other_version")
def other_version(subject: Subject) -> None:
    case = tiny_model(0)
    later = dataclasses.replace(case.program, version=VERSION + 1)
    _expect_refusal(subject, case, later, NotServable, "a program in a later version of the operators")


@check("refuse.missing_weight")
def missing_weight(subject: Subject) -> None:
    case = tiny_model(0)
    case.weights.pop(sorted(case.weights)[-1])
    _expect_refusal(subject, case, case.program, MalformedFile, "a missing weight")


@check("refuse.weight_of_wrong_shape")
def weight_of_wrong_shape(subject: Subject) -> None:
    case = tiny_model(0)
    name = "0.q"
    case.weights[name] = Tensor("f32", np.ascontiguousarray(case.weights[name].to_f32().T[1:]))
    _expect_refusal(subject, case, case.program, MalformedFile, "a weight of the wrong shape")


@check("refuse.unclaimed_weight_dtype")
def unclaimed_weight_dtype(subject: Subject) -> None:
    unclaimed = sorted(set(DTYPE_BYTES) - subject.support().weight_dtypes)
    stored = {"f32": np.float32, "f16": np.float16, "bf16": np.uint16, "i8": np.int8, "i32": np.int32}
    for dtype in unclaimed:
        case = tiny_model(0)
        shape = case.weights["0.q"].shape
        case.weights["0.q"] = Tensor(dtype, np.zeros(shape, stored[dtype]))
        _expect_refusal(subject, case, case.program, NotServable, f"a weight in {dtype}")


@check("refuse.unclaimed_store_dtype")
def unclaimed_store_dtype(subject: Subject) -> None:
    case = tiny_model(0)
    for dtype in sorted(set(DTYPE_BYTES) - subject.support().kv_dtypes):
        limits = Limits(max_rows=8, max_sequences=2, max_context=32, kv_dtype=dtype)
        try:
            subject.open().compile(case.program, MemoryWeights(case.weights), limits).close()
        except (NotServable, ValueError):
            continue
        raise Nonconforming(f"keys and values in {dtype} are taken without a claim")


@check("refuse.unclaimed_weight_format")
def unclaimed_weight_format(subject: Subject) -> None:
    """Neither made of floats nor taken as it comes."""
    for weight_format in sorted(set(get_args(WeightFormat)) - subject.support().weight_formats):
        case = tiny_model(0, weight_format=weight_format)
        limits = dataclasses.replace(LIMITS, weight_format=weight_format)
        try:
            subject.open().compile(case.program, MemoryWeights(case.weights), limits).close()
        except NotServable:
            whole = arrived_whole(case)
            _expect_refusal(subject, whole, whole.program, NotServable, f"a weight that comes in {weight_format}")
            continue
        raise Nonconforming(f"weights are made {weight_format} without a claim")


def _i32(*values: int) -> np.typing.NDArray[np.int32]:
    return np.array(values, np.int32)


BAD_STEPS: dict[str, Callable[[Step], Step]] = {
    "a token outside the vocabulary": lambda s: _with(s, "tokens", 0, VOCAB_SIZE),
    "a negative token": lambda s: _with(s, "tokens", 0, -1),
    "a position beyond max_context": lambda s: dataclasses.replace(s, positions=s.positions + LIMITS.max_context),
    "a negative position": lambda s: dataclasses.replace(s, positions=s.positions - 1),
    "positions with a hole": lambda s: _with(s, "positions", 2, 7),
    "a block outside the pool": lambda s: dataclasses.replace(s, block_tables=s.block_tables + NUM_BLOCKS),
    "a missing block": lambda s: dataclasses.replace(s, block_tables=np.full_like(s.block_tables, -1)),
    "a sequence without a table": lambda s: dataclasses.replace(s, sequences=s.sequences + 50),
    "sequences out of order": lambda s: dataclasses.replace(s, sequences=s.sequences[::-1].copy()),
    "an output that is no row": lambda s: dataclasses.replace(s, outputs=_i32(s.num_rows)),
    "no rows": lambda s: Step(
        tokens=_i32(), positions=_i32(), sequences=_i32(), block_tables=s.block_tables, outputs=_i32()
    ),
    "too many rows": lambda s: _too_many_rows(s),
    "arrays of different lengths": lambda s: dataclasses.replace(s, positions=s.positions[:-1]),
    "two sequences on the same blocks": lambda s: dataclasses.replace(
        s, block_tables=np.repeat(s.block_tables[-1:], len(s.block_tables), axis=0)
    ),
}


def _with(step: Step, name: str, index: int, value: int) -> Step:
    array = getattr(step, name).copy()
    array[index] = value
    return dataclasses.replace(step, **{name: array})


def _too_many_rows(step: Step) -> Step:
    count = LIMITS.max_rows + 1
    return dataclasses.replace(
        step,
        tokens=np.zeros(count, np.int32),
        positions=np.arange(count, dtype=np.int32),
        sequences=np.zeros(count, np.int32),
        block_tables=np.arange(8, dtype=np.int32)[None],
        outputs=_i32(0),
        adapters=None,
    )


@check("refuse.bad_steps")
def bad_steps(subject: Subject) -> None:
    """Each with ValueError, and the sequences that were there go on as if nothing had been asked."""
    case = tiny_model(2)
    sequences = sequences_for(case, lengths=(20, 33))
    wanted = right(case, sequences)
    with bench(subject.open(), case) as made:
        made.play(sequences, [[(0, 0, 10), (1, 0, 30)]])
        good = make_step(sequences, [(0, 10, 20), (1, 30, 33)])
        whole = make_step(sequences, together(sequences)[0])
        for what, spoil in BAD_STEPS.items():
            source = whole if what in ("a negative position", "two sequences on the same blocks") else good
            try:
                made.executable.run(spoil(source))
            except ValueError:
                continue
            raise Nonconforming(f"{what} is not refused with ValueError")
        found = np.array(made.executable.run(good))
    expect_close(case, [found], [np.concatenate([wanted[0][10:], wanted[1][30:]])])


@check("refuse.unknown_adapter", "operator:lora", "operator:pool")
def unknown_adapter(subject: Subject) -> None:
    case = operator_cases("lora")[0]
    sequences = sequences_for(case)
    step = make_step(sequences, together(sequences)[0])
    with bench(subject.open(), case) as made:
        try:
            made.executable.run(dataclasses.replace(step, adapters=np.full(step.num_rows, 9, np.int32)))
        except ValueError:
            return
    raise Nonconforming("an adapter the program does not have is taken")


@check("refuse.running_after_close")
def running_after_close(subject: Subject) -> None:
    case, backend = tiny_model(1), subject.open()
    executable = backend.compile(case.program, MemoryWeights(case.weights), LIMITS)
    sequences = sequences_for(case)
    executable.close()
    try:
        executable.run(make_step(sequences, together(sequences)[0]))
    except ValueError:
        return
    raise Nonconforming("a closed executable runs")
