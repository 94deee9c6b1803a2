"""A daemon that is killed at any point of a job's life never runs it twice at once, and never loses what it came to."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.job_suite import Machine, carry_out, on_machine
from tests.system.killing import points
from tests.system.node import eventually, without_groups
from thaloom.init.acting.past import Past
from thaloom.kernel.sandbox.finding import find_groups
from thaloom.kernel.sandbox.grouping import folder_name

pytestmark = pytest.mark.slow
NUM_POINTS = 58
"""Writes of the database and starts of reapers in an undisturbed suite."""


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("c")
    yield folder / "h"
    for left in folder.iterdir():
        eventually(lambda left=left: without_groups(left))  # type: ignore[misc]


def killed(home: Path, number: int, when: str) -> int:
    command = [sys.executable, "-m", "tests.system.job_suite", str(home), str(number), when]
    return subprocess.run(command, check=False, timeout=120, capture_output=True).returncode


def groups_left(home: Path) -> list[str]:
    groups = find_groups(folder_name(home))
    found = [group.name for group in groups.list()]
    groups.close()
    return found


def test_the_suite_has_as_many_points_as_are_tried(home: Path) -> None:
    assert killed(home, NUM_POINTS, "before") == -signal.SIGKILL
    assert killed(home.with_name("i"), NUM_POINTS + 1, "before") == 0
    asyncio.run(on_machine(home, lambda machine: machine.start()))


@pytest.mark.parametrize(("number", "when"), points(NUM_POINTS))
def test_a_kill_at_each_point_loses_nothing_and_runs_nothing_twice(number: int, when: str, home: Path) -> None:
    out = home.parent / "out"
    assert killed(home, number, when) == -signal.SIGKILL

    async def go_on(machine: Machine) -> None:
        await machine.start()
        journal = machine.store.journal
        assert journal.unfinished() == []
        past = [action for action in Past(journal).latest(1000) if action.kind != "StartJob"]
        assert {action.ending for action in past} <= {"done", "undone"}
        await carry_out(machine, out, frozenset(action.id for action in past if action.ending == "undone"))
        jobs = {name: (job.state.phase, job.state.failures) for name, job in machine.store.jobs.known.items()}
        assert jobs == {"once": ("failed", 1), "long": ("stopped", 0)}
        once = machine.store.jobs.get("once").state
        assert (once.ended_by, once.attempts[-1].exit_code, once.num_attempts) == ("exit", 3, 1)
        assert [document.subject for document in machine.workspaces.list()] == []
        assert machine.loop.runs.files(machine.store.jobs.get("once").spec.name).log.read_text() == "said\n"
        assert journal.verify().faults == ()

    asyncio.run(on_machine(home, go_on))
    tally = Counter((out / "tally").read_text().splitlines())
    assert tally == {"once 1": 1, "tried 1": 1, "tried 2": 1, "long 1": 1, "paper 1": 1, "next 1": 1}
    assert sorted(path.name for path in (home / "jobs").iterdir()) == ["long", "once"]
    assert list((home / "workspaces").glob("*")) == []
    assert not list((home / "jobs").glob("*/*.claim"))
    with contextlib.suppress(FileNotFoundError):
        eventually(lambda: not groups_left(home))
