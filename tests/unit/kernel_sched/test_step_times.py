from __future__ import annotations

import math

import numpy as np
import pytest

from thaloom.kernel.sched.step_times import SAMPLES_PER_RANGE, StepHistory, StepShape, StepTimes, fit, rows_from

ROWS = (1, 2, 4, 16, 40, 200, 512)


def shape(rows: int, depth: int = 100) -> StepShape:
    return rows_from(depth, rows, outputs=min(rows, 16))


def straight(found: StepShape) -> float:
    return 8e-3 + 4e-4 * found.rows + 5e-5 * found.outputs + 2e-8 * found.attended


def bent(found: StepShape) -> float:
    return max(8e-3, 4e-4 * found.rows)


def learned(cost: object, *, noise: float = 0.0, disturbed: float = 0.0, steps: int = 400) -> StepTimes:
    assert callable(cost)
    random, history = np.random.default_rng(5), StepHistory()
    for _ in range(steps):
        found = shape(int(random.choice(ROWS)), int(random.integers(0, 2000)))
        factor = 1 + noise * random.standard_normal() + (3 if random.random() < disturbed else 0)
        history.add(found, cost(found) * factor)
    assert history.times is not None
    return history.times


def test_a_straight_line_is_found_and_goes_on_beyond_what_was_seen() -> None:
    times = learned(straight)
    for rows in (1, 3, 30, 300, 800):
        assert times.seconds(shape(rows)) == pytest.approx(straight(shape(rows)), rel=0.03)


def test_a_bend_is_followed() -> None:
    times = learned(bent)
    for rows in ROWS:
        assert times.seconds(shape(rows)) == pytest.approx(bent(shape(rows)), rel=0.2)


def test_noise_and_disturbed_steps_do_not_move_it() -> None:
    times = learned(straight, noise=0.05, disturbed=0.1)
    for rows in (1, 16, 128, 512):
        assert times.seconds(shape(rows)) == pytest.approx(straight(shape(rows)), rel=0.1)


def test_no_cost_is_ever_negative() -> None:
    """Steps that get shorter the more is in them make no sense, and no plan should count on it."""
    times = learned(lambda found: 1 / found.rows)
    assert min(times.base_s, times.row_s, times.output_s, times.attended_s) >= 0


@pytest.mark.parametrize("batch", [1, 4, 16])
def test_what_cannot_be_told_apart_counts_as_the_cost_of_a_step(batch: int) -> None:
    """A batch that never changed, and a prompt: nobody has seen what one output more costs. It is not half a step."""
    history = StepHistory()
    history.add(rows_from(0, 512), 0.2)
    for length in range(512, 612):
        history.add(StepShape(batch, batch, batch * length), 0.01)
    assert history.times is not None
    now, more = StepShape(batch, batch, batch * 612), StepShape(batch + 1, batch + 1, (batch + 1) * 612)
    assert history.times.seconds(more) - history.times.seconds(now) < 2 * 0.2 / 512


def test_nothing_is_said_before_sizes_differ() -> None:
    history = StepHistory()
    for rows in (16, 17, 40):
        history.add(shape(rows), 0.01)
    assert history.times is None
    history.add(shape(80), 0.02)
    assert history.times is not None, "a size never seen before is looked at once"


def test_before_sizes_differ_a_step_is_expected_to_take_what_the_last_alike_took() -> None:
    history = StepHistory()
    history.add(shape(256), 0.25)
    assert history.expected_s(shape(300)) == 0.25
    assert history.expected_s(shape(1)) == 0.0
    history.add(shape(1), 0.01)
    assert history.times is not None
    assert history.expected_s(shape(256)) == pytest.approx(0.25, rel=0.05)


def test_steps_that_take_no_time_say_nothing() -> None:
    history = StepHistory()
    for rows in ROWS:
        history.add(shape(rows), 0.0)
    assert history.times is None
    assert fit([]) is None


def test_large_steps_are_remembered_through_an_hour_of_small_ones() -> None:
    history = StepHistory()
    history.add(shape(512), straight(shape(512)))
    for _ in range(10_000):
        history.add(shape(1), straight(shape(1)))
    assert history.times is not None
    assert history.times.seconds(shape(512)) == pytest.approx(straight(shape(512)), rel=0.1)


def test_a_device_that_becomes_slower_is_believed_soon() -> None:
    history = StepHistory()
    for factor in (1, 2):
        for _ in range(4 * SAMPLES_PER_RANGE):
            for rows in ROWS:
                history.add(shape(rows), factor * straight(shape(rows)))
    assert history.times is not None
    assert history.times.seconds(shape(40)) == pytest.approx(2 * straight(shape(40)), rel=0.05)


def test_rows_see_themselves_and_all_before() -> None:
    assert rows_from(0, 3).attended == 1 + 2 + 3
    assert rows_from(10, 2, outputs=1) == StepShape(2, 1, 11 + 12)


def test_factors_are_interpolated_over_the_logarithm_of_rows() -> None:
    times = StepTimes(1.0, 0.0, 0.0, 0.0, (0.0, 2.0), (1.0, 3.0))
    found = [times.seconds(StepShape(rows, 0, 0)) for rows in (1, 2, 4, 100)]
    assert found == [1.0, 2.0, 3.0, 3.0]
    assert math.isclose(StepTimes(1.0, 2.0, 0.0, 0.0).seconds(StepShape(3, 0, 0)), 7.0)
