"""What becomes of a job that could not be started: the host's shortage of the moment is not held against it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from thaloom.base.clock import ManualClock
from thaloom.base.errors import DiskFull
from thaloom.base.events import ignore
from thaloom.base.ids import JobName
from thaloom.init.jobs import hands as module
from thaloom.init.jobs.config import JobsConfig
from thaloom.init.jobs.confining import JobWalls
from thaloom.init.jobs.decide import Start
from thaloom.init.jobs.files import JobFiles
from thaloom.init.jobs.hands import Hands
from thaloom.init.jobs.memory import JobMemory
from thaloom.init.jobs.runs import Runs
from thaloom.kernel.state.jobs.types import Job, JobSpec
from thaloom.kernel.state.store import StateStore

A = JobName("a")


def start(
    tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch, *, disk_full: bool = False, times: int = 1
) -> Job:
    """The job after its start failed so."""

    def create(_: JobFiles) -> None:
        raise error

    monkeypatch.setattr(JobFiles, "create", create)
    monkeypatch.setattr(module, "is_full", lambda _: disk_full)
    walls = cast(JobWalls, SimpleNamespace(end=lambda *_: True))
    booked: set[str] = set()

    async def returned(spec: JobSpec) -> None:
        assert spec.name in booked

    memory = cast(
        JobMemory,
        SimpleNamespace(book=lambda spec: booked.add(spec.name) or (), release=booked.discard, returned=returned),
    )
    clock = ManualClock()

    async def act() -> Job:
        tmp_path.mkdir(exist_ok=True)
        with contextlib.closing(StateStore(tmp_path / "state.db", clock)) as store:
            store.jobs.put(JobSpec(name=A, command=("true",)))
            async with asyncio.TaskGroup() as tasks:
                runs = Runs(tmp_path, walls=walls, tasks=tasks, clock=clock, emit=ignore, wake=lambda: None)
                config = JobsConfig()
                hands = Hands(store, runs=runs, walls=walls, memory=memory, config=config, clock=clock, emit=ignore)
                for _ in range(times):
                    with contextlib.suppress(type(error)):
                        await hands.start(Start(job=A, attempt=1))
                assert not booked
                before, outcome = store.journal.latest(2)[::-1]
                assert (before.phase, outcome.data["done"]) == ("intent", False)
                return store.jobs.get(A)

    return asyncio.run(act())


@pytest.mark.parametrize(
    ("error", "disk_full"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), False),  # and a moment later there was some
        (OSError(errno.EDQUOT, "Quota exceeded"), False),
        (DiskFull("no space left"), True),
    ],
)
def test_for_want_of_room_it_is_begun_again_under_its_number(
    error: Exception, disk_full: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = start(tmp_path, error, monkeypatch, disk_full=disk_full)
    assert (job.state.phase, job.state.num_attempts, job.state.failures) == ("running", 1, 0)


@pytest.mark.parametrize("error", [OSError(errno.EACCES, "Permission denied"), DiskFull("10 GiB needed, 9 GiB free")])
def test_anything_else_is_its_end(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = start(tmp_path, error, monkeypatch)
    assert (job.state.phase, job.state.ended_by, job.state.failures) == ("failed", "not_started", 1)


def test_a_shortage_that_does_not_show_is_believed_some_times_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of inodes, or a quota: else it was tried each second for ever, and its job said to run."""
    error = OSError(errno.ENOSPC, "No space left on device")
    assert start(tmp_path, error, monkeypatch, times=3).state.phase == "running"
    job = start(tmp_path / "b", error, monkeypatch, times=4)
    assert (job.state.phase, job.state.ended_by) == ("failed", "not_started")
