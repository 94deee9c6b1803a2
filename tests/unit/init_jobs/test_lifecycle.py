"""What becomes of a job when something happens to it."""

from __future__ import annotations

from typing import Any

import pytest

from thaloom.base.ids import JobName
from thaloom.init.jobs.lifecycle import End, begun, deadline, ended, wait_s
from thaloom.kernel.state.jobs.types import ATTEMPTS_KEPT, JobSpec, JobState

NEW = JobState(since=1.0)


def spec(**more: Any) -> JobSpec:
    return JobSpec(name=JobName("a"), command=("true",), **more)


def after(end: End, state: JobState = NEW, **wish: Any) -> JobState:
    return ended(spec(**wish), begun(state, 5.0), end)


def test_an_attempt_is_numbered_and_keeps_the_first_start() -> None:
    first = begun(NEW, 5.0, ("virtual:0",))
    assert (first.phase, first.num_attempts, first.started_at, first.since) == ("running", 1, 5.0, 5.0)
    assert first.last is not None
    assert first.last.devices == ("virtual:0",)
    again = begun(after(End(by="exit", at=6.0, exit_code=1), retries=1), 7.0)
    assert (again.num_attempts, again.started_at) == (2, 5.0)


def test_exit_code_nought_is_success_and_nothing_else_is() -> None:
    done = after(End(by="exit", at=6.0, exit_code=0), retries=5)
    assert (done.phase, done.ended_by, done.since, done.failures) == ("succeeded", "exit", 6.0, 0)
    assert after(End(by="exit", at=6.0, exit_code=1)).phase == "failed"
    assert after(End(by="signal", at=6.0, signal=9)).phase == "failed"


def test_it_is_tried_again_as_often_as_was_wished_with_longer_waits() -> None:
    state = NEW
    waits = []
    for _ in range(3):
        state = after(End(by="memory", at=10.0, signal=9, message="why"), state, retries=3, backoff_s=2.0)
        waits.append(state.next_try_at - 10.0)
        assert (state.phase, state.message) == ("pending", "why")
    assert waits == [2.0, 4.0, 8.0]
    last = after(End(by="memory", at=10.0, signal=9, message="why"), state, retries=3)
    assert (last.phase, last.ended_by, last.failures, last.message) == ("failed", "memory", 4, "why")


def test_waits_have_a_longest() -> None:
    assert wait_s(spec(max_backoff_s=30.0), 1_000_000) == 30.0
    assert wait_s(spec(backoff_s=0.0), 5) == 0.0


@pytest.mark.parametrize(
    ("end", "again"),
    [
        (End(by="exit", at=6.0, exit_code=75), True),
        (End(by="exit", at=6.0, exit_code=1), False),
        (End(by="signal", at=6.0, signal=9), False),
        (End(by="memory", at=6.0, signal=9), False),
        (End(by="down", at=6.0, signal=15), True),
    ],
)
def test_after_given_exit_codes_alone(end: End, again: bool) -> None:
    assert (after(end, retries=3, retry_codes=(75,)).phase == "pending") == again


@pytest.mark.parametrize("by", ["deadline", "stopped"])
def test_some_ends_are_never_tried_again(by: Any) -> None:
    assert after(End(by=by, at=6.0, signal=15), retries=9).phase == ("failed" if by == "deadline" else "stopped")


def test_one_that_was_to_stop_is_stopped_however_it_ended_unless_it_had_succeeded() -> None:
    asked = JobState(since=1.0, stop_asked=True)
    assert after(End(by="exit", at=6.0, exit_code=9), asked, retries=9).phase == "stopped"
    assert after(End(by="down", at=6.0, signal=15), asked, retries=9).phase == "stopped"
    assert after(End(by="exit", at=6.0, exit_code=0), asked).phase == "succeeded"


def test_the_end_of_the_node_counts_for_nothing() -> None:
    state = after(End(by="down", at=6.0, signal=15))
    assert (state.phase, state.failures, state.next_try_at) == ("pending", 0, 6.0)


def test_only_the_last_attempts_are_kept() -> None:
    state = NEW
    for _ in range(ATTEMPTS_KEPT + 5):
        state = after(End(by="exit", at=6.0, exit_code=1), state, retries=100)
    assert (len(state.attempts), state.num_attempts) == (ATTEMPTS_KEPT, ATTEMPTS_KEPT + 5)
    assert state.attempts[-1].number == ATTEMPTS_KEPT + 5


def test_a_deadline_counts_from_the_first_start() -> None:
    assert deadline(spec(deadline_s=10.0), NEW) is None
    assert deadline(spec(deadline_s=10.0), begun(NEW, 5.0)) == 15.0
    assert deadline(spec(), begun(NEW, 5.0)) is None
