from __future__ import annotations

import pytest

from thaloom.kernel.sched.chunks import StepTargets, choose_chunk, next_pressure
from thaloom.kernel.sched.step_times import NO_ROWS, StepShape, StepTimes

LINE = StepTimes(10e-3, 0.4e-3, 0.0, 0.0)
"""10 ms for a step, 0.4 ms for a row."""
FOUR = StepShape(4, 4, 400)
LOOSE = StepTargets(stretch=2.0, token_s=0.0, least_rows=8, keep_throughput=0.9)


def chunk(
    decoding: StepShape = FOUR,
    *,
    depth: int = 0,
    most_rows: int = 512,
    times: StepTimes | None = LINE,
    targets: StepTargets = LOOSE,
    pressure: float = 0.0,
) -> int:
    return choose_chunk(decoding, depth, most_rows, times=times, targets=targets, pressure=pressure)


def test_as_much_as_there_may_be_when_nobody_decodes() -> None:
    assert chunk(NO_ROWS) == chunk(NO_ROWS, times=None) == 512


def test_a_step_is_stretched_as_far_as_the_target_says() -> None:
    found = chunk()
    assert LINE.seconds(StepShape(4 + found, 4, 0)) <= 2 * LINE.seconds(FOUR) * 1.0001
    assert LINE.seconds(StepShape(5 + found, 4, 0)) > 2 * LINE.seconds(FOUR)


def test_or_as_long_as_a_token_may_take_if_that_is_longer() -> None:
    assert chunk(targets=StepTargets(token_s=0.1)) == (100 - 10) / 0.4 - 4


def test_rows_that_are_nearly_free_are_taken_whatever_the_target() -> None:
    waits_for_memory = StepTimes(10e-3, 1e-6, 0.0, 0.0)
    assert chunk(times=waits_for_memory, targets=StepTargets(stretch=1.0, token_s=0.0)) == 512


def test_never_fewer_than_the_least_nor_more_than_the_most() -> None:
    slow = StepTimes(1.0, 1.0, 0.0, 0.0)
    assert chunk(times=slow, targets=StepTargets(stretch=1.0, least_rows=8)) == 8
    assert chunk(times=slow, targets=StepTargets(stretch=1.0, least_rows=8), most_rows=5) == 5


def test_prompts_that_are_always_waiting_get_what_throughput_needs() -> None:
    full = (4 + 512) / LINE.seconds(StepShape(516, 4, 0))
    found = chunk(pressure=1.0)
    assert (4 + found) / LINE.seconds(StepShape(4 + found, 4, 0)) >= 0.9 * full
    assert (3 + found) / LINE.seconds(StepShape(3 + found, 4, 0)) < 0.9 * full
    assert chunk(pressure=0.5) == chunk() < chunk(pressure=0.7) < found


def test_throughput_may_be_given_up_for_time_per_token() -> None:
    targets = StepTargets(stretch=2.0, token_s=0.0, least_rows=8, keep_throughput=0.0)
    assert chunk(pressure=1.0, targets=targets) == chunk()


def test_deep_prompts_cost_more() -> None:
    attends = StepTimes(10e-3, 0.4e-3, 0.0, 1e-6)
    assert chunk(depth=4000, times=attends) < chunk(times=attends)


def test_before_anything_was_measured_a_chunk_is_small_so_that_something_is_learned() -> None:
    assert chunk(times=None) == 64


def test_pressure_is_the_share_of_steps_that_left_prompts_waiting() -> None:
    pressure = 0.0
    for step in range(2000):
        pressure = next_pressure(pressure, step % 4 == 0)
    assert pressure == pytest.approx(0.25, abs=0.02)
    for _ in range(200):
        pressure = next_pressure(pressure, True)
    assert pressure > 0.95


@pytest.mark.parametrize(
    "wrong",
    [
        {"stretch": 0.9},
        {"stretch": float("nan")},
        {"token_s": -1.0},
        {"token_s": float("inf")},
        {"least_rows": 0},
        {"keep_throughput": 1.1},
    ],
)
def test_targets_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        StepTargets(**wrong)  # type: ignore[arg-type]
