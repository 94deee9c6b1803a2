"""What is decided, from snapshots written by hand."""

from __future__ import annotations

import dataclasses
import math

from thaloom.base.ids import DeviceId, ServiceName, WorkerId
from thaloom.init.rounds.actions import (
    Action,
    Forget,
    Hold,
    StartDoor,
    StartWorker,
    StopDoor,
    StopWorker,
    Unload,
    subject,
    to_record,
)
from thaloom.init.rounds.reconcile import Observed, Snapshot, Wish, decide, next_look_at
from thaloom.kernel.sched.idling import SETTLED_S, Loaded

CPU = DeviceId("cpu")
ADDRESS = "127.0.0.1:7411"


def wish(name: str = "a", **changes: object) -> Wish:
    base = Wish(service=ServiceName(name), revision=1, device=CPU, needed_bytes=10)
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def worker(name: str | None = "a", **changes: object) -> Observed:
    base = Observed(
        id=WorkerId(f"w-{name}"),
        role="worker",
        service=None if name is None else ServiceName(name),
        revision=1,
        address="/run/w.sock",
        alive=True,
    )
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def door(**changes: object) -> Observed:
    base = Observed(id=WorkerId("door"), role="door", service=None, revision=0, address=ADDRESS, alive=True)
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def snapshot(**changes: object) -> Snapshot:
    base = Snapshot(
        now=100.0, going_down=False, grace_s=5.0, door_address=ADDRESS, processes=(door(),), free_bytes={CPU: 100}
    )
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def test_a_node_that_is_as_wished_is_left_alone() -> None:
    assert decide(snapshot(wishes=(wish(),), processes=(door(), worker()))) == ()


def test_a_missing_worker_is_started() -> None:
    start = StartWorker(service=ServiceName("a"), revision=1, device=CPU, needed_bytes=10)
    assert decide(snapshot(wishes=(wish(),))) == (start,)


def test_a_dead_worker_is_forgotten_and_its_successor_started() -> None:
    actions = decide(snapshot(wishes=(wish(),), processes=(door(), worker(alive=False))))
    assert [type(action) for action in actions] == [Forget, StartWorker]


def test_a_worker_is_not_started_before_its_back_off_has_ended() -> None:
    assert decide(snapshot(wishes=(wish(next_try_at=100.5),))) == ()
    assert len(decide(snapshot(wishes=(wish(next_try_at=100.0),)))) == 1
    assert decide(snapshot(wishes=(wish(next_try_at=math.inf),))) == ()


def test_a_worker_nobody_wishes_for_is_stopped() -> None:
    (stop,) = decide(snapshot(processes=(door(), worker())))
    assert stop == StopWorker(worker=WorkerId("w-a"), service=ServiceName("a"), reason="no longer wished", grace_s=5.0)
    (stop,) = decide(snapshot(processes=(door(), worker(None))))
    assert isinstance(stop, StopWorker)


def test_a_changed_wish_stops_the_old_worker_and_waits_for_its_memory() -> None:
    changed = snapshot(wishes=(wish(revision=2),), processes=(door(), worker()))
    (stop,) = decide(changed)
    assert isinstance(stop, StopWorker)
    assert stop.reason == "wish changed"
    assert decide(dataclasses.replace(changed, processes=(door(), worker(stopping=True)))) == ()


def test_of_two_workers_of_one_service_the_later_is_stopped() -> None:
    twin = worker(id=WorkerId("w-twin"))
    (stop,) = decide(snapshot(wishes=(wish(),), processes=(door(), worker(), twin)))
    assert isinstance(stop, StopWorker)
    assert (stop.worker, stop.reason) == ("w-twin", "superfluous")


def test_what_does_not_fit_is_held_with_the_figures() -> None:
    (hold,) = decide(snapshot(wishes=(wish(needed_bytes=101),)))
    assert isinstance(hold, Hold)
    assert hold.reason == "OutOfMemory"
    assert "101 B" in hold.message
    assert "100 B" in hold.message


def test_two_wishes_are_not_promised_the_same_bytes() -> None:
    actions = decide(snapshot(wishes=(wish("a", needed_bytes=60), wish("b", needed_bytes=60))))
    assert [type(action) for action in actions] == [StartWorker, Hold]


def test_a_wish_without_a_device_or_with_an_obstacle_is_held() -> None:
    (hold,) = decide(snapshot(wishes=(wish(device=None),)))
    assert isinstance(hold, Hold)
    assert hold.reason == "DeviceNotFound"
    (hold,) = decide(snapshot(wishes=(wish(device=DeviceId("gpu")),)))
    assert isinstance(hold, Hold)
    obstacle = Hold(service=ServiceName("a"), reason="ModelNotFound", message="no model")
    assert decide(snapshot(wishes=(wish(obstacle=obstacle),))) == (obstacle,)


def test_a_missing_door_is_started_unless_it_has_just_been_lost() -> None:
    assert decide(snapshot(processes=())) == (StartDoor(address=ADDRESS),)
    assert decide(snapshot(processes=(), door_next_try_at=100.1)) == ()
    assert [type(action) for action in decide(snapshot(processes=(door(alive=False),)))] == [Forget, StartDoor]


def test_a_door_on_another_port_makes_way() -> None:
    elsewhere = door(address="127.0.0.1:1")
    (stop,) = decide(snapshot(processes=(elsewhere,)))
    assert stop == StopDoor(door=WorkerId("door"), reason="address changed", grace_s=5.0)
    assert decide(snapshot(processes=(dataclasses.replace(elsewhere, stopping=True),))) == ()


def test_of_two_doors_one_is_stopped() -> None:
    (stop,) = decide(snapshot(processes=(door(), door(id=WorkerId("other")))))
    assert isinstance(stop, StopDoor)
    assert stop.door == "other"


def test_going_down_stops_the_door_first_then_the_workers() -> None:
    down = snapshot(going_down=True, wishes=(wish(),), processes=(door(), worker()))
    assert [type(action) for action in decide(down)] == [StopDoor]
    leaving = dataclasses.replace(down, processes=(door(stopping=True), worker()))
    assert decide(leaving) == ()
    without_door = dataclasses.replace(down, processes=(worker(),))
    assert [type(action) for action in decide(without_door)] == [StopWorker]
    assert decide(dataclasses.replace(down, processes=())) == ()


def test_going_down_starts_nothing() -> None:
    assert decide(snapshot(going_down=True, wishes=(wish(),), processes=())) == ()


def test_the_next_look_is_when_a_back_off_ends() -> None:
    looks = snapshot(
        wishes=(wish("a", next_try_at=103.0), wish("b", next_try_at=math.inf), wish("c", next_try_at=7.0)),
        door_next_try_at=102.0,
    )
    assert next_look_at(looks) == 102.0
    assert next_look_at(snapshot(wishes=(wish(),))) is None


def test_every_action_has_a_subject_and_a_record_of_plain_values() -> None:
    actions: list[Action] = [
        StartWorker(service=ServiceName("a"), revision=1, device=CPU, needed_bytes=1),
        StopWorker(worker=WorkerId("w"), service=None, reason="r", grace_s=1.0),
        StartDoor(address=ADDRESS),
        StopDoor(door=WorkerId("d"), reason="r", grace_s=1.0),
        Forget(id=WorkerId("w"), service=None),
        Hold(service=ServiceName("a"), reason="r", message="m"),
    ]
    assert [subject(action) for action in actions] == ["a", "w", ADDRESS, "d", "w", "a"]
    for action in actions:
        record = to_record(action)
        assert record["action"] == type(action).__name__
        assert all(isinstance(value, str | int | float | None) for value in record.values())


# -- idle services ---------------------------------------------------------------------------------------------------


def loaded(name: str = "a", **changes: object) -> Loaded:
    base = Loaded(service=ServiceName(name), device=CPU, num_bytes=40, idle_s=60.0, keep_alive_s=300.0)
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def test_what_nobody_asked_for_as_long_as_it_is_kept_is_unloaded() -> None:
    kept = snapshot(wishes=(wish(),), processes=(door(), worker()), loaded=(loaded(),))
    assert decide(kept) == ()
    assert next_look_at(kept) == 100.0 + 240.0
    due = dataclasses.replace(kept, loaded=(loaded(idle_s=300.0),))
    (unload,) = decide(due)
    assert unload == Unload(
        service=ServiceName("a"), workers=(WorkerId("w-a"),), reason="idle", if_idle_s=300.0, idle_s=300.0
    )
    for stays in (loaded(idle_s=None), loaded(idle_s=1e9, keep_alive_s=-1.0)):
        assert decide(dataclasses.replace(kept, loaded=(stays,))) == ()
        assert next_look_at(dataclasses.replace(kept, loaded=(stays,))) is None


def test_an_idle_service_is_given_no_worker_and_keeps_none_that_a_killed_daemon_left() -> None:
    assert decide(snapshot(wishes=(wish(idle=True),))) == ()
    (unload,) = decide(snapshot(wishes=(wish(idle=True),), processes=(door(), worker())))
    assert isinstance(unload, Unload)
    assert unload.if_idle_s == 0.0
    assert decide(snapshot(wishes=(wish(idle=True),), processes=(door(), worker(stopping=True)))) == ()


def test_idle_services_make_room_for_what_starts() -> None:
    short = snapshot(wishes=(wish("b", needed_bytes=120), wish()), processes=(door(), worker()), loaded=(loaded(),))
    (unload,) = decide(short)
    assert isinstance(unload, Unload)
    assert (unload.service, unload.reason, unload.if_idle_s) == ("a", "'b' needs its memory", SETTLED_S)
    leaving = dataclasses.replace(
        short, wishes=(wish("b", needed_bytes=120), wish(idle=True)), processes=(door(), worker(stopping=True)),
        loaded=(), leaving_bytes={CPU: 40},
    )  # fmt: skip
    assert decide(leaving) == (), "its memory is on its way"
    there = dataclasses.replace(leaving, processes=(door(),), leaving_bytes={}, free_bytes={CPU: 140})
    assert [type(action) for action in decide(there)] == [StartWorker]


def test_nothing_is_unloaded_where_that_would_not_be_enough() -> None:
    short = snapshot(wishes=(wish("b", needed_bytes=141), wish()), processes=(door(), worker()), loaded=(loaded(),))
    (hold,) = decide(short)
    assert isinstance(hold, Hold)
    assert "would fit" not in hold.message


def test_who_is_kept_loaded_is_named_in_the_refusal() -> None:
    short = snapshot(wishes=(wish("b", needed_bytes=120), wish()), processes=(door(), worker()))
    for stays, words in (
        (loaded(idle_s=840.0, keep_alive_s=-1.0), "would fit if 'a' were unloaded, idle for 14m, and is kept loaded"),
        (loaded(idle_s=2.0), "would fit if 'a' were unloaded, idle for 2s"),
        (loaded(idle_s=None), "would fit if 'a' were unloaded, which is in use"),
    ):
        (hold,) = decide(dataclasses.replace(short, loaded=(stays,)))
        assert isinstance(hold, Hold)
        assert hold.message.endswith(words), hold.message


def test_the_same_memory_is_not_promised_twice() -> None:
    two = snapshot(
        wishes=(wish(), wish("b", needed_bytes=120), wish("c", needed_bytes=120)),
        processes=(door(), worker()),
        loaded=(loaded(),),
    )
    unload, hold = decide(two)
    assert isinstance(unload, Unload)
    assert isinstance(hold, Hold)
    assert hold.service == "c"


def test_a_tenant_hears_of_no_others_services() -> None:
    short = snapshot(
        wishes=(wish("b@acme", needed_bytes=120), wish(), wish("d@acme")),
        processes=(door(), worker(), worker("d@acme")),
        loaded=(loaded(idle_s=None), loaded("d@acme", idle_s=None, num_bytes=10)),
    )
    (hold,) = decide(short)
    assert isinstance(hold, Hold)
    assert "'a'" not in hold.message
    assert "would fit" not in hold.message
