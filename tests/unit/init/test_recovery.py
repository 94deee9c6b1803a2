"""What a new daemon makes of what it finds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from thaloom.base.clock import ManualClock
from thaloom.base.ids import ServiceName, WorkerId
from thaloom.base.procs import ProcessIdentity, identify
from thaloom.init.commands import door_command, worker_command
from thaloom.init.layout import Layout
from thaloom.init.recovery import Running, recover, running, sort_out
from thaloom.init.walls.leftovers import leftovers
from thaloom.kernel.state.store import StateStore
from thaloom.kernel.state.types import JournalEntry, Lease

W = WorkerId("w-1")
STRANGE = ProcessIdentity(pid=4_000_000, start_ticks=7)


def myself() -> ProcessIdentity:
    identity = identify(os.getpid())
    assert identity is not None
    return identity


def lease(identity: ProcessIdentity, **changes: object) -> Lease:
    values = {
        "id": W,
        "role": "worker",
        "service": ServiceName("a"),
        "pid": identity.pid,
        "start_ticks": identity.start_ticks,
        "socket": "/s",
        "started_at": 1.0,
        "revision": 3,
    }
    return Lease(**{**values, **changes})  # type: ignore[arg-type]


def intent(worker: WorkerId = W) -> JournalEntry:
    data = {"action": "StartWorker", "service": "a", "revision": 3, "process": worker}
    return JournalEntry(id=1, time=2.0, action="a-1", kind="StartWorker", phase="intent", data=data)


def test_one_that_waits_for_orders_is_nobody(short_path: Path) -> None:
    """However far its daemon had come with them: an intent alone makes no worker of it."""
    layout = Layout(short_path)
    layout.create()
    command = tuple(worker_command(layout.worker_spec(W), standby="cpu"))
    for waiting in (True, False):
        process = Running(identity=STRANGE, arguments=command, waits=waiting)
        found = sort_out(layout, [], [intent()], [process], 5.0)
        assert [lease.id for lease in found.alive] == ([] if waiting else [W])
        assert found.strangers == ((STRANGE,) if waiting else ())


def test_living_and_dead_leases_are_told_apart(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    living, reused = lease(STRANGE), lease(ProcessIdentity(pid=STRANGE.pid, start_ticks=1), id=WorkerId("w-2"))
    process = Running(identity=STRANGE, arguments=tuple(worker_command(layout.worker_spec(W))))
    found = sort_out(layout, [living, reused], [], [process], 9.0)
    assert (found.alive, found.dead, found.strangers) == ((living,), (reused,), ())


def test_another_program_with_the_pid_and_start_time_of_a_lease_is_left_alone(tmp_path: Path) -> None:
    known = lease(STRANGE)
    found = sort_out(Layout(tmp_path), [known], [intent()], [Running(identity=STRANGE, arguments=("sleep", "9"))], 9.0)
    assert (found.alive, found.dead, found.strangers) == ((), (known,), ())


def test_a_worker_goes_on_when_its_home_is_reached_by_another_path(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    known = lease(STRANGE)
    process = Running(identity=STRANGE, arguments=tuple(worker_command(Layout(tmp_path).worker_spec(W))))
    assert sort_out(Layout(tmp_path / "link"), [known], [], [process], 9.0).alive == (known,)


def test_a_worker_without_a_lease_gets_the_one_it_was_started_for(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    process = Running(identity=STRANGE, arguments=tuple(worker_command(layout.worker_spec(W))))
    found = sort_out(layout, [], [intent()], [process], 9.0)
    assert found.alive == (lease(STRANGE, socket=str(layout.worker_socket(W)), started_at=2.0),)


def test_a_worker_nobody_knows_of_is_a_stranger(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    process = Running(identity=STRANGE, arguments=tuple(worker_command(layout.worker_spec(W))))
    assert sort_out(layout, [], [intent(WorkerId("w-9"))], [process], 9.0).strangers == (STRANGE,)


def test_a_door_without_a_lease_is_found(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    for address in ("127.0.0.1:7411", "[::1]:7411", "https://0.0.0.0:7411", "https://[2001:db8::7]:7411"):
        process = Running(identity=STRANGE, arguments=tuple(door_command(tmp_path, address)))
        (door,) = sort_out(layout, [], [], [process], 9.0).alive
        assert (door.role, door.socket, door.pid) == ("door", address, STRANGE.pid)


def test_a_door_without_a_lease_keeps_the_name_its_group_has(tmp_path: Path) -> None:
    """Under another its control group belonged to nobody, and was swept away with the door in it."""
    layout = Layout(tmp_path)
    living = lease(STRANGE, id=WorkerId("d-known"), role="door")
    begun = [
        JournalEntry(id=i, time=2.0, action=f"a-{i}", kind="StartDoor", phase="intent", data={"process": door})
        for i, door in enumerate(("d-known", "d-newest", "d-older"))
    ]
    place = door_command(tmp_path, "[::1]:7411")
    running = [
        Running(identity=STRANGE, arguments=tuple(place)),
        Running(identity=ProcessIdentity(pid=4_000_001, start_ticks=8), arguments=tuple(place)),
    ]
    found = sort_out(layout, [living], begun, running, 9.0)
    assert [lease.id for lease in found.alive] == [WorkerId("d-known"), WorkerId("d-newest")]


def test_processes_of_other_homes_are_none_of_ours(tmp_path: Path) -> None:
    other = Layout(tmp_path / "other")
    processes = [
        Running(identity=STRANGE, arguments=tuple(worker_command(other.worker_spec(W)))),
        Running(identity=STRANGE, arguments=tuple(door_command(other.home, "127.0.0.1:1"))),
        Running(identity=STRANGE, arguments=("python", "-m", "thaloom.worker")),
        Running(identity=STRANGE, arguments=("thaloom.door",)),
        Running(identity=STRANGE, arguments=()),
    ]
    found = sort_out(Layout(tmp_path), [], [intent()], processes, 9.0)
    assert (found.alive, found.strangers) == ((), ())


def test_a_process_with_a_lease_is_not_found_twice(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    process = Running(identity=myself(), arguments=tuple(worker_command(layout.worker_spec(W))))
    known = lease(myself())
    assert sort_out(layout, [known], [intent()], [process], 9.0).alive == (known,)


def test_recovery_sets_the_books_right_and_sweeps(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout, clock = Layout(short_path / "h"), ManualClock()
    layout.create()
    store = StateStore(layout.state, clock)
    living, dead = lease(myself()), lease(STRANGE, id=WorkerId("w-2"))
    for known in (living, dead):
        store.put_lease(known)
        for path in leftovers(layout, known.id):
            path.touch()
    here = Running(identity=myself(), arguments=tuple(worker_command(layout.worker_spec(W))))
    monkeypatch.setattr("thaloom.init.recovery.running", lambda: [here])
    found = recover(layout, store, clock)
    assert found.dead == (dead,)
    assert store.leases() == [living]
    walls = layout.worker_walls(WorkerId("w-2"))  # by these its groups are found, and go with them: walls.confining
    assert sorted(layout.workers.iterdir()) == sorted([*leftovers(layout, W), walls])
    store.close()


def test_what_a_killed_daemon_left_half_done_is_swept(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by tests.chaos: a daemon killed while it publishes, or tries its walls, left that behind for good."""
    layout, clock = Layout(short_path / "h"), ManualClock()
    layout.create()
    text_files = layout.tokenizers / ("0" * 64)
    text_files.mkdir()
    trial = layout.run / "thaloom-walls-abc"
    trial.mkdir()
    (trial / "plan").touch()
    half = [layout.routes, layout.keys, layout.node_key, text_files / "tokenizer.json"]
    for path in half:
        path.touch()
        path.with_name(f"{path.name}.17.0.partial").touch()
    foreign = layout.home / "mine.tar.17.partial"  # a backup somebody is taking into the home
    foreign.touch()
    monkeypatch.setattr("thaloom.init.recovery.running", list)
    store = StateStore(layout.state, clock)
    recover(layout, store, clock)
    store.close()
    assert sorted(layout.home.rglob("*.partial")) == [foreign]
    assert not trial.exists()
    assert all(path.exists() for path in half)


def test_we_are_among_the_running(tmp_path: Path) -> None:
    assert myself() in [process.identity for process in running()]
    (tmp_path / "1").mkdir()
    (tmp_path / "self").mkdir()
    assert list(running(tmp_path)) == []
