"""Tokens: a driver that chooses them itself chooses those of the definition, to the last one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from thaloom.hal.draws import EDIT, MAX_FURTHER, Draw, Drawn, Edits, draw
from thaloom.hal.driver import Executable, SamplesNatively
from thaloom.hal.tensors import Tensor
from thaloom.hal.testing.bench import bench, sequences_for
from thaloom.hal.testing.programs import VOCAB_SIZE, Case, tiny_model
from thaloom.hal.testing.schedules import make_step, together
from thaloom.hal.testing.suite import Nonconforming, Subject, check, expect

NUM_ROUNDS = 12


@check("draws.are_those_of_the_definition", "draws")
def are_those_of_the_definition(subject: Subject) -> None:
    for seed in range(3):
        case = tiny_model(seed)
        rng = np.random.default_rng(seed)
        with bench(subject.open(num_threads=2), case) as made:
            rows = _run(made.executable, case)
            for _ in range(NUM_ROUNDS):
                wishes = [_random_wish(rng) for _ in rows]
                _compare(_draw(made.executable, wishes), rows, wishes)


@check("draws.greedy_takes_the_lower_id_on_a_tie", "draws")
def greedy_takes_the_lower_id_on_a_tie(subject: Subject) -> None:
    """Weights of zeros: every logit is the same."""
    case = tiny_model(1)
    zeros = {str(name): Tensor("f32", np.zeros(shape, np.float32)) for name, shape in case.program.weights.items()}
    still = Case(name=case.name, program=case.program, weights={**zeros}, kv_dtype=case.kv_dtype)
    with bench(subject.open(), still) as made:
        rows = _run(made.executable, still)
        expect(all(found.token == 0 for found in _draw(made.executable, [Draw()] * len(rows))), "a tie not to id 0")


@check("draws.of_a_greedy_step", "draws")
def of_a_greedy_step(subject: Subject) -> None:
    """The tokens of the logits that were not kept; and nothing but tokens."""
    for seed in range(3):
        case = tiny_model(seed)
        with bench(subject.open(num_threads=2), case) as made:
            rows = _run(made.executable, case)
            _run(made.executable, case, greedy=True)
            _compare(_draw(made.executable, [Draw()] * len(rows)), rows, [Draw()] * len(rows))
            for wish in (Draw(num_top=1), Draw(allowed=np.zeros((VOCAB_SIZE + 31) // 32, np.uint32))):
                try:
                    found = _draw(made.executable, [wish] * len(rows))
                except ValueError:
                    continue
                _compare(found, rows, [wish] * len(rows))  # whoever keeps logits all the same may draw from them


@check("draws.as_many_as_rows", "draws")
def as_many_as_rows(subject: Subject) -> None:
    case = tiny_model(1)
    with bench(subject.open(), case) as made:
        rows = _run(made.executable, case)
        for count in (0, len(rows) - 1, len(rows) + 1):
            try:
                _draw(made.executable, [Draw()] * count)
            except ValueError:
                continue
            raise Nonconforming(f"{count} draws from {len(rows)} rows are not refused")


@check("draws.again", "draws")
def again(subject: Subject) -> None:
    case = tiny_model(1)
    rng = np.random.default_rng(19)
    with bench(subject.open(), case) as made:
        executable = made.executable
        rows = _run(executable, case)
        _draw(executable, [Draw()] * len(rows))
        if not isinstance(executable, SamplesNatively):
            raise Nonconforming("only some executables choose tokens")
        for count in range(len(rows) + 1):
            some = rng.permutation(len(rows))[:count]
            wishes = [_random_wish(rng) for _ in some]
            _compare(executable.redraw(some.tolist(), wishes), rows[some], wishes)
        for odd, count in (([-1], 1), ([0, len(rows)], 2), ([0], 0), ([0], 2)):
            try:
                executable.redraw(odd, [Draw()] * count)
            except ValueError:
                continue
            raise Nonconforming(f"{count} draws from rows {odd} of {len(rows)} are not refused")


def _run(executable: Executable, case: Case, *, greedy: bool = False) -> NDArray[np.float32]:
    """The logits of one step, (num_rows, V)."""
    sequences = sequences_for(case)
    step = make_step(sequences, together(sequences)[0])
    return np.array(executable.run(dataclasses.replace(step, greedy=greedy)))


def _draw(executable: Executable, wishes: list[Draw]) -> Sequence[Drawn]:
    if not isinstance(executable, SamplesNatively):
        raise Nonconforming("only some executables choose tokens")
    return executable.draw(wishes)


def _random_wish(rng: np.random.Generator) -> Draw:
    return Draw(
        temperature=float(rng.choice([0.0, 0.01, 0.7, 1.0, 3.0])),
        top_k=int(rng.choice([0, 0, 1, 5, VOCAB_SIZE, 1000])),
        top_p=float(rng.choice([1.0, 1.0, 0.1, 0.9, 0.999])),
        min_p=float(rng.choice([0.0, 0.0, 0.05, 1.0])),
        uniform=float(rng.random()),
        further=tuple(rng.random(int(rng.integers(MAX_FURTHER + 1)))),
        num_top=[None, 0, 3, 1000][int(rng.integers(4))],
        report=(1, 0)[: int(rng.integers(3))],
        edits=_random_edits(rng) if rng.integers(2) else None,
        allowed=rng.integers(0, 2**32, (VOCAB_SIZE + 31) // 32, np.uint32) if rng.integers(2) else None,
    )


def _random_edits(rng: np.random.Generator) -> Edits:
    edits = np.zeros(4, EDIT)
    edits["token"] = rng.integers(0, VOCAB_SIZE, 4)
    edits["scale"] = rng.choice([1.0, 1.3, 0.5], 4)
    edits["add"] = rng.choice([0.0, -100.0, 2.0], 4)
    return edits


def _compare(found: Sequence[Drawn], rows: NDArray[np.float32], wishes: list[Draw]) -> None:
    for row, wish, drawn in zip(rows, wishes, found, strict=True):
        wanted = draw(row, wish)
        expect(drawn == wanted, f"{wish} gives {drawn}, not {wanted}")
