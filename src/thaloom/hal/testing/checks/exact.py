"""For drivers that claim `exact`: a row's result is the same to the last bit whatever else runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from thaloom.hal.testing.bench import LIMITS, NUM_BLOCKS, bench, expect_same, sequences_for
from thaloom.hal.testing.programs import (
    Case,
    arrived_whole,
    operator_cases,
    operator_names,
    tiny_model,
    whole_number_cases,
)
from thaloom.hal.testing.schedules import Schedule, TokenSequence, chopped, moved, one_by_one, together
from thaloom.hal.testing.suite import Subject, check


def _cases(subject: Subject) -> Iterator[Case]:
    """Every variant of every operator the driver claims, and some models."""
    levels = subject.support().levels
    for operator in operator_names():
        if operator in levels and "pool" in levels:
            yield from operator_cases(operator)
    for seed in range(4):
        yield tiny_model(seed)
    for kv_dtype in sorted(subject.support().kv_dtypes - {"f32"}):
        yield tiny_model(5, kv_dtype=kv_dtype)
        if {"paged_attention", "pool"} <= levels.keys():
            yield from (dataclasses.replace(case, kv_dtype=kv_dtype) for case in operator_cases("paged_attention"))
    for weight_format in sorted(subject.support().weight_formats - {"stored"}):
        for case in (*whole_number_cases(weight_format), tiny_model(4, weight_format=weight_format)):
            if all(step.op in levels for step in case.program.instructions):
                yield case
                yield arrived_whole(case)


@check("exact.rows_independent", "exact")
def rows_independent(subject: Subject) -> None:
    """Alone, and beside the others."""
    backend = subject.open()
    for case in _cases(subject):
        sequences = sequences_for(case)
        with bench(backend, case) as made:
            wanted = made.play(sequences, together(sequences))
            expect_same(case, made.play(sequences, one_by_one(sequences)), wanted, "the other rows of the step")


@check("exact.order_of_sequences", "exact")
def order_of_sequences(subject: Subject) -> None:
    backend = subject.open()
    for case in _cases(subject):
        sequences = sequences_for(case)
        with bench(backend, case) as made:
            wanted = made.play(sequences, together(sequences))
            turned = sequences[::-1]
            found = made.play(turned, together(turned))
            expect_same(case, found[::-1], wanted, "where its rows stand in the step")


@check("exact.chunking", "exact")
def chunking(subject: Subject) -> None:
    backend = subject.open()
    for case in _cases(subject):
        if case.cuttable:
            sequences = sequences_for(case)
            with bench(backend, case) as made:
                wanted = made.play(sequences, together(sequences))
                for seed in range(3):
                    schedule = chopped(sequences, np.random.default_rng(seed))
                    expect_same(case, made.play(sequences, schedule), wanted, "how it was cut into chunks")


@check("exact.block_placement", "exact")
def block_placement(subject: Subject) -> None:
    backend = subject.open()
    for case in _cases(subject):
        sequences = sequences_for(case)
        with bench(backend, case) as made:
            wanted = made.play(sequences, together(sequences))
            elsewhere = moved(sequences, np.random.default_rng(5), NUM_BLOCKS)
            expect_same(case, made.play(elsewhere, together(elsewhere)), wanted, "which blocks it lies on")


@check("exact.threads", "exact")
def threads(subject: Subject) -> None:
    one, two, three = (subject.open(num_threads) for num_threads in (1, 2, 3))
    for case in _cases(subject):
        sequences = sequences_for(case)
        with bench(one, case) as made:
            wanted = made.play(sequences, together(sequences))
        for backend in (two, three):
            with bench(backend, case) as made:
                expect_same(case, made.play(sequences, together(sequences)), wanted, "the number of threads")


@check("exact.repeated", "exact")
def repeated(subject: Subject) -> None:
    case = tiny_model(2)
    sequences = sequences_for(case)
    with bench(subject.open(), case) as made:
        wanted = made.play(sequences, together(sequences))
        for _ in range(20):
            expect_same(case, made.play(sequences, together(sequences)), wanted, "chance")


@check("exact.shared_prefix", "exact")
def shared_prefix(subject: Subject) -> None:
    """Two sequences that share their first two blocks get what each would get alone."""
    backend = subject.open()
    for seed in range(3):
        case = tiny_model(seed)
        first, second = sequences_for(case, lengths=(40, 45))
        second.tokens[:32] = first.tokens[:32]
        alone = [first, second]
        with bench(backend, case) as made:
            wanted = made.play(alone, one_by_one(alone))
        table = np.concatenate([first.table[:2], second.table[2:]])
        sharing = [first, TokenSequence(tokens=second.tokens, table=table)]
        with bench(backend, case) as made:
            made.play(sharing, [[(0, 0, 40)]])
            found = made.play(sharing, [[(1, 32, 45)]])
        expect_same(case, [found[1]], [wanted[1][32:]], "whose work its prefix was")


@check("exact.long_contexts", "exact")
def long_contexts(subject: Subject) -> None:
    """Over many blocks, where a driver may split the work of one row."""
    backend = subject.open(2)
    cases = [case for case in operator_cases("paged_attention") if case.cuttable] if _has_attention(subject) else []
    for case in [*cases, tiny_model(11), tiny_model(12)]:
        sequences = sequences_for(case, lengths=(LIMITS.max_context, 100, 97))
        with bench(backend, case) as made:
            wanted = made.play(sequences, chopped(sequences, np.random.default_rng(1), largest=32))
            for schedule in (chopped(sequences, np.random.default_rng(2), largest=20), _row_by_row(sequences)):
                expect_same(case, made.play(sequences, schedule), wanted, "how its long context was reached")


def _has_attention(subject: Subject) -> bool:
    return {"paged_attention", "pool"} <= set(subject.support().levels)


def _row_by_row(sequences: list[TokenSequence]) -> Schedule:
    """A prefill of 60 rows of the first, then everything row by row."""
    first, *others = (list(range(len(sequence))) for sequence in sequences)
    schedule: Schedule = [[(0, 0, 60)]]
    for position in range(len(first)):
        step = [(0, position, position + 1)] if position >= 60 else []
        step += [(index, position, position + 1) for index, rows in enumerate(others, 1) if position < len(rows)]
        schedule.append(step)
    return schedule
