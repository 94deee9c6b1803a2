"""Whatever is wished and whatever is found, the decisions lead to the wishes, and then there are no more of them."""

from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from thaloom.base.ids import DeviceId, ServiceName, WorkerId
from thaloom.init.rounds.actions import Action, Forget, Hold, StartDoor, StartWorker, StopDoor, StopWorker, Unload
from thaloom.init.rounds.reconcile import Observed, Snapshot, Wish, decide
from thaloom.kernel.sched.idling import Loaded

NAMES = ["a", "b", "c"]
ADDRESSES = ["127.0.0.1:1", "127.0.0.1:2"]
CPU = DeviceId("cpu")


@st.composite
def snapshots(draw: st.DrawFn, *, going_down: st.SearchStrategy[bool] = st.booleans()) -> Snapshot:  # noqa: B008
    names = draw(st.lists(st.sampled_from(NAMES), unique=True))
    wishes = tuple(
        Wish(
            service=ServiceName(name),
            revision=draw(st.integers(1, 2)),
            device=draw(st.sampled_from([CPU, CPU, DeviceId("gone"), None])),
            needed_bytes=draw(st.integers(0, 100)),
            replicas=draw(st.sampled_from([1, 1, 2, 3])),
            next_try_at=draw(st.sampled_from([0.0, 5.0, 50.0])),
            obstacle=draw(st.sampled_from([None, None, Hold(service=ServiceName(name), reason="R", message="m")])),
            idle=draw(st.sampled_from([False, False, True])),
        )
        for name in names
    )
    processes = tuple(
        Observed(
            id=WorkerId(f"p{index}"),
            role=role,
            service=ServiceName(draw(st.sampled_from(NAMES))) if role == "worker" else None,
            revision=draw(st.integers(1, 2)),
            address=draw(st.sampled_from(ADDRESSES)),
            alive=draw(st.booleans()),
            was_ready=draw(st.booleans()),
            stopping=draw(st.booleans()),
        )
        for index, role in enumerate(draw(st.lists(st.sampled_from(["worker", "worker", "door"]), max_size=6)))
    )
    return Snapshot(
        now=10.0,
        going_down=draw(going_down),
        grace_s=1.0,
        door_address=ADDRESSES[0],
        door_next_try_at=draw(st.sampled_from([0.0, 50.0])),
        wishes=wishes,
        processes=processes,
        free_bytes={CPU: draw(st.integers(0, 250))},
        loaded=tuple(draw(loaded(wish)) for wish in wishes if not wish.idle),
    )


def loaded(wish: Wish) -> st.SearchStrategy[Loaded]:
    return st.builds(
        Loaded,
        service=st.just(wish.service),
        device=st.just(CPU),
        num_bytes=st.integers(0, 100),
        idle_s=st.sampled_from([None, 0.0, 20.0, 400.0]),
        keep_alive_s=st.sampled_from([-1.0, 0.0, 300.0]),
        priority=st.sampled_from(["high", "normal", "low"]),
    )


def changes(snapshot: Snapshot) -> list[Action]:
    return [action for action in decide(snapshot) if not isinstance(action, Hold)]


def apply(snapshot: Snapshot, action: Action, number: int) -> Snapshot:
    """The machine after the action, as a new look would find it."""
    processes = list(snapshot.processes)
    free = dict(snapshot.free_bytes)
    match action:
        case StartWorker():
            assert free[action.device] >= action.needed_bytes
            free[action.device] -= action.needed_bytes
            processes.append(
                Observed(
                    id=WorkerId(f"n{number}"),
                    role="worker",
                    service=action.service,
                    revision=action.revision,
                    address="",
                    alive=True,
                )
            )
        case StartDoor():
            processes.append(
                Observed(
                    id=WorkerId(f"n{number}"),
                    role="door",
                    service=None,
                    revision=0,
                    address=action.address,
                    alive=True,
                )
            )
        case StopWorker(worker=process) | StopDoor(door=process):
            processes = [dataclasses.replace(p, stopping=p.stopping or p.id == process) for p in processes]
        case Unload(service=service, workers=workers):
            processes = [dataclasses.replace(p, stopping=p.stopping or p.id in workers) for p in processes]
            wishes = tuple(dataclasses.replace(w, idle=w.idle or w.service == service) for w in snapshot.wishes)
            left = tuple(one for one in snapshot.loaded if one.service != service)
            freed = sum(one.num_bytes for one in snapshot.loaded if one.service == service)
            free[CPU] += freed
            snapshot = dataclasses.replace(snapshot, wishes=wishes, loaded=left)
        case Forget(id=process):
            processes = [p for p in processes if p.id != process]
        case Hold():
            pass
    return dataclasses.replace(snapshot, processes=tuple(processes), free_bytes=free)


def run_to_rest(snapshot: Snapshot) -> Snapshot:
    """Carry out one action at a time, as ReconcileLoop does; what is being stopped ends when nothing else is to do."""
    for number in range(100):
        todo = changes(snapshot)
        if todo:
            snapshot = apply(snapshot, todo[0], number)
            continue
        if all(process.alive and not process.stopping and process.was_ready for process in snapshot.processes):
            return snapshot
        later = tuple(
            dataclasses.replace(p, alive=p.alive and not p.stopping, was_ready=True) for p in snapshot.processes
        )
        snapshot = dataclasses.replace(snapshot, processes=later)
    raise AssertionError("it never comes to rest")


@given(snapshots())
def test_it_comes_to_rest(snapshot: Snapshot) -> None:
    rest = run_to_rest(snapshot)
    assert changes(rest) == []
    assert all(process.alive and not process.stopping for process in rest.processes)
    if rest.going_down:
        assert rest.processes == ()
        return
    workers = [process for process in rest.processes if process.role == "worker"]
    wishes = {wish.service: wish for wish in rest.wishes}
    for process in workers:
        assert process.service is not None
        wish = wishes[process.service]
        assert [other.service for other in workers].count(process.service) <= wish.replicas
        if wish.replicas == 1 or _can_be_tried(wish, rest):
            assert wish.revision == process.revision
    doors = [process for process in rest.processes if process.role == "door"]
    assert [door.address for door in doors] in ([rest.door_address], [])
    assert doors or rest.door_next_try_at > rest.now


def _can_be_tried(wish: Wish, snapshot: Snapshot) -> bool:
    return wish.obstacle is None and wish.device in snapshot.free_bytes and wish.next_try_at <= snapshot.now


@given(snapshots(going_down=st.just(False)))
def test_of_several_replicas_one_at_a_time_is_replaced(snapshot: Snapshot) -> None:
    """While the new ones come up, all but one of those that served go on."""
    for wish in snapshot.wishes:
        workers = [p for p in snapshot.processes if p.alive and p.service == wish.service]
        serving = [p for p in workers if p.was_ready and not p.stopping]
        stopped = [
            action
            for action in decide(snapshot)
            if isinstance(action, StopWorker) and action.service == wish.service and action.reason == "wish changed"
            and any(p.id == action.worker for p in serving)
        ]  # fmt: skip
        if wish.replicas > 1 and len(serving) < len(workers):
            assert stopped == [], "one is on its way already"


@given(snapshots(going_down=st.just(False)))
def test_every_wish_is_met_held_or_waits_for_its_turn(snapshot: Snapshot) -> None:
    rest = run_to_rest(snapshot)
    held = {action.service for action in decide(rest) if isinstance(action, Hold)}
    served = {process.service for process in rest.processes}
    for wish in rest.wishes:
        assert wish.service in held | served or wish.next_try_at > rest.now or wish.idle


@given(snapshots(going_down=st.just(False)))
def test_what_is_idle_comes_to_have_no_worker_and_what_is_pinned_or_asked_stays(snapshot: Snapshot) -> None:
    rest = run_to_rest(snapshot)
    served = {process.service for process in rest.processes}
    assert not any(wish.idle and wish.service in served for wish in rest.wishes)
    was_idle = {wish.service for wish in snapshot.wishes if wish.idle}
    unloaded = {wish.service for wish in rest.wishes if wish.idle} - was_idle
    for one in snapshot.loaded:
        assert not (one.service in unloaded and (one.pinned or one.idle_s is None))


@given(snapshots())
def test_the_same_snapshot_gives_the_same_actions_and_each_once(snapshot: Snapshot) -> None:
    actions = decide(snapshot)
    assert actions == decide(snapshot)
    most = {wish.service: wish.replicas for wish in snapshot.wishes}
    for action in actions:
        assert actions.count(action) <= (most[action.service] if isinstance(action, StartWorker | Hold) else 1)


@given(snapshots(going_down=st.just(False)))
def test_a_worker_as_wished_is_never_stopped(snapshot: Snapshot) -> None:
    """Whether it answers is not even among the facts: a late heartbeat cannot cost it its life."""
    assert not {"ready", "late", "answered_at"} & {field.name for field in dataclasses.fields(Observed)}
    wished = {(wish.service, wish.revision) for wish in snapshot.wishes}
    stopped = {action.worker for action in decide(snapshot) if isinstance(action, StopWorker)}
    for service, revision in wished:
        right = [
            process.id
            for process in snapshot.processes
            if process.alive and not process.stopping and (process.service, process.revision) == (service, revision)
        ]
        others = [
            process.id
            for process in snapshot.processes
            if process.alive and not process.stopping and process.service == service and process.id not in right
        ]
        if right and not others:
            assert right[0] not in stopped


@given(snapshots(going_down=st.just(False)))
def test_nothing_is_started_beyond_what_is_free(snapshot: Snapshot) -> None:
    started = [action for action in decide(snapshot) if isinstance(action, StartWorker)]
    assert sum(action.needed_bytes for action in started) <= snapshot.free_bytes[CPU]
