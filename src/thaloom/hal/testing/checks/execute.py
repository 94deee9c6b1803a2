"""Results: every operator and whole models against the reference, within the contract's tolerance."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np

from thaloom.hal.ops import BLOCK_TOKENS
from thaloom.hal.testing.bench import LIMITS, bench, expect_close, right, sequences_for
from thaloom.hal.testing.programs import arrived_whole, operator_cases, operator_names, tiny_model, whole_number_cases
from thaloom.hal.testing.schedules import chopped, make_step, one_by_one, together
from thaloom.hal.testing.suite import Subject, check, expect
from thaloom.hal.types import DTYPE_BYTES, DType, WeightFormat

NUM_MODELS = 6
MODEL_OPERATORS = ("rmsnorm", "linear", "rope", "paged_attention", "gated", "add", "logits", "embedding")


def _enter_operator(operator: str) -> None:
    @check(f"execute.operator.{operator}", f"operator:{operator}", *_ends(operator))
    def variants_are_right(subject: Subject) -> None:
        _compare_operator(subject, operator, "f32")

    for dtype in ("bf16", "f16"):

        @check(f"execute.operator.{operator}.{dtype}", f"operator:{operator}", f"weights:{dtype}", *_ends(operator))
        def variants_are_right_in_dtype(subject: Subject, dtype: DType = dtype) -> None:
            _compare_operator(subject, operator, dtype)


def _ends(operator: str) -> tuple[str, ...]:
    """Single operators are looked at through `pool`."""
    return () if operator in ("pool", "logits") else ("operator:pool",)


def _compare_operator(subject: Subject, operator: str, dtype: DType) -> None:
    backend = subject.open()
    for case in operator_cases(operator, dtype=dtype):
        sequences = sequences_for(case)
        with bench(backend, case) as made:
            expect_close(case, made.play(sequences, together(sequences)), right(case, sequences))


for _operator in operator_names():
    _enter_operator(_operator)


@check("execute.whole_models")
def whole_models(subject: Subject) -> None:
    backend = subject.open()
    for seed in range(NUM_MODELS):
        case = tiny_model(seed)
        sequences = sequences_for(case, seed)
        with bench(backend, case) as made:
            expect_close(case, made.play(sequences, together(sequences)), right(case, sequences))


@check("execute.whole_models.states")
def states_are_right(subject: Subject) -> None:
    """What logits are made of, where they are asked for instead."""
    backend = subject.open()
    for seed in range(2):
        case = tiny_model(seed)
        sequences = sequences_for(case)
        with bench(backend, case) as made:
            expect_close(
                case, made.play(sequences, together(sequences), states=True), right(case, sequences, states=True)
            )
            expect_close(case, made.play(sequences, together(sequences)), right(case, sequences))


@check("execute.whole_models.bf16_weights", "weights:bf16")
def whole_models_bf16(subject: Subject) -> None:
    case = tiny_model(7, dtype="bf16")
    sequences = sequences_for(case)
    with bench(subject.open(), case) as made:
        expect_close(case, made.play(sequences, together(sequences)), right(case, sequences))


def _enter_store(kv_dtype: DType) -> None:
    @check(f"execute.whole_models.{kv_dtype}_store", f"kv:{kv_dtype}")
    def whole_models_on_the_store(subject: Subject) -> None:
        case = tiny_model(8, kv_dtype=kv_dtype)
        sequences = sequences_for(case)
        with bench(subject.open(), case) as made:
            expect_close(case, made.play(sequences, together(sequences)), right(case, sequences))

    @check(f"execute.attention.{kv_dtype}_store", f"kv:{kv_dtype}", "operator:paged_attention", "operator:pool")
    def attention_is_right_on_the_store(subject: Subject) -> None:
        """Every variant of attention: windows, caps, slopes, values that are the beginning of keys."""
        backend = subject.open()
        for plain in operator_cases("paged_attention"):
            case = dataclasses.replace(plain, kv_dtype=kv_dtype)
            sequences = sequences_for(case)
            with bench(backend, case) as made:
                expect_close(case, made.play(sequences, together(sequences)), right(case, sequences))


_enter_store("bf16")
_enter_store("f16")
_enter_store("i8")


def _enter_format(weight_format: WeightFormat) -> None:
    @check(f"execute.{weight_format}", f"format:{weight_format}", "operator:pool")
    def converted_weights_are_right(subject: Subject) -> None:
        """Floats that the driver makes whole, and matrices that come whole, in every operator that has matrices."""
        backend, support = subject.open(), subject.support()
        models = [tiny_model(seed, weight_format=weight_format) for seed in range(3)]
        for case in [*whole_number_cases(weight_format), *models]:
            if any(step.op not in support.levels for step in case.program.instructions):
                continue
            for arrived in (case, arrived_whole(case)):
                sequences = sequences_for(arrived)
                with bench(backend, arrived) as made:
                    found = made.play(sequences, together(sequences))
                expect_close(arrived, found, right(arrived, sequences))


_enter_format("int8")
_enter_format("int4")


@check("execute.store_dtype_is_kept", "kv:bf16")
def store_dtype_is_kept(subject: Subject) -> None:
    """Blocks of 16 bits take about half of what f32 takes, and blocks of i8 less than those."""
    sizes: dict[DType, int] = {}
    for kv_dtype in sorted(subject.support().kv_dtypes, key=lambda name: -DTYPE_BYTES[name]):
        case = next(case for case in operator_cases("paged_attention") if case.name.endswith("head_64"))
        with bench(subject.open(), dataclasses.replace(case, kv_dtype=kv_dtype)) as made:
            sizes[kv_dtype] = made.executable.block_bytes
    for wider, narrower in pairwise(sizes):
        most = sizes[wider] * (1.0 if DTYPE_BYTES[wider] == DTYPE_BYTES[narrower] else 0.75)
        expect(sizes[narrower] <= most, f"blocks take {sizes} bytes")


@check("execute.chunks_agree")
def chunks_agree(subject: Subject) -> None:
    """Cut into chunks at random, mixed with others, and alone: the same within tolerance, for every driver."""
    backend = subject.open()
    for seed in range(3):
        case = tiny_model(seed)
        sequences = sequences_for(case, seed)
        wanted = right(case, sequences)
        for schedule in (one_by_one(sequences), chopped(sequences, np.random.default_rng(seed))):
            with bench(backend, case) as made:
                expect_close(case, made.play(sequences, schedule), wanted)


@check("execute.only_wanted_rows")
def only_wanted_rows(subject: Subject) -> None:
    """Step.outputs chooses rows, in any order, repeated or none."""
    case = tiny_model(4)
    sequences = sequences_for(case)
    step = make_step(sequences, together(sequences)[0])
    wanted = np.concatenate(right(case, sequences))
    with bench(subject.open(), case) as made:
        for outputs in ([5], [7, 3, 3, 0], []):
            chosen = dataclasses.replace(step, outputs=np.array(outputs, np.int32))
            found = np.array(made.executable.run(chosen))
            expect_close(case, [found], [wanted[outputs].reshape(len(outputs), wanted.shape[1])])


@check("execute.results_are_f32")
def results_are_f32(subject: Subject) -> None:
    case = tiny_model(4)
    sequences = sequences_for(case)
    with bench(subject.open(), case) as made:
        found = made.executable.run(make_step(sequences, together(sequences)[0]))
    expect(found.dtype == np.float32, f"results are {found.dtype}")


@check("execute.step_is_only_read")
def step_is_only_read(subject: Subject) -> None:
    case = tiny_model(4)
    sequences = sequences_for(case)
    step = make_step(sequences, together(sequences)[0])
    names = ("tokens", "positions", "sequences", "block_tables", "outputs", "adapters")
    before = {name: getattr(step, name).copy() for name in names}
    with bench(subject.open(), case) as made:
        made.executable.run(step)
    for name in names:
        expect(np.array_equal(getattr(step, name), before[name]), f"run changes step.{name}")


@check("execute.weights_are_only_read")
def weights_are_only_read(subject: Subject) -> None:
    case = tiny_model(4)
    before = {name: tensor.data.copy() for name, tensor in case.weights.items()}
    sequences = sequences_for(case)
    with bench(subject.open(), case) as made:
        made.play(sequences, together(sequences))
    for name, data in before.items():
        expect(np.array_equal(case.weights[name].data, data), f"weight {name!r} was changed")


@check("execute.largest_step")
def largest_step(subject: Subject) -> None:
    """As many rows as the limits allow, up to the last position of the longest context."""
    case = tiny_model(5)
    sequences = sequences_for(case, lengths=(LIMITS.max_context,))
    expect(len(sequences[0].table) * BLOCK_TOKENS == LIMITS.max_context, "the kit's own limits are not whole blocks")
    cut = LIMITS.max_context - LIMITS.max_rows
    schedule = [[(0, 0, cut)], [(0, cut, LIMITS.max_context)]]
    with bench(subject.open(), case) as made:
        expect_close(case, made.play(sequences, schedule), right(case, sequences))


@check("execute.most_sequences")
def most_sequences(subject: Subject) -> None:
    case = tiny_model(5)
    sequences = sequences_for(case, lengths=(3,) * LIMITS.max_sequences)
    with bench(subject.open(), case) as made:
        expect_close(case, made.play(sequences, together(sequences)), right(case, sequences))


@check("execute.blocks_are_used_again")
def blocks_are_used_again(subject: Subject) -> None:
    """A new sequence on blocks that held another: nothing of the old one shows."""
    case = tiny_model(6)
    old = sequences_for(case, seed=1, lengths=(40, 30))
    new = sequences_for(case, seed=1, lengths=(40, 30))
    for sequence in new:
        sequence.tokens[:] = sequence.tokens[::-1].copy()
    with bench(subject.open(), case) as made:
        made.play(old, together(old))
        expect_close(case, made.play(new, together(new)), right(case, new))
