"""How idle services are unloaded, woken and kept, with workers that agree or do not."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from thaloom.base.clock import ManualClock
from thaloom.base.errors import BadParameter, NodeNotRunning, OutOfMemory, ServiceNotFound
from thaloom.base.events import Recorder
from thaloom.base.ids import DeviceId, ServiceName, WorkerId
from thaloom.init.acting.guards import ServiceGuard
from thaloom.init.events import ServiceKept, ServiceUnloaded, ServiceWoken
from thaloom.init.memory.idling import UNLOADING, Idling
from thaloom.init.memory.node_memory import NodeMemory
from thaloom.init.memory.waking import Waking
from thaloom.init.rounds.actions import Hold, Unload
from thaloom.init.rounds.reconcile_loop import ReconcileLoop
from thaloom.init.rounds.supervisor import Supervisor
from thaloom.kernel.sched.idling import SETTLED_S, IdleConfig
from thaloom.kernel.state.store import StateStore
from thaloom.kernel.state.types import ServiceSpec

A, W, CPU = ServiceName("a"), WorkerId("w-1"), DeviceId("cpu")
UNLOAD = Unload(service=A, workers=(W,), reason="idle", if_idle_s=300.0, idle_s=400.0)


class Worker:
    """As the supervisor knows it."""

    def __init__(self, worker: WorkerId = W) -> None:
        self.id = worker
        self.lease = SimpleNamespace(service=A, id=worker)
        self.alive = True
        self.stop_reason: str | None = None
        self.ready_since: float | None = 1.0
        self.stats = SimpleNamespace(requests_total=1)
        self.idle: float | None = 400.0
        self.agrees = True

    def idle_s(self, now: float) -> float | None:
        return self.idle


class Bench:
    def __init__(self, store: StateStore, clock: ManualClock) -> None:
        self.store, self.clock, self.events = store, clock, Recorder()
        self.workers = [Worker()]
        self.refusal: Exception | None = None
        self.down = False
        self.settled = 0
        self.told: list[float | None] = []
        store.put_service(ServiceSpec(name=A, model="m"))
        self.idling = Idling(
            IdleConfig(),
            store=store,
            memory=cast(NodeMemory, self),
            supervisor=cast(Supervisor, self),
            clock=clock,
            emit=self.events,
        )
        self.idling.tell_doors = lambda: self.told.append(store.service(A).idle_since)
        self.waking = Waking(
            store, cast(ReconcileLoop, self), guard=cast(ServiceGuard, self), clock=clock, emit=self.events
        )

    # -- what they are handed

    def __iter__(self) -> Iterator[Worker]:
        return iter(self.workers)

    def get(self, worker: WorkerId) -> Worker | None:
        return next((each for each in self.workers if each.id == worker), None)

    async def unload(self, worker: Worker, if_idle_s: float, *, reason: str) -> bool:
        assert self.told, "the doors know first"
        if worker.agrees:
            worker.stop_reason = reason
        return worker.agrees

    def devices_of(self, worker: WorkerId) -> tuple[DeviceId, ...]:
        return (CPU,)

    def held_bytes(self, workers: list[WorkerId], device: DeviceId) -> int:
        return 10 * len(workers)

    def require_up(self) -> None:
        if self.down:
            raise NodeNotRunning("going down")

    def renewed(self, service: ServiceName) -> None:
        assert service == A

    def tell_doors(self) -> None:
        self.settled += 1

    def wake(self) -> None:
        assert self.settled, "the doors know first"

    async def check(self, spec: ServiceSpec) -> None:
        if self.refusal is not None:
            raise self.refusal

    def unloads(self) -> None:
        asyncio.run(self.idling.unload(UNLOAD))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    clock = ManualClock(1000.0)
    with contextlib.closing(StateStore(tmp_path / "state.db", clock)) as store:
        yield Bench(store, clock)


def test_the_doors_are_told_before_the_workers_are_asked(bench: Bench) -> None:
    since = bench.clock.now() - 400.0
    bench.unloads()
    assert bench.told == [since]
    assert bench.store.service(A).idle_since == since
    assert [event.idle_s for event in bench.events.of(ServiceUnloaded)] == [400.0]
    assert bench.idling.leaving_bytes() == {CPU: 10}
    assert bench.idling.loaded() == ()


def test_a_worker_that_is_asked_something_keeps_its_service(bench: Bench) -> None:
    bench.store.put_rest(A, idle_since=None, asked_keep_alive_s=7.0)
    bench.workers = [Worker(), Worker(WorkerId("w-2"))]
    bench.workers[0].agrees = False
    asyncio.run(bench.idling.unload(Unload(service=A, workers=(W, WorkerId("w-2")), reason="idle", if_idle_s=1.0)))
    kept = bench.store.service(A)
    assert (kept.idle_since, kept.asked_keep_alive_s) == (None, 7.0)
    assert bench.workers[1].stop_reason == UNLOADING
    assert bench.events.of(ServiceKept)
    assert not bench.events.of(ServiceUnloaded)


def test_what_a_request_asked_for_ends_with_the_unloading(bench: Bench) -> None:
    asyncio.run(bench.waking.keep(A, 60.0))
    assert [one.keep_alive_s for one in bench.idling.loaded()] == [60.0]
    asyncio.run(bench.waking.keep(A, 60.0))
    assert bench.settled == 1, "the same again changes nothing"
    bench.unloads()
    assert bench.store.service(A).asked_keep_alive_s is None
    asyncio.run(bench.waking.keep(A, 60.0))
    assert bench.store.service(A).asked_keep_alive_s is None, "there is nothing to keep"
    with pytest.raises(BadParameter):
        asyncio.run(bench.waking.keep(A, float("nan")))


def test_the_least_idle_of_several_workers_counts(bench: Bench) -> None:
    bench.workers = [Worker(), Worker(WorkerId("w-2"))]
    bench.workers[1].idle = 3.0
    (one,) = bench.idling.loaded()
    assert (one.idle_s, one.num_bytes, one.keep_alive_s) == (3.0, 20, 300.0)
    bench.workers[0].idle = None
    assert bench.idling.loaded()[0].idle_s is None


def test_who_was_woken_is_there_when_he_is_asked(bench: Bench) -> None:
    bench.store.put_service(ServiceSpec(name=A, model="m", keep_alive_s=0.0))
    assert bench.idling.loaded()[0].keep_alive_s == 0.0
    bench.workers[0].stats.requests_total = 0
    assert bench.idling.loaded()[0].keep_alive_s == SETTLED_S
    asyncio.run(bench.waking.keep(A, 0.0))
    assert bench.idling.loaded()[0].keep_alive_s == 0.0, "somebody wants it gone now"


def test_waking_begins_a_start_once(bench: Bench) -> None:
    bench.unloads()

    async def twice() -> None:
        await asyncio.gather(bench.waking.wake(A, "x"), bench.waking.wake(A, "x"))

    asyncio.run(twice())
    woken = bench.store.service(A)
    assert (woken.idle_since, woken.waking, bench.settled) == (None, True, 1)
    (event,) = bench.events.of(ServiceWoken)
    assert event.idle_s == 400.0
    asyncio.run(bench.waking.wake(A, "x"))
    assert bench.settled == 1
    with pytest.raises(ServiceNotFound):
        asyncio.run(bench.waking.wake(ServiceName("none"), "x"))


@pytest.mark.parametrize("refusal", [OutOfMemory("too big"), NodeNotRunning("going down")])
def test_what_cannot_be_woken_stays_idle(bench: Bench, refusal: Exception) -> None:
    bench.unloads()
    bench.refusal, bench.down = refusal, isinstance(refusal, NodeNotRunning)
    with pytest.raises(type(refusal)):
        asyncio.run(bench.waking.wake(A, "x"))
    assert bench.store.service(A).idle_since is not None
    assert not bench.events.of(ServiceWoken)


def test_what_was_woken_is_awake_once_it_is_ready_and_idle_again_where_there_is_no_room(bench: Bench) -> None:
    bench.store.put_rest(A, idle_since=None, waking=True)
    bench.workers[0].ready_since = None
    bench.idling.settle_waking([])
    assert bench.store.service(A).waking
    bench.workers[0].ready_since = 5.0
    bench.idling.settle_waking([])
    assert not bench.store.service(A).waking
    bench.store.put_rest(A, idle_since=None, waking=True)
    bench.idling.settle_waking([Hold(service=A, reason="OutOfMemory", message="no room")])
    assert bench.store.service(A).idle_since == bench.clock.now()


@pytest.mark.parametrize(
    ("settings", "param"),
    [({"keep_alive_s": float("inf")}, "keep_alive_s"), ({"wake_limit_s": 0}, "wake_limit_s"),
     ({"wake_limit_s": 4000}, "wake_limit_s")],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(settings: Any, param: str) -> None:
    with pytest.raises(BadParameter) as caught:
        IdleConfig(**settings)
    assert caught.value.param == param
