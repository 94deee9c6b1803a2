"""The power goes between any two flushes of a suite of actions: what was told is done, the rest ends well."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.models import make_model
from tests.system.action_suite import Machine, suite
from tests.system.job_suite import PATIENCE_S, on_machine
from tests.system.job_suite import Machine as JobMachine
from tests.system.power.disk import Disk, Model, Op, read_record
from tests.system.test_action_crashes import NOTHING, finish, holds, resumed
from thaloom.base.actions import LOCAL
from thaloom.init.acting.kinds import Named, call
from thaloom.init.acting.past import Past

pytestmark = pytest.mark.slow


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short one: sockets would lie in it."""
    return tmp_path_factory.mktemp("c")


ACKS = "acks"
"""Where the program says which action it was told to be done."""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, list[Op]]:
    """A suite that ran to its end: its home, the model it took, and all it did to its files."""
    folder = tmp_path_factory.mktemp("p")
    source, home = make_model(folder / "model"), folder / "h"
    return str(home), source, record(folder, home, "action_suite", str(source))


@pytest.fixture(scope="module")
def recorded_jobs(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[Op]]:
    """The same of jobs, with what their reapers did."""
    folder = tmp_path_factory.mktemp("j")
    return str(folder / "h"), record(folder, folder / "h", "job_suite")


def record(folder: Path, home: Path, module: str, *words: str) -> list[Op]:
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        pytest.skip("no C compiler to record with: apt-get install gcc")
    library, code = folder / "record.so", Path(__file__).with_name("power") / "record.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, code, "-ldl", "-lpthread"], check=True)
    environment = os.environ | {
        "LD_PRELOAD": str(library), "RECORD_BELOW": str(home), "RECORD_TO": str(folder / "record")
    }  # fmt: skip
    command = [sys.executable, "-m", f"tests.system.{module}", str(home), *words, "0", "after"]
    subprocess.run(command, check=True, timeout=120, env=environment)
    return list(read_record(folder / "record"))


def cuts(model: Model, ops: list[Op]) -> Iterator[tuple[int, Disk, list[str]]]:
    """After each flush: how many there were, the disk as it is then, and what was told to be done before it."""
    disk, count, told = Disk(model), 0, ""
    yield count, disk, []
    for op in ops:
        if op.path.endswith("/" + ACKS) and op.kind == "w":
            told += op.data.decode()
        disk.apply(op)
        if op.kind == "s":
            count += 1
            yield count, disk, told.splitlines()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("model", ["strict", "ordered"])
def test_wherever_the_power_goes_what_was_done_is_done_and_the_rest_ends_well(
    recorded: tuple[str, Path, list[Op]], model: Model, tmp_path: Path
) -> None:
    home, source, ops = recorded
    seen_endings: set[str] = set()
    num_cuts, finished_every = 0, 1 if os.environ.get("THALOOM_ALL_POINTS") else 8
    for count, disk, told in cuts(model, ops):
        place = tmp_path / str(count)
        disk.lay_out(home, place)
        with contextlib.closing(Machine(place)) as machine:
            asyncio.run(resumed(machine))
            past = Past(machine.store.journal).latest(1000)
            endings = {action.id: action.ending for action in past}
            assert {endings.get(action) for action in told} <= {"done"}, f"flush {count}: told and lost"
            assert set(endings.values()) <= {"done", "undone"}, f"flush {count}"
            assert machine.store.journal.verify().faults == (), f"flush {count}"
            if past:
                assert asyncio.run(holds(machine, past[0])) == (past[0].ending == "done"), f"flush {count}"
            for manifest in machine.models.list():
                assert machine.models.verify(manifest.name).faults == (), f"flush {count}: a model that is not whole"
            if count % finished_every == 0:
                asyncio.run(finish(machine, source, past))
                assert machine.facts() == NOTHING, f"flush {count}"
        seen_endings |= set(endings.values())
        num_cuts += 1
        shutil.rmtree(place)
    assert num_cuts > 4 * len(suite(source)), "each action flushes its two entries at least"
    assert seen_endings == {"done", "undone"}


NUM_JOB_CUTS = 16
"""Of some hundred, where not all are wanted (make crash-points)."""


def begun_by(ops: list[Op]) -> list[set[str]]:
    """After each flush: the attempts (`paper 1`) whose program may have run: its identity is flushed in the claim."""
    written: set[str] = set()
    begun: set[str] = set()
    after: list[set[str]] = [set()]
    for op in ops:
        if op.path.endswith(".claim") and op.kind == "w" and op.data.startswith(b"program"):
            written.add(op.path)
        if op.kind == "s":
            if op.path in written:
                begun.add(f"{Path(op.path).parent.name} {Path(op.path).stem}")
            after.append(set(begun))
    return after


@pytest.mark.timeout(900)
@pytest.mark.parametrize("model", ["strict", "ordered"])
def test_wherever_the_power_goes_no_job_runs_twice_and_none_that_is_over_is_lost(
    recorded_jobs: tuple[str, list[Op]], model: Model, tmp_path: Path
) -> None:
    home, ops = recorded_jobs
    out, began = Path(home).parent / "out", begun_by(ops)
    every = 1 if os.environ.get("THALOOM_ALL_POINTS") else len(began) // NUM_JOB_CUTS
    seen: set[str] = set()
    for count, disk, told in cuts(model, ops):
        if count % every:
            continue
        place = tmp_path / str(count)
        disk.lay_out(home, place)
        (out / "tally").unlink(missing_ok=True)
        for left in out.glob("alone-*"):
            left.rmdir()
        ends = asyncio.run(_jobs_after(place, told, f"flush {count}"))
        tally = (out / "tally").read_text().splitlines() if (out / "tally").exists() else []
        assert len(tally) == len(set(tally)), f"flush {count}: {tally}"
        assert began[count].isdisjoint(tally), f"flush {count}: run once more"
        assert not list((place / "jobs").glob("*/*.claim")), f"flush {count}"
        seen |= set(ends.values())
        shutil.rmtree(place)
    assert seen >= {"exit", "lost"}


async def _jobs_after(home: Path, told: list[str], where: str) -> dict[str, str]:
    """Start a node on that disk, and see every job to its end: how each ended."""
    ends: dict[str, str] = {}

    async def work(machine: JobMachine) -> None:
        known = machine.store.jobs.known
        before = {name: job.state.phase for name, job in known.items()}
        await machine.start()
        journal = machine.store.journal
        assert journal.unfinished() == [], where
        assert journal.verify().faults == (), where
        endings = {action.id: action.ending for action in Past(journal).latest(1000)}
        assert set(endings.values()) <= {"done", "undone"}, where
        assert {endings.get(word) for word in told if word.startswith("step-")} <= {"done"}, f"{where}: told and lost"
        for name, phase in (word.split() for word in told if " " in word):
            assert before.get(name, "removed") in (phase, "stopped", "removed"), f"{where}: {name} was {phase}"
        for document in machine.workspaces.list():
            assert machine.workspaces.folder(document.name).is_dir(), where
        async with asyncio.timeout(PATIENCE_S):
            if "long" in machine.store.jobs.active:
                await machine.performer.perform(call("job.stop", Named(name="long")), LOCAL)
            while machine.store.jobs.active:
                await asyncio.sleep(0.01)
        ends.update({name: job.state.ended_by or "" for name, job in known.items()})

    await on_machine(home, work)
    return ends


def test_a_disk_forgets_what_was_not_flushed(tmp_path: Path) -> None:
    ops = [
        Op("c", "/h/a", "", 0, b""), Op("w", "/h/a", "", 0, b"one"), Op("s", "/h/a", "", 0, b""),
        Op("s", "/h", "", 0, b""), Op("w", "/h/a", "", 3, b"two"), Op("c", "/h/b", "", 0, b""),
        Op("w", "/h/b", "", 0, b"xyz"), Op("r", "/h/b", "/h/c", 0, b""), Op("s", "/h/a", "", 0, b""),
    ]  # fmt: skip
    for model, left in (("strict", {"a": b"onetwo"}), ("ordered", {"a": b"onetwo", "c": b""})):
        disk = Disk(model)  # type: ignore[arg-type]
        for op in ops:
            disk.apply(op)
        disk.lay_out("/h", tmp_path / model)
        assert {path.name: path.read_bytes() for path in (tmp_path / model).iterdir()} == left
