"""What an attempt of an earlier daemon has come to, by the files its reaper left."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest

from thaloom.base.clock import SystemClock
from thaloom.base.events import Recorder
from thaloom.base.ids import JobName
from thaloom.base.procs import identify
from thaloom.init.jobs.confining import JobWalls
from thaloom.init.jobs.files import JobFiles
from thaloom.init.jobs.lifecycle import End
from thaloom.init.jobs.reaper.plan import ReaperPlan
from thaloom.init.jobs.runs import Runs
from thaloom.init.recovery import Running
from thaloom.kernel.sandbox.ends import Met
from thaloom.kernel.sandbox.types import Usage
from thaloom.kernel.state.jobs.types import JobSpec

A = JobName("a")
SPEC = JobSpec(name=A, command=("true",), deadline_s=9.0)
GONE = "4194000\t1"
"""A process that is not there."""


class Walls:
    """None, but for what they are said to have met."""

    def __init__(self) -> None:
        self.ended: list[int] = []
        self.wall: Any = None

    def met(self, *_: Any, **__: Any) -> Any:
        return self.wall

    def end(self, _job: JobName, attempt: int, _files: JobFiles, _mark: str) -> bool:
        self.ended.append(attempt)
        return len(self.ended) > 1  # the first time the kernel still clears somebody away

    def usage(self, *_: Any) -> Usage:
        return Usage()


class Scene:
    def __init__(self, jobs: Path, tasks: asyncio.TaskGroup) -> None:
        self.walls, self.emitted, self.news = Walls(), Recorder(), asyncio.Event()
        self.files = JobFiles(jobs / A)
        self.files.create()
        self.runs = Runs(
            jobs,
            walls=cast(JobWalls, self.walls),
            tasks=tasks,
            clock=SystemClock(),
            emit=self.emitted,
            wake=self.news.set,
        )

    async def end(self) -> End:
        async with asyncio.timeout(30):
            await self.news.wait()
        end = self.runs.observe()[A].end
        assert end is not None
        return end


def on_scene(tmp_path: Path, act: Callable[[Scene], Awaitable[None]]) -> None:
    async def run() -> None:
        async with asyncio.TaskGroup() as tasks:
            await act(Scene(tmp_path, tasks))

    asyncio.run(run())


def wrote(files: JobFiles, by: str = "exit", exit_code: int | None = 0, signal: int | None = None) -> None:
    facts = {"by": by, "exit_code": exit_code, "signal": signal, "ended_at": 5.0, "log_lost_bytes": 0}
    files.ended_file(1).write_text(json.dumps(facts).ljust(100))


def claimed(files: JobFiles, program: str | None = GONE) -> None:
    files.claim_file(1).write_text(f"reaper\t{GONE}\n" + (f"program\t{program}\n" if program else ""))


@pytest.mark.parametrize("claim", [False, True])
def test_what_came_to_nothing_can_be_begun_again(claim: bool, tmp_path: Path) -> None:
    async def act(scene: Scene) -> None:
        if claim:
            claimed(scene.files, program=None)
        assert not scene.runs.look_for(SPEC, 1, [])
        assert scene.runs.observe() == {}
        assert not scene.files.claim_file(1).exists()

    on_scene(tmp_path, act)


def test_an_end_that_was_written_meanwhile_is_read_and_what_is_left_is_cleared_away(tmp_path: Path) -> None:
    async def act(scene: Scene) -> None:
        claimed(scene.files)
        wrote(scene.files, exit_code=3)
        scene.files.log.write_text("some\nwords\n")
        assert scene.runs.look_for(SPEC, 1, [])
        assert await scene.end() == End(by="exit", at=5.0, exit_code=3, message="some\nwords")
        assert scene.walls.ended == [1, 1]

    on_scene(tmp_path, act)


def test_a_claim_with_a_program_and_no_end_is_a_loss_and_says_what_the_reaper_said(tmp_path: Path) -> None:
    async def act(scene: Scene) -> None:
        claimed(scene.files)
        scene.files.reaper_log.write_text("KeyError: 7\n")
        assert scene.runs.look_for(SPEC, 1, [])
        end = await scene.end()
        assert end.by == "lost"
        assert "KeyError: 7" in end.message

    on_scene(tmp_path, act)


def test_a_reaper_that_has_not_got_as_far_as_its_lock_is_found_by_its_command(tmp_path: Path) -> None:
    async def act(scene: Scene) -> None:
        child = await asyncio.create_subprocess_exec("sleep", "30")
        identity = identify(child.pid)
        assert identity is not None
        arguments = ("python", "reaper", str(scene.files.plan(1)), "5")
        assert scene.runs.look_for(SPEC, 1, [Running(identity=identity, arguments=arguments)])
        assert [event.name for event in scene.emitted.events] == ["JobAdopted"]
        claimed(scene.files)
        wrote(scene.files)
        child.kill()
        await child.wait()
        assert (await scene.end()).succeeded

    on_scene(tmp_path, act)


@pytest.mark.parametrize(
    ("by", "code", "signal", "wall", "named"),
    [
        ("exit", 1, None, ("memory", Met(reason="MemoryLimit", message="too much")), ("memory", "too much")),
        ("exit", 0, None, ("memory", Met(reason="MemoryLimit", message="too much")), ("exit", "")),
        ("signal", None, 31, ("walls", Met(reason="ForbiddenCall", message="it")), ("walls", "it")),
        ("signal", None, 9, None, ("signal", "")),
        (
            "deadline",
            None,
            15,
            ("memory", Met(reason="MemoryLimit", message="")),
            ("deadline", "it was not over in 9 s"),
        ),
        ("stopped", None, 15, None, ("down", "")),
    ],
)
def test_an_end_is_named_by_who_or_what_brought_it(
    by: str, code: int | None, signal: int | None, wall: Any, named: tuple[str, str], tmp_path: Path
) -> None:
    async def act(scene: Scene) -> None:
        claimed(scene.files)
        wrote(scene.files, by, code, signal)
        scene.walls.wall = wall
        scene.runs.look_for(SPEC, 1, [])
        end = await scene.end()
        assert (end.by, end.message) == named

    on_scene(tmp_path, act)


def test_a_launcher_that_failed_is_no_end_of_the_program(tmp_path: Path) -> None:
    async def act(scene: Scene) -> None:
        claimed(scene.files)
        wrote(scene.files, exit_code=71)
        failure = {"code": "not_enforceable", "message": "wall 'view' cannot be built", "details": {}}
        scene.files.failure(1).write_text(json.dumps(failure))
        scene.runs.look_for(SPEC, 1, [])
        end = await scene.end()
        assert (end.by, end.message) == ("not_started", "wall 'view' cannot be built")

    on_scene(tmp_path, act)


def test_a_reaper_that_cannot_begin_is_tried_some_times_and_then_said_so(tmp_path: Path) -> None:
    async def act(scene: Scene) -> None:
        files = scene.files
        plan = ReaperPlan(
            attempt=1, claim="/no/such/folder/claim", ended=str(files.ended_file(1)), lock=str(files.lock),
            log=str(files.log), log_bytes=1 << 20, grace_s=1.0, command=["/bin/true"], walled=False,
        )  # fmt: skip
        scene.walls.ended.append(0)
        for times in range(1, 5):
            scene.news.clear()
            scene.runs.start(SPEC, plan, {"PATH": os.defpath})
            async with asyncio.timeout(30):
                await scene.news.wait()
            assert bool(scene.runs.observe()) == (times == 4), "else it is there to be begun again"
        end = scene.runs.observe()[A].end
        assert end is not None
        assert end.by == "not_started"
        assert "/no/such/folder/claim" in end.message

    on_scene(tmp_path, act)
