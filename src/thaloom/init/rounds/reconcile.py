"""What to do next, from what is wished and what is there. Pure: a frozen snapshot in, actions out.

Level-triggered: the whole answer follows from the present alone, so a lost event, a crash between two steps or a
second look changes nothing. Carrying the actions out and looking again until none is left is
`init.rounds.reconcile_loop`.

Two things no rule here may do: stop a worker because it is silent (only a changed wish or an orderly `down` stops
one), and promise a device more than it has.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from thaloom.base.ids import DeviceId, ServiceName, WorkerId
from thaloom.init.memory.room import Room
from thaloom.init.rounds.actions import Action, Forget, Hold, StartDoor, StartWorker, StopDoor, StopWorker, Unload
from thaloom.kernel.sched.idling import SETTLED_S, Loaded

Workers = Mapping[ServiceName, tuple[WorkerId, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A service that should be served."""

    service: ServiceName
    revision: int
    device: DeviceId | None
    """Where it would run; None if there is no such device now."""
    needed_bytes: int
    next_try_at: float = 0.0
    """Not before this moment (back-off after a loss)."""
    replicas: int = 1
    obstacle: Hold | None = None
    """Why it cannot be tried at all (no such model ...)."""
    idle: bool = False
    """It is to have no workers until somebody asks for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """A process of ours, by its lease. That it answers late is deliberately not among the facts."""

    id: WorkerId
    role: Literal["worker", "door"]
    service: ServiceName | None
    revision: int
    address: str
    """Of a door: `host:port`."""
    alive: bool
    was_ready: bool = False
    """Whether it ever was ready; whether it answers now is not told."""
    stopping: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything `decide` may know. `now` is monotonic seconds."""

    now: float
    going_down: bool
    grace_s: float
    door_address: str
    door_next_try_at: float = 0.0
    wishes: tuple[Wish, ...] = ()
    processes: tuple[Observed, ...] = ()
    free_bytes: Mapping[DeviceId, int] = field(default_factory=dict)
    """What each device can still be asked for, by the ledger and by measure."""
    loaded: tuple[Loaded, ...] = ()
    """Services that have workers and are to have them, and for how long nobody has asked them anything."""
    leaving_bytes: Mapping[DeviceId, int] = field(default_factory=dict)
    """What is about to come back from workers that are being unloaded."""


def decide(snapshot: Snapshot) -> tuple[Action, ...]:
    """The actions that bring the machine nearer to the wishes; none when it is there."""
    if snapshot.going_down:
        return tuple(_forget_dead(snapshot)) + tuple(_go_down(snapshot))
    return (
        *_forget_dead(snapshot),
        *_keep_door(snapshot),
        *_stop_unwanted(snapshot),
        *_unload_idle(snapshot),
        *_start_missing(snapshot),
    )


def next_look_at(snapshot: Snapshot) -> float | None:
    """When the same snapshot could ask for something new by the passing of time alone; None: never."""
    moments = [wish.next_try_at for wish in snapshot.wishes] + [snapshot.door_next_try_at]
    moments += [snapshot.now + one.due_in_s for one in snapshot.loaded if one.due_in_s is not None]
    return min((moment for moment in moments if snapshot.now < moment < math.inf), default=None)


def _forget_dead(snapshot: Snapshot) -> Iterator[Action]:
    for process in snapshot.processes:
        if not process.alive:
            yield Forget(id=process.id, service=process.service)


def _go_down(snapshot: Snapshot) -> Iterator[Action]:
    """The door first, so that nobody is let in to a worker that is about to stop."""
    doors = [process for process in _alive(snapshot) if process.role == "door"]
    for process in doors or _alive(snapshot):
        if process.stopping:
            continue
        if process.role == "door":
            yield StopDoor(door=process.id, reason="down", grace_s=snapshot.grace_s)
        else:
            yield StopWorker(worker=process.id, service=process.service, reason="down", grace_s=snapshot.grace_s)


def _keep_door(snapshot: Snapshot) -> Iterator[Action]:
    doors = [process for process in _alive(snapshot) if process.role == "door"]
    right = [door for door in doors if door.address == snapshot.door_address and not door.stopping]
    for door in doors:
        if door not in right[:1] and not door.stopping:
            reason = "superfluous" if right else "address changed"
            yield StopDoor(door=door.id, reason=reason, grace_s=snapshot.grace_s)
    if not doors and snapshot.now >= snapshot.door_next_try_at:
        yield StartDoor(address=snapshot.door_address)


def _stop_unwanted(snapshot: Snapshot) -> Iterator[Action]:
    wishes = {wish.service: wish for wish in snapshot.wishes}
    seen: Counter[ServiceName | None] = Counter()
    workers = [process for process in _alive(snapshot) if process.role == "worker"]
    for process in workers:
        if process.stopping:
            continue
        seen[process.service] += 1
        wish = wishes.get(process.service) if process.service is not None else None
        if wish is None:
            reason = "no longer wished"
        elif process.revision != wish.revision:
            if not _may_leave(process, wish, workers, snapshot):
                continue
            reason = "wish changed"
        elif seen[process.service] > wish.replicas:
            reason = "superfluous"
        else:
            continue
        yield StopWorker(worker=process.id, service=process.service, reason=reason, grace_s=snapshot.grace_s)


def _may_leave(process: Observed, wish: Wish, workers: list[Observed], snapshot: Snapshot) -> bool:
    """Whether an outdated worker may make place for a new one. The only one always; of several one after the other,
    each when all the others serve, so that a new version that does not come up costs one of them. Where there is no
    room for a new one, somebody has to make it."""
    if wish.replicas == 1 or not process.was_ready:
        return True
    others = [other for other in workers if other.service == process.service and other is not process]
    if any(other.stopping or not other.was_ready for other in others):
        return False
    free_bytes = snapshot.free_bytes.get(wish.device, 0) if wish.device is not None else math.inf
    return len(others) + 1 >= wish.replicas or free_bytes < wish.needed_bytes


def _unload_idle(snapshot: Snapshot) -> Iterator[Action]:
    """What nobody has asked for as long as it is kept; and what a killed daemon had not unloaded to the end."""
    workers = _workers(snapshot)
    idle = {wish.service for wish in snapshot.wishes if wish.idle}
    for service in sorted(idle & workers.keys()):
        yield Unload(service=service, workers=workers[service], reason="idle", if_idle_s=0.0)
    for one in snapshot.loaded:
        if one.due_in_s is not None and one.due_in_s <= 0 and one.service in workers:
            yield _unload(one, workers, "idle", if_idle_s=one.keep_alive_s)


def _start_missing(snapshot: Snapshot) -> Iterator[Action]:
    """In order of the wishes. One that is leaving holds its place until it has ended: its memory is not back yet."""
    workers = _workers(snapshot)
    room = Room(snapshot.free_bytes, snapshot.leaving_bytes, [one for one in snapshot.loaded if one.service in workers])
    taken = Counter(process.service for process in _alive(snapshot) if process.role == "worker")
    wished = [wish for wish in snapshot.wishes if not wish.idle]
    missing = [wish for wish in wished for _ in range(wish.replicas - taken[wish.service])]
    for wish in missing:
        if wish.obstacle is not None:
            yield wish.obstacle
        elif wish.device is None or wish.device not in room:
            yield Hold(service=wish.service, reason="DeviceNotFound", message=f"no device {wish.device or 'to run on'}")
        elif snapshot.now < wish.next_try_at:
            continue
        elif room.take(wish.device, wish.needed_bytes):
            yield StartWorker(
                service=wish.service, revision=wish.revision, device=wish.device, needed_bytes=wish.needed_bytes
            )
        elif (making_room := room.promise(wish.service, wish.device, wish.needed_bytes)) is not None:
            for one in making_room:
                yield _unload(one, workers, f"{wish.service!r} needs its memory", if_idle_s=SETTLED_S)
        else:
            short = room.shortage(wish.service, wish.device, wish.needed_bytes)
            left = room.free_bytes(wish.device)
            yield Hold(service=wish.service, reason="OutOfMemory", message=short, free_bytes=left)


def _unload(one: Loaded, workers: Workers, reason: str, *, if_idle_s: float) -> Unload:
    return Unload(
        service=one.service,
        workers=workers[one.service],
        reason=reason,
        if_idle_s=if_idle_s,
        idle_s=one.idle_s or 0.0,
    )


def _workers(snapshot: Snapshot) -> Workers:
    """By service: those that are not leaving."""
    found: dict[ServiceName, tuple[WorkerId, ...]] = {}
    for process in _alive(snapshot):
        if process.role == "worker" and process.service is not None and not process.stopping:
            found[process.service] = (*found.get(process.service, ()), process.id)
    return found


def _alive(snapshot: Snapshot) -> list[Observed]:
    return [process for process in snapshot.processes if process.alive]
