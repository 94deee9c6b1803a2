"""An action that is killed at any write of the journal ends done or undone, and the machine shows which."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest

from tests.models import make_model
from tests.system.action_suite import Machine, carry_out, suite
from tests.system.job_suite import suite as job_suite
from tests.system.killing import points
from tests.system.test_step_crashes import STEP_KINDS
from thaloom.base.actions import LOCAL, Call
from thaloom.init.acting.kinds import read
from thaloom.init.acting.past import Past
from thaloom.kernel.state.types import PastAction
from thaloom.kernel.trust.certificates import read_files

pytestmark = pytest.mark.slow


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short one: sockets would lie in it."""
    return tmp_path_factory.mktemp("c")


_LISTS = ("services", "aliases", "keys", "tenants", "models", "documents", "folders")
NOTHING: dict[str, object] = {word: [] for word in _LISTS} | {"certificate": None}
NUM_ACTIONS = len(suite(Path("/")))
NUM_WRITES = 2 * NUM_ACTIONS


KILLED_ELSEWHERE = {
    "node.down": "tests/system/test_step_crashes.py",
    "encryption.rotate_key": "tests/unit/init/test_vault.py",
}
NOT_KILLED = {
    "model.quantise": "made by a process that ends with the daemon; what it made comes in as an import does",
    "model.pull": "it goes on in the node: tests/system/test_pulls.py kills the daemon in the middle of one",
    "pull.remove": "of files that are kept by no action: tests/system/test_pulls.py kills the pulls themselves",
}
"""Kinds that no suite here has, and why that is bearable."""


def killed(home: Path, source: Path, number: int, when: str) -> int:
    command = [sys.executable, "-m", "tests.system.action_suite", str(home), str(source), str(number), when]
    return subprocess.run(command, check=False, timeout=120, capture_output=True).returncode


async def resumed(machine: Machine) -> None:
    async with asyncio.TaskGroup() as tasks:
        performer = machine.performer(tasks)
        machine.workspaces.sweep()
        for entry in machine.store.journal.unfinished():
            await performer.resume(entry)


async def holds(machine: Machine, action: PastAction) -> bool:
    kind = next(kind for kind in machine.kinds if kind.name == action.kind)
    return await kind.holds(read(kind, Call(action.kind, action.plan["call"]["parameters"])))


def test_the_suite_has_as_many_writes_as_are_tried(tmp_path: Path) -> None:
    source = make_model(tmp_path / "model")
    assert killed(tmp_path / "h", source, NUM_WRITES, "before") == -signal.SIGKILL
    assert killed(tmp_path / "i", source, NUM_WRITES + 1, "before") == 0


def test_every_kind_of_action_there_is_is_killed_in_a_suite(tmp_path: Path) -> None:
    """A kind that is new is put into a suite, or it is said here why not."""
    with contextlib.closing(Machine(tmp_path / "h")) as machine:
        there_are = {kind.name for kind in machine.kinds}
    in_suites = {asked.kind for _, asked in suite(Path("/"))} | {asked.kind for _, asked, _ in job_suite(Path("/"))}
    assert in_suites.isdisjoint(NOT_KILLED.keys() | KILLED_ELSEWHERE.keys())
    assert there_are == in_suites | KILLED_ELSEWHERE.keys() | NOT_KILLED.keys()
    assert {kind for kind, where in KILLED_ELSEWHERE.items() if "step_crashes" in where} <= STEP_KINDS


@pytest.mark.parametrize(("number", "when"), points(NUM_WRITES))
def test_a_kill_at_each_write_leaves_each_action_done_or_undone(number: int, when: str, tmp_path: Path) -> None:
    source, home = make_model(tmp_path / "model"), tmp_path / "h"
    assert killed(home, source, number, when) == -signal.SIGKILL
    machine = Machine(home)
    with contextlib.closing(machine):
        journal = machine.store.journal
        assert len(journal.latest(1000)) == number - (when == "before"), "what was written before is there"
        asyncio.run(resumed(machine))
        machine.workspaces.sweep()  # as a node does when it starts
        assert journal.unfinished() == []
        assert journal.verify().faults == ()
        past = Past(journal).latest(1000)
        assert {action.ending for action in past} <= {"done", "undone"}
        last = past[0] if past else None
        if last is not None:
            assert asyncio.run(holds(machine, last)) == (last.ending == "done"), "the machine says the same"
        assert not list(machine.layout.models.rglob("*.partial"))
        assert not list(machine.layout.home.glob("door.pem.*.partial"))
        certificates_are_whole(machine)
        asyncio.run(finish(machine, source, past))
        assert machine.facts() == NOTHING
        assert machine.models.sweep() is not None
        assert not [path for path in (machine.layout.models / "objects").rglob("*") if path.is_file()]


def certificates_are_whole(machine: Machine) -> None:
    """Each file has a certificate and the key that belongs to it, for the node's user alone."""
    assert not machine.layout.door_pair_aside.exists()
    for path in machine.layout.home.glob("door.pem*"):
        read_files(path, None)
        assert path.stat().st_mode & 0o777 == 0o600, path


async def finish(machine: Machine, source: Path, past: list[PastAction]) -> None:
    """Ask for everything again, by the same ids but for what was undone: what is done is not done again."""
    undone = {action.id for action in past if action.ending == "undone"}
    before = len(machine.store.journal.latest(1000))
    async with asyncio.TaskGroup() as tasks:
        performer = machine.performer(tasks)
        for action, asked in suite(source):
            await performer.perform(asked, LOCAL, action=f"{action}-again" if action in undone else action)
    done = sum(action.ending == "done" for action in past)
    assert len(machine.store.journal.latest(1000)) == before + 2 * (NUM_ACTIONS - done)


@pytest.mark.parametrize("when", ["uncommitted", "committed"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_documents_that_are_killed_while_they_come_to_be_are_all_there_or_none(
    number: int, when: str, tmp_path: Path
) -> None:
    source, home = make_model(tmp_path / "model"), tmp_path / "h"
    assert killed(home, source, number, when) == -signal.SIGKILL
    machine = Machine(home)
    with contextlib.closing(machine):
        asyncio.run(resumed(machine))
        machine.workspaces.sweep()
        last = Past(machine.store.journal).latest(1)[0]
        assert (last.kind, last.ending) == ("documents.apply", "undone" if when == "uncommitted" else "done")
        there = [["service/web", "workspace/data", "federation/f"], ["service/web", "workspace/data"], []]
        before_and_after = [[], *there][number - 1 : number + 1]
        facts = machine.facts()
        assert facts["documents"] == before_and_after[when == "committed"]
        assert facts["folders"] == (["data"] if "workspace/data" in cast(list[str], facts["documents"]) else [])


def test_undisturbed_the_suite_ends_where_it_began(tmp_path: Path) -> None:
    source = make_model(tmp_path / "model")
    with contextlib.closing(Machine(tmp_path / "h")) as machine:
        asyncio.run(carry_out(machine, source))
        assert [action.ending for action in Past(machine.store.journal).latest(100)] == ["done"] * NUM_ACTIONS
        assert machine.facts() == NOTHING
