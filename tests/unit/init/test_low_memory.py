"""Low memory, by readings that are made up; and once for real, in a group that holds a process to little."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from thaloom.base.clock import ManualClock
from thaloom.base.errors import OutOfMemory
from thaloom.base.events import Recorder
from thaloom.init.memory.low_memory import RESERVE_BYTES, MemoryBack, MemoryLow, MemoryReserve, MemoryWatch
from thaloom.kernel.sandbox.finding import find_groups
from thaloom.kernel.sandbox.grouping import folder_name
from thaloom.kernel.sandbox.host import NO_WALLS
from thaloom.kernel.sandbox.types import Limits
from thaloom.kernel.sandbox.walls import Confined, Sandbox

MIB = 1 << 20
LOW = 100 * MIB


class Scene:
    def __init__(self, available: int = 1000 * MIB) -> None:
        self.available = available
        self.events = Recorder()
        self.clock = ManualClock(50.0)
        self.reserve = MemoryReserve(MIB)
        self.watch = MemoryWatch(
            low_bytes=LOW, available=lambda: self.available, clock=self.clock, emit=self.events, reserve=self.reserve
        )

    def sees(self, available: int) -> None:
        self.available = available
        self.watch.look()


def test_what_is_held_is_given_up_once_when_memory_runs_low_and_taken_back_when_there_is_plenty() -> None:
    scene = Scene()
    scene.sees(1000 * MIB)
    assert scene.reserve.held_bytes == MIB
    scene.sees(LOW - 1)
    scene.sees(LOW - 2)
    assert scene.reserve.held_bytes == 0
    assert list(scene.events.events) == [MemoryLow(available_bytes=LOW - 1, low_bytes=LOW, given_up_bytes=MIB)]
    scene.sees(2 * LOW - 1)  # not to go back and forth at the edge
    assert [event.name for event in scene.events.events] == ["MemoryLow"]
    scene.sees(2 * LOW)
    assert list(scene.events.events)[1:] == [MemoryBack(available_bytes=2 * LOW)]
    assert scene.reserve.held_bytes == 0
    scene.sees(2 * LOW + RESERVE_BYTES)
    assert scene.reserve.held_bytes == MIB


def test_what_nobody_uses_is_given_up_for_as_long_as_memory_is_low() -> None:
    scene, idle = Scene(), [5, 7]
    scene.watch = MemoryWatch(
        low_bytes=LOW,
        available=lambda: scene.available,
        clock=scene.clock,
        emit=scene.events,
        reserve=scene.reserve,
        give_up=idle.pop,
    )
    scene.sees(LOW)
    assert idle == [5, 7]
    scene.sees(LOW - 1)
    assert list(scene.events.events) == [MemoryLow(available_bytes=LOW - 1, low_bytes=LOW, given_up_bytes=7)]
    scene.sees(LOW - 1)
    assert idle == []


def test_nothing_new_is_begun_while_it_is_low_and_the_figures_are_told() -> None:
    scene = Scene()
    scene.watch.require("a pull")
    scene.available = 5 * MIB
    with pytest.raises(OutOfMemory, match=r"a pull is not begun: 5\.0 MiB of memory are available") as caught:
        scene.watch.require("a pull")
    assert caught.value.details == {"available_bytes": 5 * MIB, "needed_bytes": 2 * LOW}
    assert caught.value.retry_after_s
    (condition,) = scene.watch.conditions()
    assert (condition.kind, condition.status, condition.reason) == ("Degraded", True, "LowMemory")
    assert condition.since == 50.0
    scene.available = 2 * LOW
    scene.watch.require("a pull")
    assert scene.watch.conditions() == ()


def test_an_allocation_that_fails_gives_the_reserve_back() -> None:
    scene = Scene()
    scene.sees(1000 * MIB)
    scene.watch.out_of_memory()
    assert scene.reserve.held_bytes == 0
    assert scene.reserve.release() == 0


def test_it_is_looked_at_again_and_again() -> None:
    scene = Scene()

    async def run() -> None:
        looking = asyncio.ensure_future(scene.watch.run())
        await asyncio.sleep(0)
        scene.available = 1
        await scene.clock.advance(1.0)
        looking.cancel()

    asyncio.run(run())
    assert [event.name for event in scene.events.events] == ["MemoryLow"]


def test_what_is_held_is_really_there() -> None:
    reserve = MemoryReserve(8 * MIB)
    before = _resident()
    reserve.take()
    assert _resident() - before >= 7 * MIB
    reserve.take()
    assert reserve.held_bytes == 8 * MIB
    assert reserve.release() == 8 * MIB
    assert _resident() - before < 4 * MIB


def _resident() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


PROGRAM = """
import json
from thaloom.base.clock import SystemClock
from thaloom.base.errors import OutOfMemory
from thaloom.base import host_memory
from thaloom.init.memory.low_memory import MemoryReserve, MemoryWatch

MIB = 1 << 20
events = []
reserve = MemoryReserve(16 * MIB)
watch = MemoryWatch(low_bytes=24 * MIB, available=host_memory.available_bytes, clock=SystemClock(), emit=events.append,
                    reserve=reserve)
watch.look()
held, kept = reserve.held_bytes, []
while not events:
    kept.append(bytearray(MIB))
    watch.look()
before = host_memory.available_bytes()
try:
    watch.require("a pull")
except OutOfMemory as error:
    refused = error.details
more = bytearray(16 * MIB)  # what was given up: without it the kernel would end this program here or soon after
print(json.dumps({"held": held, "left": reserve.held_bytes, "event": events[0].name, "refused": refused,
                  "before": before, "after": host_memory.available_bytes()}))
"""


def test_a_process_at_its_limit_has_what_was_kept_for_it(tmp_path: Path) -> None:
    groups = find_groups(folder_name(tmp_path))
    if not {"memory", "swap"} <= {name for name, ability in groups.abilities().items() if ability.enforced}:
        return  # nothing here holds a process to an amount
    sandbox = Sandbox(walls=NO_WALLS, groups=groups)
    limits = Limits(memory_bytes=160 * MIB, swap_bytes=0)
    command = sandbox.fence("low", limits, "normal", [sys.executable, "-c", PROGRAM], plan=tmp_path / "plan")
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        confined = Confined("low", tmp_path / "plan")
        assert done.returncode == 0, done.stderr
        assert confined.strikes().oom_kills == 0
    finally:
        assert Confined("low", tmp_path / "plan").end()
        groups.close()
    told = json.loads(done.stdout)
    assert (told["held"], told["left"], told["event"]) == (16 * MIB, 0, "MemoryLow")
    assert told["refused"]["available_bytes"] < 48 * MIB
    assert told["before"] > 30 * MIB  # less than 24, and what was given up
