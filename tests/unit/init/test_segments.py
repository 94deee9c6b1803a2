"""Memory for weights as the daemon holds it: given, shared, found again, and gone when nobody needs it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from thaloom.base import memory_files
from thaloom.base.access import MARK
from thaloom.base.clock import ManualClock
from thaloom.base.events import Recorder
from thaloom.base.ids import Digest, ServiceName, WorkerId
from thaloom.init.memory.segments import Segments
from thaloom.init.rounds.supervisor import Supervised
from thaloom.kernel.memory.idle import IDLE_S
from thaloom.kernel.models.types import Manifest
from thaloom.kernel.state.types import ServiceSpec
from thaloom.work.runtime.worker.shared_weights import BLANK, READER

A, B, C = WorkerId("w-a"), WorkerId("w-b"), WorkerId("w-c")
DIGEST, OTHER = Digest("a" * 64), Digest("b" * 64)
SIZE = 1 << 16


def spec(name: str = "a", **wish: Any) -> ServiceSpec:
    return ServiceSpec(name=ServiceName(name), model="m", **wish)


def manifest(digest: Digest = DIGEST, *, encrypted: bool = False) -> Manifest:
    return cast(Manifest, SimpleNamespace(digest=digest, encrypted=encrypted))


class Scene:
    def __init__(self) -> None:
        self.clock = ManualClock(50.0)
        self.events = Recorder()
        self.segments = Segments(self.clock, self.events, max_idle_bytes=3 * SIZE)
        self.processes: dict[WorkerId, Any] = {}
        self._children: dict[WorkerId, list[int]] = {}

    def start(self, worker: WorkerId, given: Manifest | None = None, **wish: Any) -> dict[str, int]:
        """What it inherits: descriptors of its own."""
        told = self.segments.give(worker, spec(**wish), given or manifest(), "cpu")
        assert self.segments.descriptors(told) == tuple(int(number) for number in told.values())
        own = {name: os.dup(int(number)) for name, number in told.items()}
        self.segments.given(worker)
        self.processes[worker] = SimpleNamespace(
            id=worker, alive=True, stats=None, lease=SimpleNamespace(pid=os.getpid(), service="a")
        )
        self._children[worker] = list(own.values())
        return own

    def fill(self, worker: WorkerId, own: dict[str, int]) -> None:
        os.write(own[BLANK], bytes(SIZE))
        memory_files.seal(own[BLANK])
        self.let_go(worker, own[BLANK])

    def let_go(self, worker: WorkerId, descriptor: int) -> None:
        self._children[worker].remove(descriptor)
        os.close(descriptor)

    def ready(self, worker: WorkerId, shared_bytes: int = SIZE) -> None:
        self.processes[worker].stats = SimpleNamespace(ready=True, shared_weight_bytes=shared_bytes)
        self.look()

    def end(self, *workers: WorkerId) -> None:
        for worker in workers:
            self.processes[worker].alive = False
            for descriptor in self._children.pop(worker):
                os.close(descriptor)
        self.look()

    def serve(self, worker: WorkerId, given: Manifest | None = None, **wish: Any) -> None:
        """One that has filled its own and is ready."""
        self.fill(worker, self.start(worker, given, **wish))
        self.ready(worker)

    def wait(self, seconds: float) -> None:
        asyncio.run(self.clock.advance(seconds))

    def look(self) -> None:
        self.segments.look(cast(list[Supervised], list(self.processes.values())))

    def close(self) -> None:
        self.segments.close()
        for descriptors in self._children.values():
            for descriptor in descriptors:
                os.close(descriptor)


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    made.close()


def same(one: int, other: int) -> bool:
    return os.fstat(one).st_ino == os.fstat(other).st_ino


def test_the_first_fills_it_and_the_next_reads_the_same(scene: Scene) -> None:
    first = scene.start(A)
    second = scene.start(B)
    assert set(first) == {READER, BLANK}
    assert set(second) == {READER}  # while it is being filled
    scene.fill(A, first)
    third = scene.start(C)
    assert set(third) == {READER}
    assert same(first[READER], second[READER])
    assert same(first[READER], third[READER])


def test_no_reader_can_write(scene: Scene) -> None:
    scene.serve(A)
    reader = scene.start(B)[READER]
    for change in (lambda: os.write(reader, b"x"), lambda: os.ftruncate(reader, 0)):
        with pytest.raises(OSError):
            change()


@pytest.mark.parametrize(
    ("given", "wish"), [(manifest(encrypted=True), {}), (manifest(), {"engine": "onnx"})], ids=["encrypted", "foreign"]
)
def test_where_nothing_is_to_be_shared_nothing_is_given(scene: Scene, given: Manifest, wish: dict[str, Any]) -> None:
    assert scene.start(A, given, **wish) == {}
    assert scene.segments.give(A, spec(), None, "cpu") == {}


def test_a_host_without_memory_files_gives_nothing(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: str) -> int:
        raise OSError("no memory files")

    monkeypatch.setattr(memory_files, "create", refused)
    assert scene.start(A) == {}


def test_other_formats_models_and_tenants_have_their_own(scene: Scene) -> None:
    scene.serve(A)
    assert BLANK in scene.start(B, weights="int8")
    assert BLANK in scene.start(WorkerId("w-d"), manifest(OTHER))
    assert BLANK in scene.start(C, name="a@tenant")
    assert BLANK not in scene.start(WorkerId("w-e"), name="another")


def test_one_whose_writer_ends_half_way_is_gone_and_the_next_makes_it_anew(scene: Scene) -> None:
    own = scene.start(A)
    os.write(own[BLANK], bytes(SIZE))
    scene.end(A)
    assert scene.segments.held() == {}
    assert scene.segments.idle_bytes() == 0
    assert BLANK in scene.start(B)


def test_one_whose_writer_went_without_is_not_waited_for(scene: Scene) -> None:
    own = scene.start(A)
    scene.let_go(A, own[BLANK])
    assert BLANK in scene.start(B)
    scene.ready(A, shared_bytes=0)
    assert scene.segments.held() == {}


def test_one_that_does_not_fit_its_reader_is_given_to_nobody_else(scene: Scene) -> None:
    scene.serve(A)
    scene.start(B)
    scene.ready(B, shared_bytes=0)
    assert BLANK in scene.start(C)
    ((_, users),) = scene.segments.held().values()
    assert users == {A}  # who uses it goes on
    scene.end(A)
    assert scene.segments.held() == {}
    assert scene.segments.idle_bytes() == 0


def test_it_is_held_once_whoever_uses_it(scene: Scene) -> None:
    scene.serve(A)
    scene.start(B)
    scene.ready(B)
    assert list(scene.segments.held().values()) == [(SIZE, frozenset({A, B}))]
    assert scene.segments.idle_bytes() == 0


def test_it_outlives_its_last_worker_and_then_waits_for_the_next(scene: Scene) -> None:
    scene.serve(A)
    scene.end(A)
    assert scene.segments.held() == {}
    assert scene.segments.idle_bytes() == SIZE
    assert set(scene.start(B)) == {READER}
    assert scene.segments.make_room(SIZE) == 0  # it is given out already


def test_it_does_not_wait_for_ever(scene: Scene) -> None:
    scene.serve(A)
    scene.wait(10 * IDLE_S)
    scene.end(A)
    assert scene.segments.idle_bytes() == SIZE
    scene.wait(IDLE_S)
    scene.look()
    assert scene.segments.idle_bytes() == 0
    (told,) = scene.events.events
    assert (told.name, told.num_bytes, told.idle_s) == ("SharedWeightsDropped", SIZE, IDLE_S)  # type: ignore[attr-defined]


def test_the_longest_idle_goes_when_there_are_too_many_or_memory_is_needed(scene: Scene) -> None:
    workers = [WorkerId(f"w-{number}") for number in range(5)]
    for number, worker in enumerate(workers):
        scene.serve(worker, manifest(Digest(f"{number}" * 64)))
        scene.end(worker)
        scene.wait(1)
    assert scene.segments.idle_bytes() == 3 * SIZE
    assert scene.segments.make_room(1) == SIZE
    assert scene.segments.idle_bytes() == 2 * SIZE
    assert BLANK in scene.start(A, manifest(Digest("2" * 64)))
    assert set(scene.start(B, manifest(Digest("3" * 64)))) == {READER}


def test_of_a_model_that_is_gone_nothing_idle_is_kept(scene: Scene) -> None:
    scene.serve(A)
    scene.serve(B, manifest(OTHER))
    scene.end(B)
    scene.segments.forget(OTHER)
    assert scene.segments.idle_bytes() == 0
    scene.segments.forget(DIGEST)
    assert len(scene.segments.held()) == 1  # used still
    scene.end(A)
    assert scene.segments.idle_bytes() == 0


def test_a_later_daemon_finds_those_of_workers_that_live_and_no_others(scene: Scene) -> None:
    """The worker here is this very process."""
    scene.serve(A)
    half = scene.start(B, manifest(OTHER))
    os.write(half[BLANK], bytes(SIZE))
    later = Segments(scene.clock, scene.events, max_idle_bytes=0)
    later.adopt(cast(list[Supervised], [scene.processes[A]]))
    later.adopt(cast(list[Supervised], [scene.processes[A]]))
    later.look(cast(list[Supervised], [scene.processes[A]]))
    assert list(later.held().values()) == [(SIZE, frozenset({A}))]
    assert set(later.give(C, spec(), manifest(), "cpu")) == {READER}
    told = later.give(C, spec(), manifest(OTHER), "cpu")
    assert BLANK in told
    later.given(C)
    later.close()


def test_nothing_of_a_tenants_worker_is_given_to_anybody_again(scene: Scene) -> None:
    """It may have called it what it liked."""
    scene.serve(A)
    scene.processes[A].lease.service = f"a{MARK}acme"
    later = Segments(scene.clock, scene.events, max_idle_bytes=0)
    later.adopt(cast(list[Supervised], [scene.processes[A]]))
    assert BLANK in later.give(C, spec(), manifest(), "cpu")
    later.given(C)
    later.close()


def test_a_worker_that_ended_meanwhile_has_none_to_find(scene: Scene) -> None:
    gone = SimpleNamespace(id=A, alive=True, stats=None, lease=SimpleNamespace(pid=2**22 - 1, service="a"))
    scene.segments.adopt(cast(list[Supervised], [gone]))
    assert scene.segments.held() == {}


def test_a_start_that_fails_leaves_nothing(scene: Scene) -> None:
    scene.segments.give(A, spec(), manifest(), "cpu")
    scene.segments.given(A)
    scene.look()
    assert BLANK in scene.start(B)
