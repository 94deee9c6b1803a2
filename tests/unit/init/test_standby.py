"""The worker that waits, as the daemon sees it: when one is started, and what becomes of one that is no use. A small
program stands for it; the real one is in tests/system/test_standby.py."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from thaloom import __version__
from thaloom.base.clock import ManualClock
from thaloom.base.events import Recorder
from thaloom.base.ids import DeviceId, ServiceName, WorkerId
from thaloom.base.procs import identify
from thaloom.base.units import GIB
from thaloom.hal.types import Device
from thaloom.init.layout import Layout
from thaloom.init.memory.node_memory import NodeMemory
from thaloom.init.rounds import standby
from thaloom.init.rounds.standby import QUIET_S, ROOM_BYTES, Standby, fits
from thaloom.init.rounds.supervisor import Supervisor
from thaloom.init.walls.confining import Confiner, SandboxConfig
from thaloom.init.walls.fencing import Fences
from thaloom.init.walls.leftovers import leftovers, remove_leftovers
from thaloom.kernel.sandbox.grouping import NoGroups
from thaloom.kernel.sandbox.host import NO_WALLS
from thaloom.kernel.sandbox.walls import Sandbox
from thaloom.kernel.state.types import ServiceSpec

CPU = DeviceId("cpu")
SAYS = """
import socket, sys
daemon = socket.socket(fileno=0)
for words in sys.argv[1:]:
    daemon.send(words.encode())
    if not daemon.recv(1 << 20):
        break
"""
WAITS = f'{{"type":"Waits","version":"{__version__}"}}'
TAKEN, REFUSED = '{"type":"Taken"}', '{"type":"Refused","reason":"no"}'


class Scene:
    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, *says: str) -> None:
        self.layout = Layout(folder / "h")
        self.layout.create()
        self.clock = ManualClock(100.0)
        self.events = Recorder()
        self.available = GIB
        self.processes: list[Any] = []
        self.released: list[WorkerId] = []
        device = Device(
            id=CPU, driver="cpu", kind="cpu", name="c", vendor="v", memory_bytes=GIB, num_cores=1,
            dtypes=frozenset({"f32"}), isolation="process",
        )  # fmt: skip
        self.memory = NodeMemory(
            [device], host_total_bytes=GIB, host_available=lambda: self.available, readings=dict, headroom_bytes=0
        )
        sandbox = Sandbox(walls=NO_WALLS, groups=NoGroups("a test"), mode="off")
        self.standby = Standby(
            self.layout,
            enabled=True,
            driver="cpu",
            fences=Fences(self.layout, SandboxConfig(), sandbox),
            confiner=cast(Confiner, SimpleNamespace(release=lambda worker: self.released.append(worker) or True)),
            memory=self.memory,
            supervisor=cast(Supervisor, self.processes),
            clock=self.clock,
            emit=self.events,
        )
        self.memory.give_up = self.standby.end
        command = [sys.executable, "-S", "-c", SAYS, *says]
        monkeypatch.setattr(standby, "worker_command", lambda *_, **__: command)

    def told(self) -> list[str]:
        return [event.name for event in self.events.events]

    async def pass_time(self, seconds: float) -> None:
        """And what was begun meanwhile is begun."""
        self.standby.look(wanted=True)
        await asyncio.sleep(0.02)
        await self.clock.advance(seconds)
        await asyncio.sleep(0.02)

    async def become(self, worker: WorkerId) -> int | None:
        log = self.layout.service_log(ServiceName("a"))
        self.standby.hand_over(worker)
        process = await self.standby.become(worker, plan=None, environment={}, told={}, log=log)
        return None if process is None else process.pid


def run(scene: Scene, test: Callable[[], Awaitable[None]]) -> None:
    async def inside() -> None:
        keeping = asyncio.create_task(scene.standby.run())
        try:
            async with asyncio.timeout(60):
                await test()
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)

    asyncio.run(inside())
    assert scene.memory.kept_bytes == 0
    assert list(scene.layout.workers.iterdir()) == []


async def until(what: Callable[[], object]) -> None:
    while not what():
        await asyncio.sleep(0.01)


def test_one_waits_once_it_is_quiet_and_is_ended_when_nobody_wants_it(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(short_path, monkeypatch, WAITS)

    async def test() -> None:
        loading = SimpleNamespace(id="w", alive=True, ready_since=None, stats=None, lease=SimpleNamespace(pid=0))
        scene.processes.append(loading)
        for _ in range(5):
            await scene.pass_time(1.0)
        assert scene.told() == [], "somebody is loading"
        scene.processes.clear()
        await scene.pass_time(QUIET_S + 2)
        await until(lambda: scene.standby.pid is not None)
        assert scene.told() == ["StandbyReady"]
        assert scene.memory.kept_bytes > 0
        pid = scene.standby.pid
        assert pid is not None
        scene.standby.look(wanted=False)
        assert scene.standby.pid is None
        await until(lambda: identify(pid) is None)
        await until(lambda: scene.released)
        assert scene.told() == ["StandbyReady"]

    run(scene, test)


def test_none_is_started_where_memory_is_short(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(short_path, monkeypatch, WAITS)
    scene.available = ROOM_BYTES - 1

    async def test() -> None:
        await scene.pass_time(60.0)
        assert scene.standby.pid is None
        assert scene.told() == []

    run(scene, test)


@pytest.mark.parametrize("says", [(), ("nonsense",), (WAITS.replace(__version__, "0.0.0"),)])
def test_one_that_is_no_use_is_told_and_tried_less_and_less_often(
    short_path: Path, monkeypatch: pytest.MonkeyPatch, says: tuple[str, ...]
) -> None:
    scene = Scene(short_path, monkeypatch, *says)

    async def test() -> None:
        for number in range(3):
            await scene.pass_time(2.0**number * QUIET_S + 2)
            await until(lambda number=number: scene.told().count("StandbyLost") > number)  # type: ignore[misc]
        assert set(scene.told()) == {"StandbyLost"}
        assert [event.fields()["retry_in_s"] for event in scene.events.events] == [4.0, 8.0, 16.0]
        assert len(scene.released) == 3
        assert scene.standby.pid is None

    run(scene, test)


def test_it_is_offered_to_our_own_engine_and_becomes_that_worker(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(short_path, monkeypatch, WAITS, TAKEN)

    async def test() -> None:
        await scene.pass_time(QUIET_S + 2)
        await until(lambda: scene.standby.pid is not None)
        pid, spec = scene.standby.pid, ServiceSpec(name=ServiceName("a"), model="m")
        worker = scene.standby.offered(spec)
        assert worker is not None
        assert await scene.become(WorkerId("w-another")) is None
        scene.standby.claim(worker)
        assert scene.memory.kept_bytes > 0
        scene.standby.hand_over(worker)
        assert scene.memory.kept_bytes == 0
        assert await scene.become(worker) == pid
        assert scene.standby.offered(spec) is None
        await asyncio.sleep(0.05)
        assert not scene.released, "it is somebody's now"

    run(scene, test)
    assert not fits(ServiceSpec(name=ServiceName("a"), model="m", engine="onnx"))


@pytest.mark.parametrize("answer", [REFUSED, "nonsense", None])
def test_one_that_does_not_become_it_is_ended_and_told(
    short_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str | None
) -> None:
    scene = Scene(short_path, monkeypatch, WAITS, *([] if answer is None else [answer]))

    async def test() -> None:
        await scene.pass_time(QUIET_S + 2)
        await until(lambda: scene.standby.pid is not None)
        pid = scene.standby.pid
        worker = scene.standby.offered(ServiceSpec(name=ServiceName("a"), model="m"))
        assert worker is not None
        assert pid is not None
        scene.standby.claim(worker)
        assert await scene.become(worker) is None
        assert identify(pid) is None
        assert scene.told() == ["StandbyReady", "StandbyUnused"]

    run(scene, test)


def test_a_worker_that_is_not_to_be_takes_it_along(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(short_path, monkeypatch, WAITS)

    async def test() -> None:
        await scene.pass_time(QUIET_S + 2)
        await until(lambda: scene.standby.pid is not None)
        worker = scene.standby.offered(ServiceSpec(name=ServiceName("a"), model="m"))
        assert worker is not None
        await scene.standby.drop(WorkerId("w-another"))
        pid = scene.standby.pid
        assert pid is not None
        scene.standby.claim(worker)
        await scene.standby.drop(worker)
        assert identify(pid) is None
        assert scene.standby.pid is None
        assert scene.memory.kept_bytes == 0
        assert "StandbyLost" not in scene.told()
        assert not scene.released, "whoever claimed it clears it away"

    run(scene, test)


@pytest.mark.parametrize("ends", ["it is asked for", "it is not wanted", "it is killed"])
def test_one_that_ends_once_it_is_claimed_leaves_its_successor_all_there_is(
    short_path: Path, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    """Its id, its files and its group are those of the process that is started in its place."""
    scene = Scene(short_path, monkeypatch, WAITS)

    async def test() -> None:
        await scene.pass_time(QUIET_S + 2)
        await until(lambda: scene.standby.pid is not None)
        pid = scene.standby.pid
        worker = scene.standby.offered(ServiceSpec(name=ServiceName("a"), model="m"))
        assert worker is not None
        assert pid is not None
        scene.standby.claim(worker)
        files = leftovers(scene.layout, worker)
        files[0].mkdir()
        for file in files[1:]:
            file.write_text("{}")
        match ends:
            case "it is asked for":
                assert scene.standby.end() == 0
            case "it is not wanted":
                scene.standby.look(wanted=False)
            case _:
                os.kill(pid, signal.SIGKILL)
        for _ in range(5):
            await scene.pass_time(QUIET_S + 2)
        scene.standby.hand_over(worker)
        assert await scene.become(worker) is None
        assert identify(pid) is None
        assert scene.told() == ["StandbyReady", "StandbyUnused"], "and none is started beside it"
        assert not scene.released
        assert all(file.exists() for file in files)
        await asyncio.to_thread(remove_leftovers, scene.layout, worker)

    run(scene, test)
