"""What goes on when a process of the node is killed, and what a new daemon makes of it."""

from __future__ import annotations

import signal
import sqlite3

import pytest

from tests.system.node import Node, eventually, node
from thaloom.base.procs import identify
from thaloom.edge.wire.control import ServeRequest

__all__ = ["node"]

pytestmark = pytest.mark.slow


def test_a_killed_worker_is_back_by_itself(node: Node) -> None:
    node.start()
    node.serve_tiny()
    first = node.process("worker")
    node.kill(first.pid)
    with node.client() as client:
        eventually(lambda: client.service("tiny").pid not in (None, first.pid))
        service = client.wait_ready("tiny", timeout_s=30)
        assert service.restarts == 1
        assert any(event.name == "ProcessLost" for event in client.events())


def test_a_killed_daemon_leaves_everything_running_and_the_next_adopts_it(node: Node) -> None:
    node.start()
    node.serve_tiny()
    door, worker = node.wait_for_door(), node.process("worker")
    routes = (node.home / "run" / "routes.json").read_text()

    node.kill(node.daemon.pid)
    for process in (door, worker):
        identity = identify(process.pid)
        assert identity is not None
        assert identity.alive()
    assert (node.home / "run" / "routes.json").read_text() == routes

    node.start()
    with node.client() as client:
        assert client.service("tiny").phase == "ready"
        assert client.service("tiny").pid == worker.pid
        assert client.status().door_pid == door.pid
        adopted = [event.fields["pid"] for event in client.events() if event.name == "ProcessAdopted"]
        assert sorted(adopted) == sorted([door.pid, worker.pid])
        assert client.service("tiny").restarts == 0


def test_a_worker_that_died_while_no_daemon_ran_is_started_anew(node: Node) -> None:
    node.start()
    node.serve_tiny()
    worker = node.process("worker")
    node.kill(node.daemon.pid)
    node.kill(worker.pid)
    node.start()
    with node.client() as client:
        assert client.wait_ready("tiny", timeout_s=30).pid != worker.pid


def test_a_process_whose_lease_was_never_written_is_found(node: Node) -> None:
    """The daemon was killed between the start of the processes and the entry in its books."""
    node.start()
    node.serve_tiny()
    door, worker = node.wait_for_door(), node.process("worker")
    node.kill(node.daemon.pid)
    with sqlite3.connect(node.home / "state.db") as database:
        database.execute("DELETE FROM leases")
    database.close()
    node.start()
    with node.client() as client:
        assert client.wait_ready("tiny", timeout_s=30).pid == worker.pid
        assert client.status().door_pid == door.pid
        assert [p.role for p in client.processes() if p.role != "standby"] == ["daemon", "door", "worker"]


def test_a_worker_of_a_wish_that_is_gone_is_stopped_after_adoption(node: Node) -> None:
    node.start()
    node.serve_tiny()
    worker = node.process("worker")
    node.kill(node.daemon.pid)
    with sqlite3.connect(node.home / "state.db") as database:
        database.execute("DELETE FROM services")
    database.close()
    node.start()
    identity = identify(worker.pid)
    eventually(lambda: identity is None or not identity.alive())


def test_a_killed_door_is_back(node: Node) -> None:
    node.start()
    door = node.wait_for_door()
    node.kill(door.pid)
    with node.client() as client:
        eventually(lambda: client.status().door_pid not in (None, door.pid))
        eventually(lambda: client.status().door_ready)


@pytest.mark.slow
def test_a_worker_that_is_silent_is_left_alone(node: Node) -> None:
    node.home.mkdir(parents=True)
    (node.home / "config.toml").write_text("heartbeat_s = 0.1\n")
    node.start()
    node.serve_tiny()
    worker = identify(node.process("worker").pid)
    assert worker is not None
    worker.send(signal.SIGSTOP)
    try:
        with node.client() as client:

            def late() -> bool:  # without a native library the driver is a reason to be degraded as well
                told = client.service("tiny").condition("Degraded")
                return told is not None and told.reason == "HeartbeatLate"

            eventually(late, timeout_s=60)
            service = client.service("tiny")
            assert (service.phase, service.pid, service.restarts) == ("ready", worker.pid, 0)
            worker.send(signal.SIGCONT)
            eventually(lambda: not late())
    finally:
        worker.send(signal.SIGCONT)


def test_a_changed_wish_replaces_the_worker_and_the_same_wish_does_not(node: Node) -> None:
    node.start()
    node.serve_tiny()
    first = node.process("worker")
    with node.client() as client:
        client.serve("tiny", ServeRequest(model="tiny", num_threads=1))
        assert client.wait_ready("tiny", timeout_s=30).pid == first.pid
        client.serve("tiny", ServeRequest(model="tiny", num_threads=1, max_sequences=2))
        eventually(lambda: client.service("tiny").pid not in (None, first.pid))
        assert client.wait_ready("tiny", timeout_s=30).spec.max_sequences == 2
