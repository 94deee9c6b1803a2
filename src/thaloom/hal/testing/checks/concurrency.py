"""Several programs and threads on one device: nobody sees another's numbers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from thaloom.hal.driver import Backend
from thaloom.hal.testing.bench import bench, expect_close, right, sequences_for
from thaloom.hal.testing.programs import tiny_model
from thaloom.hal.testing.schedules import together
from thaloom.hal.testing.suite import Subject, check

NUM_THREADS = 6
NUM_RUNS = 12
DEADLINE_S = 60.0


@check("concurrency.two_programs_take_turns")
def two_programs_take_turns(subject: Subject) -> None:
    backend = subject.open()
    first, second = tiny_model(1), tiny_model(2)
    a, b = sequences_for(first, 1), sequences_for(second, 2)
    with bench(backend, first) as one, bench(backend, second) as two:
        found_a, found_b = [], []
        one.play(a, [[(index, 0, 1) for index in range(len(a))]])
        two.play(b, [[(index, 0, 1) for index in range(len(b))]])
        found_a, found_b = one.play(a, together(a)), two.play(b, together(b))
        expect_close(first, found_a, right(first, a))
        expect_close(second, found_b, right(second, b))


@check("concurrency.many_threads")
def many_threads(subject: Subject) -> None:
    """Each with an executable of its own, all at once, again and again."""
    backend = subject.open()
    _in_threads(lambda number: _run_again_and_again(backend, number))


@check("concurrency.a_backend_each")
def a_backend_each(subject: Subject) -> None:
    _in_threads(lambda number: _run_again_and_again(subject.open(2), number))


@check("concurrency.made_in_one_thread_run_in_another")
def made_in_one_thread_run_in_another(subject: Subject) -> None:
    case = tiny_model(3)
    sequences = sequences_for(case)
    with bench(subject.open(), case) as made, ThreadPoolExecutor(1) as pool:
        found = pool.submit(made.play, sequences, together(sequences)).result(DEADLINE_S)
    expect_close(case, found, right(case, sequences))


def _in_threads(work: object) -> None:
    assert callable(work)
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        for future in [pool.submit(work, number) for number in range(NUM_THREADS)]:
            future.result(DEADLINE_S)


def _run_again_and_again(backend: Backend, number: int) -> None:
    case = tiny_model(number)
    sequences = sequences_for(case, number)
    wanted = right(case, sequences)
    with bench(backend, case) as made:
        for _ in range(NUM_RUNS):
            expect_close(case, made.play(sequences, together(sequences)), wanted)
