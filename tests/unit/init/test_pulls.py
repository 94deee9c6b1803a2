"""Pulls under way: followed by several, left by all, bounded, ended, and never the end of the node."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.models import make_model
from thaloom.base.clock import ManualClock
from thaloom.base.errors import (
    CorruptObject,
    Forbidden,
    InternalError,
    ModelNotFound,
    NodeNotRunning,
    OutOfMemory,
    QueueFull,
)
from thaloom.base.events import Degraded, Recorder
from thaloom.init.access.vault import Vault
from thaloom.init.errands import pulls as module
from thaloom.init.errands.pulls import Pulls
from thaloom.init.events import PullBegun, PullEnded
from thaloom.init.layout import Layout
from thaloom.init.walls.confining import SandboxConfig
from thaloom.init.walls.fencing import Fences
from thaloom.kernel.models.pulling.sources import parse_source
from thaloom.kernel.models.store import ModelStore
from thaloom.kernel.models.types import HubSettings, Manifest
from thaloom.kernel.sandbox.grouping import NoGroups
from thaloom.kernel.sandbox.host import NO_WALLS
from thaloom.kernel.sandbox.walls import Sandbox

MODEL = parse_source("org/name")


@dataclass
class Errands:
    """In the place of processes: each waits for `go`, and then does what it is told to."""

    go: asyncio.Event = field(default_factory=asyncio.Event)
    outcome: Any = None
    specs: list[dict[str, Any]] = field(default_factory=list)
    running: int = 0
    most: int = 0

    async def run(
        self, name: str, arguments: Any, progress: Any, *, said: bytes, env: Any, pass_fds: Any, fence: Any
    ) -> Any:
        self.specs.append(json.loads(said))
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            progress("pulling", 1, 2)
            await self.go.wait()
            if isinstance(self.outcome, Exception):
                raise self.outcome
            return {"model": "mine", "degraded": [{"reason": "R", "message": "m"}]}
        finally:
            self.running -= 1


@dataclass
class Node:
    pulls: Pulls
    errands: Errands
    events: Recorder
    came: list[Manifest]

    async def pull(self, source: str = "org/name", progress: Any = lambda *_: None, **options: Any) -> Manifest:
        known: dict[str, Any] = {"replace": False, "read_through": False, "encrypt": False} | options
        return await self.pulls.pull(parse_source(source), HubSettings(), None, progress=progress, **known)


@asynccontextmanager
async def node(folder: Path, monkeypatch: pytest.MonkeyPatch, **options: bool) -> AsyncIterator[Node]:
    low = options.pop("low_memory", False)

    def require_memory(what: str) -> None:
        if low:
            raise OutOfMemory(f"{what} is not begun", available_bytes=1)

    errands, events, came = Errands(), Recorder(), []
    monkeypatch.setattr(module, "run_errand", errands.run)
    for name in ("HF_ENDPOINT", "HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    layout = Layout(folder / "h")
    layout.create()
    store = ModelStore(layout.models, ManualClock())
    store.import_path(make_model(folder / "mine"))
    async with asyncio.TaskGroup() as tasks:
        settings = {"air_gap": False, "read_through": False} | options
        vault = Vault(layout, key_file="", passphrase=None, has_encrypted=lambda: False, environment={}, emit=events)
        unwalled = Sandbox(walls=NO_WALLS, groups=NoGroups("none"), mode="off")
        pulls = Pulls(
            layout, models=store, tasks=tasks, clock=ManualClock(), emit=events, pulled=came.append, vault=vault,
            fences=Fences(layout, SandboxConfig(), unwalled), require_memory=require_memory, **settings,
        )  # fmt: skip
        yield Node(pulls, errands, events, came)
        await pulls.close()


Test = Callable[[Node], Awaitable[None]]


@pytest.fixture
def run(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def run_test(test: Test, **options: bool) -> None:
        async def inside() -> None:
            async with node(short_path, monkeypatch, **options) as made:
                async with asyncio.timeout(30):
                    await test(made)

        asyncio.run(inside())

    return run_test


async def until(what: Callable[[], Any]) -> None:
    while not what():
        await asyncio.sleep(0.001)


def test_two_who_ask_for_the_same_follow_one_pull(run: Any) -> None:
    async def test(node: Node) -> None:
        steps: list[Any] = []
        first = asyncio.create_task(node.pull(progress=lambda *step: steps.append(step)))
        await until(lambda: node.errands.specs)
        followed: list[Any] = []
        second = asyncio.create_task(node.pull(progress=lambda *step: followed.append(step)))
        await until(lambda: followed)
        node.errands.go.set()
        assert await first == await second
        assert len(node.errands.specs) == 1
        assert ("pulling", 1, 2) in steps
        assert [str(manifest.name) for manifest in node.came] == ["mine"]
        assert len(node.events.of(PullBegun)) == len(node.events.of(PullEnded)) == 1
        assert node.events.of(Degraded)[0].message == "m", "what was bent is told"

    run(test)


def test_who_leaves_leaves_the_pull_running(run: Any) -> None:
    async def test(node: Node) -> None:
        left = asyncio.create_task(node.pull())
        await until(lambda: node.errands.specs)
        left.cancel()
        await asyncio.wait([left])
        assert node.errands.running == 1
        seen: list[Any] = []
        back = asyncio.create_task(node.pull(progress=lambda *step: seen.append(step)))
        await until(lambda: seen)
        assert seen[0] == ("pulling", 1, 2), "who comes back is told at once how far it is"
        node.errands.go.set()
        await back
        assert len(node.errands.specs) == 1

    run(test)


@pytest.mark.parametrize(
    ("outcome", "leaf"), [(CorruptObject("x"), CorruptObject), (ValueError("a defect"), InternalError)]
)
def test_what_goes_wrong_reaches_the_caller_and_not_the_node(run: Any, outcome: Exception, leaf: type) -> None:
    async def test(node: Node) -> None:
        node.errands.outcome = outcome
        node.errands.go.set()
        with pytest.raises(leaf):
            await node.pull()
        (ended,) = node.events.of(PullEnded)
        assert (ended.model, ended.code) == (None, leaf.code)
        node.errands.outcome = None
        assert str((await node.pull()).name) == "mine", "and it may be asked for again"

    run(test)


def test_more_than_the_node_keeps_in_mind_is_refused(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_PULLS", 3)

    async def test(node: Node) -> None:
        told: set[int] = set()
        asked = [
            asyncio.create_task(node.pull(f"org/n{number}", progress=lambda *_, number=number: told.add(number)))
            for number in range(3)
        ]
        await until(lambda: len(told) == 3)
        with pytest.raises(QueueFull) as refusal:
            await node.pull("org/n9")
        assert refusal.value.retry_after_s
        node.errands.go.set()
        await asyncio.gather(*asked)
        assert node.errands.most == module.AT_ONCE

    run(test)


def test_the_end_of_the_node_ends_them(run: Any) -> None:
    async def test(node: Node) -> None:
        waiting = asyncio.create_task(node.pull())
        await until(lambda: node.errands.specs)
        await node.pulls.close()
        with pytest.raises(NodeNotRunning):
            await waiting
        assert node.errands.running == 0

    run(test)


def test_removing_ends_a_pull_by_any_name_for_it(run: Any) -> None:
    async def test(node: Node) -> None:
        waiting = asyncio.create_task(node.pull())
        await until(lambda: node.errands.specs)
        with pytest.raises(ModelNotFound):
            await node.pulls.remove("org/other")
        assert await node.pulls.remove("hf://org/name@main") == "hf://org/name@main"
        with pytest.raises(NodeNotRunning):
            await waiting

    run(test)


def test_reading_through_wants_leave(run: Any) -> None:
    async def refused(node: Node) -> None:
        with pytest.raises(Forbidden):
            await node.pull(read_through=True)

    async def allowed(node: Node) -> None:
        node.errands.go.set()
        await node.pull(read_through=True)

    run(refused)
    run(allowed, read_through=True)


def test_what_the_process_is_told(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(node: Node) -> None:
        node.errands.go.set()
        monkeypatch.setenv("HF_ENDPOINT", "https://mirror")
        monkeypatch.setenv("HF_TOKEN", "hf_node")
        await node.pull()
        told = node.errands.specs[-1]
        assert told["settings"]["hf_endpoint"] == "https://mirror"
        assert told["settings"]["hf_token"] == "hf_node"
        assert told["closed"] is None
        settings = HubSettings(hf_endpoint="https://other", offline=True)
        await node.pulls.pull(
            MODEL, settings, None, replace=False, read_through=False, encrypt=False, progress=lambda *_: None
        )
        told = node.errands.specs[-1]
        assert told["settings"]["hf_token"] is None, "a token of the node is for the node's endpoint"
        assert "HF_HUB_OFFLINE" in told["closed"]

    async def closed(node: Node) -> None:
        node.errands.go.set()
        await node.pull()
        assert "air-gapped" in node.errands.specs[-1]["closed"]
        assert (await node.pulls.refused_calls())[0] == node.errands.specs[-1]["closed"]

    run(test)
    run(closed, air_gap=True)


def test_low_memory_begins_no_pull(run: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        with pytest.raises(OutOfMemory, match=r"the pull of .*org/name.* is not begun"):
            await node.pull()
        assert node.errands.specs == []

    run(test, low_memory=True)
