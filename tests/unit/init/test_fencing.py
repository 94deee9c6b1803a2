"""Real processes in real groups; where this host has none, that nothing is promised is what is tested."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from thaloom.base.errors import InternalError, OutOfMemory
from thaloom.base.ids import WorkerId
from thaloom.init.errands import errand
from thaloom.init.errands.errand import run_errand
from thaloom.init.layout import Layout
from thaloom.init.walls.confining import SandboxConfig
from thaloom.init.walls.fencing import Fences
from thaloom.kernel.sandbox.finding import find_groups
from thaloom.kernel.sandbox.grouping import Groups, NoGroups, folder_name
from thaloom.kernel.sandbox.host import NO_WALLS
from thaloom.kernel.sandbox.latency import WEIGHTS
from thaloom.kernel.sandbox.plan import read_plan
from thaloom.kernel.sandbox.walls import Confined, Mode, Sandbox

MIB = 1 << 20
D = WorkerId("w-door")


class Made:
    def __init__(self, folder: Path, *, groups: Groups | None = None, mode: Mode = "auto", **config: Any) -> None:
        self.layout = Layout(folder / "h")
        self.layout.create()
        self.groups = groups or find_groups(folder_name(folder))
        self.sandbox = Sandbox(walls=NO_WALLS, groups=self.groups, mode=mode)
        self.fences = Fences(self.layout, SandboxConfig(**config), self.sandbox)

    def holds(self, limit: str) -> bool:
        return limit in self.sandbox.enforced_limits()

    def errand(self, module: str, *words: str) -> dict[str, Any]:
        async def run() -> dict[str, Any]:
            async with self.fences.errand("test") as fence:
                return await run_errand(module, words, lambda *_: None, fence=fence)

        try:
            return asyncio.run(run())
        finally:
            assert self.groups.list() == []
            assert list(self.layout.workers.iterdir()) == []
            self.groups.close()


@pytest.fixture
def programs(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Modules found here can be sent on an errand."""
    folder = short_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    return folder


def test_the_door_has_a_group_and_no_wall(short_path: Path) -> None:
    made = Made(short_path, door_memory_bytes=512 * MIB)
    command = made.fences.door(D, ["/bin/true"])
    assert command[-1] == "/bin/true"
    confined = Confined(D, made.layout.worker_walls(D))
    assert confined.walls() == frozenset()
    assert {step[0] for step in read_plan(made.layout.worker_walls(D))} <= {"join", "schedule"}
    if made.holds("memory"):
        assert confined.group.memory_limit() == 512 * MIB
    if made.holds("pids"):
        assert confined.group.pids_limit() == SandboxConfig().num_pids
    assert confined.end()
    made.groups.close()


def test_an_errand_gives_way_and_is_asked_for_its_word(short_path: Path, programs: Path) -> None:
    (programs / "tells.py").write_text(
        "import json, os, pathlib\n"
        "groups = pathlib.Path('/proc/self/cgroup').read_text()\n"
        "score = int(pathlib.Path('/proc/self/oom_score_adj').read_text())\n"
        "print(json.dumps({'policy': os.sched_getscheduler(0), 'score': score, 'groups': groups}))\n"
    )
    made = Made(short_path)
    told = made.errand("tells")
    assert (told["policy"], told["score"]) == (os.SCHED_BATCH, 300)
    if made.holds("memory"):
        assert "errand-test-0" in told["groups"]


def test_the_weight_of_an_errand_is_that_of_batch_work(short_path: Path) -> None:
    made = Made(short_path)

    async def look() -> None:
        async with made.fences.errand("test") as fence:
            fence.command(["/bin/true"])
            (group,) = made.groups.list() or [None]
            if group is not None and "cpu" in group.places:
                assert (group.places["cpu"] / "cpu.shares").read_text().strip() == str(WEIGHTS["batch"] * 1024 // 100)

    asyncio.run(look())
    assert made.groups.list() == []
    made.groups.close()


def test_an_errand_past_its_memory_is_a_typed_error_with_the_figure(short_path: Path, programs: Path) -> None:
    (programs / "grows.py").write_text("kept = []\nwhile True: kept.append(bytearray(8 << 20))\n")
    made = Made(short_path, errand_memory_bytes=256 * MIB)
    if not made.holds("memory"):
        return  # then it would take the host's
    with pytest.raises(OutOfMemory, match=r"grows: it met its memory limit of 256\.0 MiB") as caught:
        made.errand("grows")
    assert caught.value.details == {"reason": "MemoryLimit", "limit_bytes": 256 * MIB}


def test_an_errand_past_its_processes_says_so(short_path: Path, programs: Path) -> None:
    (programs / "forks.py").write_text(
        "import os, signal\nwhile True:\n    if os.fork() == 0:\n        os.close(1)\n        signal.pause()\n"
    )
    made = Made(short_path, num_pids=16)
    if not made.holds("pids"):
        return
    with pytest.raises(InternalError, match="it met its limit of 16 on processes and threads") as caught:
        made.errand("forks")
    assert caught.value.details == {"reason": "ProcessLimit"}


def test_one_that_ends_without_a_word_met_no_wall(short_path: Path, programs: Path) -> None:
    (programs / "silent.py").write_text("raise SystemExit(3)\n")
    with pytest.raises(InternalError, match="silent ended with code 3 and without a word"):
        Made(short_path).errand("silent")


@pytest.mark.parametrize("mode", ["auto", "off"])
def test_without_groups_it_runs_all_the_same(short_path: Path, programs: Path, mode: Mode) -> None:
    (programs / "works.py").write_text("print('{\"fine\": true}')\n")
    made = Made(short_path, groups=NoGroups("none here"), mode=mode)
    assert made.errand("works") == {"fine": True}
    assert errand.run_errand is run_errand
