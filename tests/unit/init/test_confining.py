from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from thaloom.base.clock import ManualClock
from thaloom.base.errors import BadParameter, NotEnforceable
from thaloom.base.ids import DeviceId, ServiceName, WorkerId
from thaloom.init import wiring
from thaloom.init.boot import NodeConfig
from thaloom.init.layout import Layout
from thaloom.init.memory.admission import Estimate
from thaloom.init.memory.placement import Placement
from thaloom.init.rounds.last_words import LastWords
from thaloom.init.walls.confining import Confiner, SandboxConfig
from thaloom.kernel.models.store import ModelStore
from thaloom.kernel.sandbox.finding import find_groups
from thaloom.kernel.sandbox.group import Group
from thaloom.kernel.sandbox.grouping import Groups, NoGroups, folder_name
from thaloom.kernel.sandbox.host import NO_WALLS, Walls, find_walls
from thaloom.kernel.sandbox.latency import WEIGHTS
from thaloom.kernel.sandbox.plan import read_plan, shown_in
from thaloom.kernel.sandbox.types import TURN_NS, Confinement, Latency
from thaloom.kernel.sandbox.walls import Sandbox
from thaloom.kernel.state.types import ServiceSpec

TINY = Path(__file__).parents[3] / "models" / "tiny"
W = WorkerId("w-1")
SPEC = ServiceSpec(name=ServiceName("a"), model="tiny")
ESTIMATE = Estimate(weight_bytes=4, kv_bytes=0, scratch_bytes=0, process_bytes=100, context_length=8)


@pytest.fixture(scope="module")
def walls() -> Walls:
    return find_walls()


class Made:
    def __init__(self, folder: Path, built: Walls, groups: Groups | None = None, **config: object) -> None:
        self.layout = Layout(folder / "h")
        self.layout.create()
        self.models = ModelStore(self.layout.models, ManualClock())
        manifest = self.models.import_path(TINY)
        self.plan = Placement(manifest=manifest, device=DeviceId("cpu"), estimate=ESTIMATE)
        settings = SandboxConfig(**config)  # type: ignore[arg-type]
        groups = groups or NoGroups("none here")
        sandbox = Sandbox(walls=built, groups=groups, mode=settings.walls)
        self.confiner = Confiner(self.layout, settings, sandbox=sandbox, models=self.models)

    def confine(self, spec: ServiceSpec = SPEC, plan: Placement | None = None) -> list[str]:
        self.layout.worker_spec(W).touch()
        return self.confiner.confine(W, spec, plan or self.plan, [sys.executable, "-c", "pass"])

    @property
    def steps(self) -> list[tuple[str, ...]]:
        return read_plan(self.layout.worker_walls(W))


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short one: sockets lie in it."""
    return tmp_path_factory.mktemp("c")


def test_a_worker_sees_its_model_and_its_folder_and_nothing_else_of_the_node(tmp_path: Path, walls: Walls) -> None:
    made = Made(tmp_path, walls)
    other = made.models.import_path(TINY, made.plan.manifest.name.parse("other"))  # type: ignore[union-attr]
    secret = made.models.root / "objects" / "ab" / "secret"
    secret.parent.mkdir(exist_ok=True)
    secret.touch()
    made.confine()
    if "view" not in walls.enforced:
        return
    assert made.plan.manifest is not None
    for path in made.models.files(made.plan.manifest):
        assert path.is_file()
        assert shown_in(made.steps, str(path))
    for path in (
        secret, made.layout.state, made.layout.keys, made.layout.control_socket, made.layout.config,
        made.layout.worker_socket(WorkerId("w-2")), made.layout.worker_spec(WorkerId("w-2")), made.layout.logs,
        made.models.root / "manifests" / "other" / "latest.json",
    ):  # fmt: skip
        assert not shown_in(made.steps, str(path)), path
    assert shown_in(made.steps, str(made.layout.worker_socket(W)))
    assert other.digest == made.plan.manifest.digest


@pytest.mark.parametrize(
    ("engine", "network", "whole"),
    [("thaloom", "none", False), ("onnx", "none", False), ("transformers", "loopback", False),
     ("llama.cpp", "loopback", True), ("vllm", "loopback", True), ("openai", "host", False)],
)  # fmt: skip
def test_each_engine_has_the_network_it_needs(
    tmp_path: Path, walls: Walls, engine: str, network: str, whole: bool
) -> None:
    made = Made(tmp_path, walls)
    plan = made.plan if engine in ("thaloom", "onnx", "transformers") else dataclasses.replace(made.plan, manifest=None)
    spec = dataclasses.replace(SPEC, engine=engine, url="http://127.0.0.1:1" if engine == "openai" else None)  # type: ignore[arg-type]
    made.confine(spec, plan)
    if "syscalls" in walls.enforced:
        assert ("syscalls", network) in made.steps
    if "view" in walls.enforced:
        assert (("view", "read", "/", "/") in made.steps) is whole
        assert not shown_in(made.steps, str(made.layout.state))
    assert ("VLLM_CACHE_ROOT" in made.confiner.environment(spec)) is whole


def test_memory_is_the_estimate_and_slack_where_that_can_be_held(tmp_path: Path, walls: Walls) -> None:
    groups = find_groups(folder_name(tmp_path))
    made = Made(tmp_path, walls, groups, memory_slack_bytes=64 << 20, scratch_bytes=1 << 20)
    made.confine()
    confined = made.confiner._confined(W)
    if groups.abilities()["memory"].enforced:
        wanted = 104 + 26 + (64 << 20) + (1 << 20)
        limit = confined.group.memory_limit()
        assert limit is not None
        assert abs(limit - wanted) <= os.sysconf("SC_PAGE_SIZE")
    else:
        assert confined.group.memory_limit() is None
    made.confiner.release(W)
    assert not confined.group.exists()
    made.confiner.close()


@pytest.mark.parametrize("asked", [None, "interactive", "normal", "batch"])
def test_a_latency_class_is_had_whole_or_refused(tmp_path: Path, walls: Walls, asked: Latency | None) -> None:
    made = Made(tmp_path, walls, find_groups(folder_name(tmp_path)))
    spec = dataclasses.replace(SPEC, latency=asked)
    ability = made.confiner._sandbox.latency(asked or "interactive")
    if asked is not None and not ability.enforced:
        with pytest.raises(NotEnforceable, match=f"latency '{asked}' cannot be enforced on this host"):
            made.confine(spec)
        return
    made.confine(spec)
    given = made.confiner.latency(spec)
    assert given == (asked or ("interactive" if ability.enforced else "normal"))
    group = made.confiner._confined(W).group
    if "cpu" in group.places:  # v1
        assert (group.places["cpu"] / "cpu.shares").read_text().strip() == str(WEIGHTS[given] * 1024 // 100)
    turn = ("schedule", "0", "0", str(TURN_NS))
    assert (turn in made.steps) is (given == "interactive")
    assert (("schedule", "3", "10", "0") in made.steps) is (given == "batch")
    made.confiner.release(W)
    made.confiner.close()


@pytest.mark.parametrize("how", ["no groups", "off"])
def test_what_nobody_named_is_normal_where_it_cannot_be_had(tmp_path: Path, walls: Walls, how: str) -> None:
    """And what is named is refused, before anything is started."""
    made = Made(tmp_path, walls, walls="off" if how == "off" else "auto")
    assert made.confiner.latency(SPEC) == "normal"
    made.confiner.require_latency(SPEC)
    made.confiner.require_latency(dataclasses.replace(SPEC, latency="normal"))
    for asked in ("interactive", "batch"):
        with pytest.raises(NotEnforceable) as caught:
            made.confiner.require_latency(dataclasses.replace(SPEC, latency=asked))
        assert caught.value.param == "latency"
    made.confine()
    assert not [step for step in made.steps if step[0] == "schedule"]


def test_the_class_of_who_names_none_is_the_nodes(tmp_path: Path, walls: Walls) -> None:
    made = Made(tmp_path, walls, find_groups(folder_name(tmp_path)), latency="normal")
    assert made.confiner.latency(SPEC) == "normal"


def test_foreign_engines_are_not_held_to_a_guess(tmp_path: Path, walls: Walls) -> None:
    made = Made(tmp_path, walls, find_groups(folder_name(tmp_path)))
    spec = dataclasses.replace(SPEC, engine="vllm")
    made.confine(spec, dataclasses.replace(made.plan, manifest=None))
    assert made.confiner._confined(W).group.memory_limit() is None
    made.confiner.release(W)
    made.confiner.close()


def test_where_we_stand_does_not_matter_inside(tmp_path: Path, walls: Walls, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path would mean another folder there, and another version of ourselves might be imported."""
    made = Made(tmp_path, walls)
    monkeypatch.setenv("PYTHONPATH", f"src{os.pathsep}/opt/x{os.pathsep}")
    monkeypatch.chdir(tmp_path)
    assert made.confiner.environment(SPEC) == {"PYTHONPATH": f"{tmp_path}/src{os.pathsep}/opt/x"}
    monkeypatch.delenv("PYTHONPATH")
    assert made.confiner.environment(SPEC) == {}


def test_a_tier_on_the_disk_is_the_workers_own_folder(tmp_path: Path, walls: Walls) -> None:
    made = Made(tmp_path, walls)
    spec = dataclasses.replace(SPEC, kv_host_bytes=1 << 20, kv_disk_bytes=1 << 30)
    made.confine(spec)
    folder = made.layout.worker_tier(W)
    assert folder.is_dir()
    assert folder.is_relative_to(made.layout.worker_folder(W)), "so that it goes with the worker"
    if ("landlock", "none") in made.steps:
        assert ("allow", "write", str(folder)) in made.steps


def test_off_is_the_bare_command(tmp_path: Path) -> None:
    made = Made(tmp_path, NO_WALLS, NoGroups(""), walls="off")
    assert made.confine() == [sys.executable, "-c", "pass"]
    assert made.confiner.missing() == ()
    words = LastWords(message="No space left on device")
    assert made.confiner.named(W, 1, words, tmp_path) is words
    assert made.confiner.running_into(W) is None
    made.confiner.release(W)


def test_required_refuses_to_start_without_a_wall(tmp_path: Path) -> None:
    made = Made(tmp_path, NO_WALLS, NoGroups(""), walls="required")
    with pytest.raises(NotEnforceable, match="view"):
        made.confine()
    assert made.confiner.missing()


def test_last_words_that_say_it_all_are_kept(tmp_path: Path, walls: Walls) -> None:
    made = Made(tmp_path, walls)
    made.confine()
    hopeless = LastWords(reason="CorruptObject", message="No space left on device", hopeless=True)
    assert made.confiner.named(W, 6, hopeless, tmp_path) is hopeless
    named = made.confiner.named(W, 1, LastWords(message="OSError: [Errno 28] No space left on device"), tmp_path)
    assert named.reason == "ScratchFull"


def test_what_a_dead_daemon_left_is_ended_unless_somebody_owns_it(tmp_path: Path, walls: Walls) -> None:
    groups = find_groups(folder_name(tmp_path / "h"))
    made = Made(tmp_path, walls, groups)
    sandbox = Sandbox(walls=walls, groups=groups)
    sleepers = {}
    for name in ("w-owned", "w-orphan", "w-spared"):
        program = [sys.executable, "-I", "-S", "-c", "import time; print('up', flush=True); time.sleep(1000)"]
        wish = Confinement(read=(*_python(),))
        command = sandbox.confine(name, wish, program, plan=made.layout.worker_walls(WorkerId(name)))
        sleepers[name] = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert sleepers[name].stdout.readline() == b"up\n"  # type: ignore[union-attr]
    try:
        ended = made.confiner.sweep({WorkerId("w-owned")}, [sleepers["w-spared"].pid])
        if groups.version == "none":
            return
        assert ended == ["w-orphan"]
        assert sleepers["w-orphan"].wait(60) == -9
        assert sleepers["w-owned"].poll() is None
        assert sleepers["w-spared"].poll() is None
        assert made.layout.worker_walls(WorkerId("w-owned")).exists()
    finally:
        for sleeper in sleepers.values():
            sleeper.kill()
            sleeper.wait(60)
            sleeper.stdout.close()  # type: ignore[union-attr]
        for _ in range(1000):
            made.confiner.sweep(())
            if not groups.list():
                break
        assert groups.list() == []
        made.confiner.close()


@pytest.mark.parametrize("wrong", [{"scratch_bytes": 1}, {"memory_slack_bytes": -1}, {"num_pids": 1}])
def test_settings_are_checked(wrong: dict[str, int]) -> None:
    with pytest.raises(BadParameter, match=next(iter(wrong))):
        SandboxConfig(**wrong)


def _python() -> tuple[str, ...]:
    from thaloom.kernel.sandbox.host import python_paths

    return python_paths()


def test_the_node_settles_among_its_groups_before_anything_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With version 2 a door that was born beside the daemon would keep it from making any group that limits."""
    settled: list[str] = []

    class Settling(NoGroups):
        def settle(self) -> None:
            settled.append("settled")

    monkeypatch.setattr(wiring, "find_groups", lambda name: Settling("none here"))
    monkeypatch.setattr(wiring, "find_walls", lambda folder: NO_WALLS)
    wiring._sandbox(Layout(tmp_path), NodeConfig())
    assert settled == ["settled"]


def test_groups_that_two_threads_end_at_once_are_none_of_them_forgotten(
    tmp_path: Path, walls: Walls, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Made(tmp_path, walls)
    workers, gone, together = [WorkerId("w-1"), WorkerId("w-2")], threading.Event(), threading.Barrier(2)

    def kill(group: Group) -> bool:
        with contextlib.suppress(threading.BrokenBarrierError):
            together.wait(0.2)  # the other is as far, if it may be
        return True

    monkeypatch.setattr(Group, "kill", kill)
    monkeypatch.setattr(Group, "delete", lambda group: gone.is_set())
    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(made.confiner.release, workers)) == [False, False]
    assert sorted(group.name for group in made.confiner._ending) == workers
    gone.set()
    assert made.confiner.release(workers[0])
    assert made.confiner._ending == []
