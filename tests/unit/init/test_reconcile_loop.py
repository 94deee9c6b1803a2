"""The loop around the decisions, with hands that do nothing but take notes."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from thaloom.base.clock import ManualClock
from thaloom.base.errors import DiskFull, OutOfMemory
from thaloom.base.events import Recorder
from thaloom.base.ids import DeviceId, ServiceName, WorkerId
from thaloom.init.boot import NodeConfig
from thaloom.init.events import ActionFailed, ProcessLost, RoundFailed, ServiceFailing, ServiceHeld
from thaloom.init.memory.admission import Estimate
from thaloom.init.memory.idling import Idling
from thaloom.init.memory.placement import Placement, Planner
from thaloom.init.memory.segments import Segments
from thaloom.init.rounds.actions import Action, Forget, Hold, StartDoor, StartWorker, StopDoor, StopWorker
from thaloom.init.rounds.backoff import CRASH_LOOP, FIRST_S, LONGEST_S
from thaloom.init.rounds.last_words import LastWords
from thaloom.init.rounds.publishing import Publisher
from thaloom.init.rounds.reconcile import Observed
from thaloom.init.rounds.reconcile_loop import ReconcileLoop
from thaloom.init.rounds.records import Records
from thaloom.init.rounds.reporter import Reporter
from thaloom.init.rounds.supervisor import Supervised
from thaloom.kernel.sched.idling import IdleConfig
from thaloom.kernel.state.store import StateStore
from thaloom.kernel.state.types import Service, ServiceSpec

CPU, A = DeviceId("cpu"), ServiceName("a")
BOOM = LastWords(message="boom")
PLAN = Placement(
    manifest=cast(Any, None),
    device=CPU,
    estimate=Estimate(weight_bytes=10, kv_bytes=0, scratch_bytes=0, process_bytes=0, context_length=1),
)


class Machine:
    """Hands and eyes: what is started is there, what is forgotten is not."""

    def __init__(self) -> None:
        self.processes: dict[WorkerId, Observed] = {}
        self.performed: list[Action] = []
        self.fault: Exception | None = None
        self.free = 100

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def observe(self) -> tuple[Observed, ...]:
        return tuple(self.processes.values())

    def measured_sharing(self) -> None: ...

    def free_bytes(self, processes: object) -> dict[DeviceId, int]:
        return {CPU: self.free}

    def settle(self, processes: object) -> None:
        pass

    async def perform(self, action: Action) -> None:
        self.performed.append(action)
        if self.fault is not None:
            raise self.fault
        number = WorkerId(f"p{len(self.performed)}")
        match action:
            case StartWorker(service=service, revision=revision):
                self.add(number, role="worker", service=service, revision=revision)
            case StartDoor(address=address):
                self.add(number, role="door", address=address)
            case StopWorker(worker=process) | StopDoor(door=process):
                self.change(process, stopping=True)
            case Forget(id=process):
                del self.processes[process]
            case Hold():
                raise AssertionError("a hold is not performed")

    def add(self, number: WorkerId, **facts: Any) -> None:
        facts = {"service": None, "revision": 0, "address": "", "alive": True} | facts
        self.processes[number] = Observed(id=number, **facts)

    def change(self, process: WorkerId, **facts: Any) -> None:
        self.processes[process] = dataclasses.replace(self.processes[process], **facts)

    def kinds(self) -> list[str]:
        return [type(action).__name__ for action in self.performed]


class Bench:
    """ReconcileLoop over a Machine. `plan` is what the planner answers."""

    def __init__(self, store: StateStore, clock: ManualClock) -> None:
        self.store = store
        self.clock = clock
        self.events = Recorder()
        self.records = Records()
        self.machine: Any = Machine()
        self.published: list[object] = []
        self.plan: Any = PLAN
        self.reconcile_loop = ReconcileLoop(
            NodeConfig(),
            store=store,
            planner=cast(Planner, SimpleNamespace(plan=self._plan, forget=lambda service: None)),
            memory=self.machine,
            supervisor=self.machine,
            executor=self.machine,
            records=self.records,
            reporter=cast(Reporter, SimpleNamespace(routes=lambda: (), forget=lambda service: None)),
            publisher=cast(Publisher, SimpleNamespace(publish=lambda routes, _aliases: self.published.append(routes))),
            idling=Idling(
                IdleConfig(), store=store, memory=self.machine, supervisor=self.machine, clock=clock, emit=self.events
            ),
            segments=Segments(clock, self.events, max_idle_bytes=0),
            clock=clock,
            emit=self.events,
        )

    async def _plan(self, service: Service) -> Any:
        if isinstance(self.plan, Exception):
            raise self.plan
        return self.plan

    def wish(self) -> None:
        self.store.put_service(ServiceSpec(name=A, model="m"))

    def lose(self, words: LastWords = BOOM) -> None:
        """Its worker, or the door if there is none, ends unasked before it was ready."""
        process = max(self.machine.processes.values(), key=lambda process: process.role)
        self.machine.change(process.id, alive=False)
        lease = SimpleNamespace(role=process.role, id=process.id, pid=7, service=process.service)
        self.reconcile_loop.process_lost(cast(Supervised, SimpleNamespace(lease=lease, ready_since=None)), words)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    clock = ManualClock(100.0)
    with contextlib.closing(StateStore(tmp_path / "state.db", clock)) as store:
        yield Bench(store, clock)


def settle(bench: Bench) -> bool:
    return asyncio.run(bench.reconcile_loop.settle())


def test_a_round_does_all_there_is_to_do_and_tells_the_door(bench: Bench) -> None:
    bench.wish()
    assert not settle(bench)
    assert bench.machine.kinds() == ["StartDoor", "StartWorker"]
    assert bench.published == [()]
    settle(bench)
    assert len(bench.machine.performed) == 2


def test_the_door_hears_at_once_of_who_is_ready_but_not_before_the_first_look(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.reconcile_loop.tell_of_ready()
    assert bench.published == [], "who else serves is not known yet"
    settle(bench)
    bench.reconcile_loop.tell_of_ready()
    assert bench.published == [(), ()]


@pytest.mark.parametrize("error", [DiskFull("no room"), MemoryError(), ValueError("a bug")])
def test_an_error_while_the_door_hears_of_who_is_ready_is_counted_and_tried_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    settle(bench)

    def fail() -> None:
        raise error

    async def tell() -> None:
        bench.reconcile_loop.tell_of_ready()

    monkeypatch.setattr(bench.reconcile_loop, "tell_doors", fail)
    asyncio.run(tell())
    assert bench.reconcile_loop.failures == 1


def test_a_lost_worker_comes_back_after_its_back_off(bench: Bench) -> None:
    bench.wish()
    settle(bench)
    bench.lose()
    settle(bench)
    assert bench.machine.kinds()[2:] == ["Forget"]
    (lost,) = bench.events.of(ProcessLost)
    assert (lost.fields()["retry_in_s"], lost.fields()["last_words"]) == (FIRST_S, "boom")
    asyncio.run(bench.clock.advance(FIRST_S))
    settle(bench)
    assert bench.machine.kinds()[3:] == ["StartWorker"]


def test_a_crash_loop_is_told_with_the_last_words_and_goes_on_slowly(bench: Bench) -> None:
    bench.wish()
    for _ in range(CRASH_LOOP):
        settle(bench)
        bench.lose()
        asyncio.run(bench.clock.advance(LONGEST_S))
    (failing,) = bench.events.of(ServiceFailing)
    assert failing.fields()["message"] == "boom"
    assert bench.records.backoff(A).failed
    settle(bench)
    assert bench.machine.kinds().count("StartWorker") == CRASH_LOOP + 1


def test_a_worker_that_lacked_memory_is_tried_again_until_there_is_enough(bench: Bench) -> None:
    bench.wish()
    for _ in range(2 * CRASH_LOOP):
        settle(bench)
        bench.lose(LastWords(reason="OutOfMemory", message="needs 5, 3 free", short=True))
        asyncio.run(bench.clock.advance(LONGEST_S))
    assert bench.events.of(ServiceFailing) == []
    assert not bench.records.backoff(A).failed
    settle(bench)
    assert bench.machine.kinds().count("StartWorker") == 2 * CRASH_LOOP + 1


def test_memory_that_does_not_come_back_in_time_fails_no_service(bench: Bench) -> None:
    bench.wish()
    bench.machine.fault = OutOfMemory("a waits for memory that is lent")
    for _ in range(2 * CRASH_LOOP):
        settle(bench)
        asyncio.run(bench.clock.advance(LONGEST_S))
    assert bench.machine.kinds().count("StartWorker") == 2 * CRASH_LOOP
    assert not bench.records.backoff(A).failed
    assert bench.records.last_words(A).short


def test_a_worker_that_said_it_is_hopeless_is_not_tried_again_until_somebody_insists(bench: Bench) -> None:
    bench.wish()
    settle(bench)
    bench.lose(LastWords(reason="NotServable", message="no such architecture", hopeless=True))
    asyncio.run(bench.clock.advance(1e6))
    settle(bench)
    assert bench.machine.kinds().count("StartWorker") == 1
    assert bench.events.of(ProcessLost)[0].fields()["retry_in_s"] is None
    bench.reconcile_loop.renewed(A)
    settle(bench)
    assert bench.machine.kinds().count("StartWorker") == 2


def test_a_start_that_fails_is_put_off_and_others_go_on(bench: Bench) -> None:
    bench.wish()
    bench.machine.fault = OutOfMemory("needs 5, 3 free")
    settle(bench)
    assert bench.machine.kinds() == ["StartDoor", "StartWorker"]
    assert [event.fields()["message"] for event in bench.events.of(ActionFailed)] == ["needs 5, 3 free"] * 2
    assert bench.records.last_words(A).reason == "OutOfMemory"
    bench.machine.fault = None
    asyncio.run(bench.clock.advance(FIRST_S))
    settle(bench)
    assert len(bench.machine.processes) == 2


def test_an_end_that_cannot_be_booked_ends_the_round_and_is_tried_again(bench: Bench) -> None:
    bench.wish()
    settle(bench)
    bench.lose()
    bench.machine.fault = DiskFull("no space left")
    settle(bench)
    settle(bench)
    assert bench.machine.kinds()[2:] == ["Forget", "Forget"]
    bench.machine.fault = None
    settle(bench)
    assert bench.machine.kinds()[4:] == ["Forget"]


def test_a_hold_is_told_once(bench: Bench) -> None:
    bench.wish()
    bench.machine.free = 5
    settle(bench)
    settle(bench)
    (held,) = bench.events.of(ServiceHeld)
    assert held.fields()["reason"] == "OutOfMemory"
    bench.machine.free = 100
    settle(bench)
    assert bench.records.hold(A) is None
    assert "StartWorker" in bench.machine.kinds()


def test_an_error_of_ours_ends_the_round_and_not_the_daemon(bench: Bench) -> None:
    bench.wish()
    bench.plan = ZeroDivisionError("ours")
    assert not settle(bench)
    (failed,) = bench.events.of(RoundFailed)
    assert "ZeroDivisionError" in failed.fields()["message"]
    bench.plan = PLAN
    settle(bench)
    assert len(bench.machine.processes) == 2


def test_it_runs_until_everything_has_ended(bench: Bench) -> None:
    async def run() -> None:
        bench.wish()
        running = asyncio.ensure_future(bench.reconcile_loop.run())
        await breathe()
        assert len(bench.machine.processes) == 2
        bench.reconcile_loop.going_down = True
        bench.reconcile_loop.wake()
        for _ in range(2):
            await breathe()
            (leaving,) = [p.id for p in bench.machine.processes.values() if p.stopping and p.alive]
            bench.machine.change(leaving, alive=False)
            bench.reconcile_loop.wake()
        await running

    asyncio.run(run())
    assert bench.machine.kinds() == ["StartDoor", "StartWorker", "StopDoor", "Forget", "StopWorker", "Forget"]
    assert [service.spec.name for service in bench.store.services()] == [A]


def test_it_wakes_by_itself_when_a_back_off_ends(bench: Bench) -> None:
    async def run() -> None:
        bench.wish()
        running = asyncio.ensure_future(bench.reconcile_loop.run())
        await breathe()
        bench.lose()
        bench.reconcile_loop.wake()
        await breathe()
        assert bench.machine.kinds().count("StartWorker") == 1
        await bench.clock.advance(FIRST_S)
        await breathe()
        assert bench.machine.kinds().count("StartWorker") == 2
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(run())


def test_removing_a_service_forgets_its_losses(bench: Bench) -> None:
    bench.wish()
    settle(bench)
    bench.lose()
    bench.reconcile_loop.removed(A)
    assert (bench.records.restarts(A), bench.records.backoff(A).failures) == (0, 0)


async def breathe() -> None:
    """Let everything run that can run now."""
    for _ in range(50):
        await asyncio.sleep(0)
