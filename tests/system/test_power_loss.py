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
from tests.system.power.disk import Disk, Model, Op, read_record
from tests.system.test_action_crashes import finish, holds, resumed
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
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        pytest.skip("no C compiler to record with: apt-get install gcc")
    folder = tmp_path_factory.mktemp("p")
    source, home, library = make_model(folder / "model"), folder / "h", folder / "record.so"
    code = Path(__file__).with_name("power") / "record.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, code, "-ldl", "-lpthread"], check=True)
    environment = os.environ | {
        "LD_PRELOAD": str(library), "RECORD_BELOW": str(home), "RECORD_TO": str(folder / "record")
    }  # fmt: skip
    command = [sys.executable, "-m", "tests.system.action_suite", str(home), str(source), "0", "after"]
    subprocess.run(command, check=True, timeout=120, env=environment)
    return str(home), source, list(read_record(folder / "record"))


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
            yield count, disk, told.split()


@pytest.mark.parametrize("model", ["strict", "ordered"])
def test_wherever_the_power_goes_what_was_done_is_done_and_the_rest_ends_well(
    recorded: tuple[str, Path, list[Op]], model: Model, tmp_path: Path
) -> None:
    home, source, ops = recorded
    seen_endings: set[str] = set()
    num_cuts = 0
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
            asyncio.run(finish(machine, source, past))
            nothing = {"services": [], "aliases": [], "keys": [], "tenants": [], "models": []}
            assert machine.facts() == nothing, f"flush {count}"
        seen_endings |= set(endings.values())
        num_cuts += 1
        shutil.rmtree(place)
    assert num_cuts > 4 * len(suite(source)), "each action flushes its two entries at least"
    assert seen_endings == {"done", "undone"}


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
