"""Jobs as they are kept: on the disk, and in memory for those who look often."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from thaloom.base.clock import ManualClock
from thaloom.base.errors import BadParameter, JobNotFound, RevisionConflict, StateUnusable, WrongState
from thaloom.base.ids import JobName
from thaloom.kernel.state.jobs.types import Dependency, JobAttempt, JobResources, JobSpec, JobState
from thaloom.kernel.state.store import StateStore

A, B = JobName("a"), JobName("b")
FULL = JobSpec(
    name=A,
    command=("python3", "-c", "print('é')", "a\nb"),
    env={"X": "1"},
    secrets={"TOKEN": "file:/etc/token"},
    directory="/srv/a",
    read=("/data",),
    write=("/out",),
    whole_host=True,
    resources=JobResources(memory_bytes=1 << 30, cpu_permille=1500, num_pids=10, num_devices=1),
    network="host",
    retries=3,
    retry_codes=(75,),
    backoff_s=2.0,
    max_backoff_s=20.0,
    deadline_s=60.0,
    grace_s=1.0,
    ttl_s=5.0,
    depends_on=(Dependency(job=B, ending="ended"),),
)


def spec(name: str = "a", **more: Any) -> JobSpec:
    return JobSpec(name=JobName(name), command=("true",), **more)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


def test_what_was_wished_and_what_became_of_it_survive_a_restart(path: Path) -> None:
    store = StateStore(path, ManualClock(5.0))
    state = JobState(
        phase="failed",
        since=9.0,
        ended_by="memory",
        message="it met its limit",
        num_attempts=2,
        failures=2,
        next_try_at=7.0,
        started_at=5.0,
        attempts=(JobAttempt(number=2, started_at=8.0, ended_at=9.0, ended_by="memory", signal=9),),
    )
    store.jobs.put(FULL)
    job = store.jobs.set_state(A, state)
    store.jobs.put(spec("b"))
    store.close()
    again = StateStore(path, ManualClock(50.0))
    assert again.jobs.all()[0] == job
    assert (job.spec, job.state, job.created_at, job.revision) == (FULL, state, 5.0, 1)
    assert list(again.jobs.active) == [B]
    again.close()


def test_the_same_wish_changes_nothing_and_another_one_only_what_does_not_run(path: Path) -> None:
    store = StateStore(path, ManualClock(5.0))
    first = store.jobs.put(spec())
    version = store.jobs.version
    assert store.jobs.put(spec()) is first
    assert store.jobs.version == version
    changed = store.jobs.put(spec(retries=1))
    assert (changed.revision, changed.state) == (2, first.state)
    store.jobs.set_state(A, dataclasses.replace(changed.state, phase="running", num_attempts=1))
    with pytest.raises(WrongState, match="runs"):
        store.jobs.put(spec(retries=2))
    assert store.jobs.put(spec(retries=1)).revision == 2
    store.close()


def test_what_is_over_begins_anew_with_another_wish_or_when_asked_to_and_never_numbers_attempts_alike(
    path: Path,
) -> None:
    clock = ManualClock(5.0)
    store = StateStore(path, clock)
    store.jobs.put(spec())
    attempts = (JobAttempt(number=4, started_at=1.0, ended_at=2.0, ended_by="exit", exit_code=1),)
    over = JobState(phase="failed", since=2.0, ended_by="exit", num_attempts=4, failures=2, attempts=attempts)
    store.jobs.set_state(A, over)
    assert store.jobs.put(spec()).state == over
    anew = store.jobs.put(spec(), anew=True)
    assert anew.state == JobState(since=5.0, num_attempts=4, attempts=attempts)
    assert list(store.jobs.active) == [A]
    store.jobs.set_state(A, over)
    assert store.jobs.put(spec(retries=1)).state.phase == "pending"
    store.close()


def test_a_revision_is_not_overwritten_unseen(path: Path) -> None:
    store = StateStore(path, ManualClock())
    store.jobs.put(spec(), expected_revision=0)
    with pytest.raises(RevisionConflict):
        store.jobs.put(spec(retries=1), expected_revision=0)
    assert store.jobs.put(spec(retries=1), expected_revision=1).revision == 2
    store.close()


def test_several_states_are_written_at_once_or_not_at_all(path: Path) -> None:
    store = StateStore(path, ManualClock())
    store.jobs.put(spec())
    with pytest.raises(JobNotFound):
        store.jobs.set_states({A: JobState(phase="failed", since=1.0), B: JobState(since=1.0)})
    assert store.jobs.get("a").state.phase == "pending"
    store.jobs.delete(A, B)
    with pytest.raises(JobNotFound):
        store.jobs.get("a")
    assert not store.jobs.active
    store.close()


def test_a_row_that_somebody_else_wrote_is_not_guessed_around(path: Path) -> None:
    store = StateStore(path, ManualClock())
    store.jobs.put(spec())
    with store._database.write() as connection:
        connection.execute("""UPDATE jobs SET spec = '{"command":["x"],"priority":7}'""")
    store.close()
    with pytest.raises(StateUnusable, match="JobSpec"):
        StateStore(path, ManualClock())


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"name": "A"}, "name"),
        ({"name": "a/b"}, "name"),
        ({"name": "a..b"}, "name"),
        ({"command": ()}, "command"),
        ({"command": ("a\0",)}, "command"),
        ({"command": ("a" * 70_000,)}, "command"),
        ({"env": {"1X": ""}}, "env"),
        ({"env": {"X": "y" * 40_000}}, "env"),
        ({"secrets": {"X": "hunter2"}}, "secrets"),
        ({"env": {"X": ""}, "secrets": {"X": "env:Y"}}, "secrets"),
        ({"directory": "here"}, "directory"),
        ({"retries": -1}, "retries"),
        ({"retry_codes": ()}, "retry_codes"),
        ({"retry_codes": (0,)}, "retry_codes"),
        ({"backoff_s": float("nan")}, "backoff_s"),
        ({"deadline_s": 0.0}, "deadline_s"),
        ({"ttl_s": -1.0}, "ttl_s"),
        ({"directory": "/srv", "resources": JobResources(disk_bytes=1 << 30)}, "disk_bytes"),
        ({"depends_on": (Dependency(job=A),)}, "depends_on"),
        ({"depends_on": (Dependency(job=B), Dependency(job=B, ending="ended"))}, "depends_on"),
    ],
)
def test_a_wish_that_cannot_be_is_refused_by_the_field_that_is_wrong(wrong: dict[str, Any], param: str) -> None:
    with pytest.raises(BadParameter) as caught:
        JobSpec(**{"name": A, "command": ("true",)} | wrong)
    assert caught.value.param == param


@pytest.mark.parametrize(
    "wrong",
    [
        {"memory_bytes": 5},
        {"cpu_permille": 0},
        {"num_pids": 0},
        {"disk_bytes": 1 << 20},
        {"num_devices": -1},
        {"num_devices": 10**6},
    ],
)
def test_resources_that_cannot_be_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(BadParameter) as caught:
        JobResources(**wrong)
    assert caught.value.param == next(iter(wrong))
