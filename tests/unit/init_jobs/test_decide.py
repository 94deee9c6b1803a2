"""What is done next with jobs: pure, from what is wished and what is there."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import pytest

from thaloom.base.ids import JobName
from thaloom.init.jobs.decide import (
    DISK_FULL,
    PATIENCE_S,
    Ask,
    Close,
    Conclude,
    Forget,
    Run,
    Snapshot,
    Start,
    decide,
    next_look_at,
    obstacle,
)
from thaloom.init.jobs.lifecycle import End, begun
from thaloom.init.jobs.reporting import conditions
from thaloom.kernel.state.jobs.types import Dependency, Job, JobPhase, JobResources, JobSpec, JobState

GIB = 1 << 30
NOW = 1000.0


def job(
    name: str, *, memory: int | None = None, devices: int = 0, state: dict[str, Any] | None = None, **spec: Any
) -> Job:
    resources = JobResources(memory_bytes=memory, num_devices=devices)
    wish = JobSpec(name=JobName(name), command=("true",), resources=resources, **spec)
    return Job(spec=wish, state=JobState(**{"since": NOW} | (state or {})), created_at=NOW)


def over(name: str, phase: JobPhase = "succeeded") -> Job:
    return job(name, state={"phase": phase, "num_attempts": 1})


def after(*names: str, ending: Any = "succeeded") -> dict[str, Any]:
    return {"depends_on": tuple(Dependency(job=JobName(name), ending=ending) for name in names)}


def running(one: Job) -> Job:
    return dataclasses.replace(one, state=begun(one.state, NOW))


def snapshot(*jobs: Job, runs: dict[str, Run] | None = None, **more: Any) -> Snapshot:
    known = {one.spec.name: one for one in jobs}
    facts: dict[str, Any] = {"now": NOW, "free_bytes": 4 * GIB, "default_bytes": GIB, "max_running": 100} | more
    return Snapshot(
        active={name: one for name, one in known.items() if not one.state.over},
        known=known,
        runs={JobName(name): run for name, run in (runs or {}).items()},
        **facts,
    )


def test_what_is_wished_is_started_and_what_runs_is_left_alone() -> None:
    assert decide(snapshot(job("a"))) == (Start(job=JobName("a"), attempt=1),)
    assert decide(snapshot(running(job("a")), runs={"a": Run(attempt=1)})) == ()
    assert decide(snapshot(over("a"))) == ()


def test_an_attempt_of_which_nothing_ever_ran_is_begun_again_under_its_number() -> None:
    assert decide(snapshot(running(job("a")))) == (Start(job=JobName("a"), attempt=1),)


def test_nothing_begins_on_a_full_disk_and_what_was_begun_can_be_stopped() -> None:
    begun_already, waits, is_stopped = running(job("a")), job("b"), running(job("c", state={"stop_asked": True}))
    look = snapshot(begun_already, waits, is_stopped, disk_full=True)
    assert decide(look) == (Conclude(job=JobName("c"), attempt=1, end=End(by="stopped", at=NOW)),)
    assert obstacle(look, waits) == DISK_FULL
    (condition,) = conditions(begun_already, look)
    assert (condition.status, condition.reason) == (False, "DiskFull")


def test_an_end_is_concluded_even_when_the_node_goes_down_and_nothing_else_begins_then() -> None:
    end = End(by="exit", at=NOW, exit_code=0)
    jobs = (running(job("a")), running(job("b")), job("c"))
    runs = {"a": Run(attempt=1, end=end), "b": Run(attempt=1)}
    assert decide(snapshot(*jobs, runs=runs, going_down=True)) == (
        Conclude(job=JobName("a"), attempt=1, end=end),
        Ask(job=JobName("b"), attempt=1, reason="down"),
    )


def test_one_that_is_to_stop_is_asked_once_and_one_that_waits_is_closed() -> None:
    stopping = running(job("a", state={"stop_asked": True}))
    assert decide(snapshot(stopping, runs={"a": Run(attempt=1)})) == (
        Ask(job=JobName("a"), attempt=1, reason="stopped"),
    )
    assert decide(snapshot(stopping, runs={"a": Run(attempt=1, asked=True)})) == ()
    (step,) = decide(snapshot(job("a", state={"stop_asked": True})))
    assert step == Close(job=JobName("a"), phase="stopped", by="stopped", message="")


def test_a_run_whose_job_is_gone_is_asked_to_end() -> None:
    assert decide(snapshot(runs={"a": Run(attempt=1)})) == (Ask(job=JobName("a"), attempt=1, reason="stopped"),)


@pytest.mark.parametrize(
    ("phase", "ending", "begins", "never"),
    [
        ("succeeded", "succeeded", True, False),
        ("failed", "succeeded", False, True),
        ("stopped", "succeeded", False, True),
        ("failed", "ended", True, False),
        ("stopped", "ended", True, False),
    ],
)
def test_how_another_ended_lets_it_begin_or_closes_it(phase: JobPhase, ending: str, begins: bool, never: bool) -> None:
    steps = decide(snapshot(over("a", phase), job("b", **after("a", ending=ending))))
    assert [type(step) for step in steps] == [Start] * begins + [Close] * never


def test_it_waits_for_all_of_the_others_and_one_that_is_gone_never_comes() -> None:
    waiting = snapshot(over("a"), running(job("b")), job("c", **after("a", "b")), runs={"b": Run(attempt=1)})
    assert decide(waiting) == ()
    why = obstacle(waiting, waiting.active[JobName("c")])
    assert why is not None
    assert (why.reason, "'b'" in why.message) == ("WaitsForJob", True)
    (step,) = decide(snapshot(job("c", **after("gone"))))
    assert isinstance(step, Close)
    assert (step.phase, step.by) == ("failed", "dependency")


def test_a_back_off_is_waited_for_and_looked_for() -> None:
    waiting = snapshot(job("a", state={"next_try_at": NOW + 5, "num_attempts": 1}))
    assert decide(waiting) == ()
    assert next_look_at(waiting) == NOW + 5
    assert decide(dataclasses.replace(waiting, now=NOW + 5)) == (Start(job=JobName("a"), attempt=2),)
    why = obstacle(waiting, waiting.active[JobName("a")])
    assert why is not None
    assert why.reason == "BackOff"


def test_a_deadline_ends_it_between_two_attempts_too() -> None:
    late = {"next_try_at": NOW + 50, "num_attempts": 1, "started_at": NOW - 10}
    waiting = snapshot(job("a", state=late, deadline_s=20.0))
    assert next_look_at(waiting) == NOW + 10
    (step,) = decide(dataclasses.replace(waiting, now=NOW + 11))
    assert isinstance(step, Close)
    assert (step.phase, step.by) == ("failed", "deadline")


def test_what_does_not_fit_waits_and_smaller_ones_go_before() -> None:
    look = snapshot(job("big", memory=8 * GIB), job("small", memory=GIB))
    assert decide(look) == (Start(job=JobName("small"), attempt=1),)
    why = obstacle(look, look.active[JobName("big")])
    assert why is not None
    assert (why.reason, why.message) == ("OutOfMemory", "it needs 8.0 GiB, 4.0 GiB can be given now")


def test_but_not_for_ever() -> None:
    long_ago = {"since": NOW - PATIENCE_S - 1}
    assert decide(snapshot(job("big", memory=8 * GIB, state=long_ago), job("small", memory=GIB))) == ()


def test_what_is_started_in_one_look_is_counted_against_the_rest() -> None:
    steps = decide(snapshot(*(job(name) for name in "abcdef")))
    assert [step.job for step in steps] == ["a", "b", "c", "d"]
    assert len(decide(snapshot(*(job(name) for name in "abcdef"), max_running=2))) == 2
    steps = decide(snapshot(job("a", devices=1), job("b", devices=1), free_devices=1))
    assert [step.job for step in steps] == ["a"]


def test_why_it_waits_for_its_turn_or_a_device() -> None:
    look = snapshot(job("a"), running(job("b")), runs={"b": Run(attempt=1)}, max_running=1)
    why = obstacle(look, look.active[JobName("a")])
    assert why is not None
    assert why.reason == "WaitsForTurn"
    look = snapshot(job("a", devices=2), free_devices=1)
    why = obstacle(look, look.active[JobName("a")])
    assert why is not None
    assert (why.reason, why.message) == ("NoFreeDevice", "it needs 2 devices, 1 are free")
    free = snapshot(job("a"))
    assert obstacle(free, free.active[JobName("a")]) is None


def test_what_has_expired_is_forgotten_unless_somebody_waits_for_it() -> None:
    expired = (JobName("a"), JobName("b"))
    steps = decide(
        snapshot(over("a"), over("b"), job("c", **after("b", "d")), job("d"), expired=expired, max_running=0)
    )
    assert steps == (Forget(job=JobName("a")),)


def test_a_second_look_at_the_same_asks_for_the_same() -> None:
    look = snapshot(job("a"), job("b", **after("a")), over("c"))
    assert decide(look) == decide(look)


def test_a_pass_over_ten_thousand_that_wait_does_not_grow_with_what_they_wait_for() -> None:
    """Not a measurement (benchmarks/jobs.py is): it would take minutes if a look looked at all others."""
    jobs = [over("base"), *(job(f"j{number}", **after(f"k{number}")) for number in range(5000))]
    jobs += [job(f"k{number}", memory=8 * GIB) for number in range(5000)]
    look = snapshot(*jobs)
    begun_at = time.monotonic()
    assert decide(look) == ()
    assert next_look_at(look) is None
    assert time.monotonic() - begun_at < 30
