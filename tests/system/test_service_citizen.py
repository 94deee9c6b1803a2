"""A node as systemd sees it: what it says, what it does on a reload and on a restart, and what a new version finds."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.cli import thaloom
from tests.system.node import Node, eventually, free_port, node
from thaloom.base.procs import identify
from thaloom.kernel.state.migrations import LATEST

__all__ = ["node"]

pytestmark = pytest.mark.slow
DATABASES = Path(__file__).parents[1] / "unit" / "kernel_state" / "data"


class Manager:
    """Hears what a service of systemd says."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(path)
        self._socket.settimeout(30)
        self.environment = {"NOTIFY_SOCKET": path}

    def until(self, line: str) -> list[str]:
        """Everything up to the message with that line."""
        heard: list[str] = []
        while line not in heard:
            heard += self._socket.recv(4096).decode().splitlines()
        return heard

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(node: Node) -> Iterator[Manager]:
    with (
        tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as folder,
        contextlib.closing(Manager(f"{folder}/notify")) as made,
    ):
        node.environment |= made.environment
        yield made


def test_it_says_when_it_is_ready_that_it_lives_and_when_it_ends(node: Node, manager: Manager) -> None:
    node.environment |= {"WATCHDOG_USEC": "400000"}
    process = node.launch()
    heard = manager.until("READY=1")
    assert f"MAINPID={process.pid}" in heard + manager.until("WATCHDOG=1")
    assert node.answers(), "who is told that it is ready finds it so"
    manager.until("WATCHDOG=1")
    os.kill(process.pid, signal.SIGTERM)
    manager.until("STOPPING=1")
    assert process.wait(timeout=30) == 0


def test_a_reload_changes_what_can_be_names_what_cannot_and_stumbles_over_nothing(node: Node, manager: Manager) -> None:
    process = node.launch()
    manager.until("READY=1")
    (node.home / "config.toml").write_text(
        f'hub_read_through = true\nrequire_keys = false\nport = {free_port()}\nengine_hosts = ["models.example"]\n'
    )
    os.kill(process.pid, signal.SIGHUP)
    manager.until("RELOADING=1")
    manager.until("READY=1")
    with node.client() as client:
        (told,) = [event.fields for event in client.events() if event.name == "ConfigReloaded"]
        assert sorted(told["changed"]) == ["engine_hosts", "hub_read_through", "require_keys"]
        assert told["need_restart"] == [], "THALOOM_PORT goes over the file"
        far = ("serve", "m", "--engine", "openai", "--url", "https://models.example/v1", "--dry-run")
        done = thaloom(node, *far)
        assert done.code == 0, done.err
        assert not client.keys().required
        (node.home / "config.toml").write_text("require_keys = maybe\n")
        os.kill(process.pid, signal.SIGHUP)
        manager.until("RELOADING=1")
        heard = manager.until("READY=1")
        assert any("could not be read" in line for line in heard)
        assert any(event.name == "ConfigRefused" for event in client.events())
        assert not client.keys().required, "the old settings stay in force"


def test_a_restart_leaves_everything_running_for_the_next_daemon(node: Node, manager: Manager) -> None:
    """What `systemctl restart` does: SIGUSR2 (RestartKillSignal), then a start."""
    first = node.launch()
    manager.until("READY=1")
    node.serve_tiny()
    door, worker = node.wait_for_door(), node.process("worker")
    os.kill(first.pid, signal.SIGUSR2)
    manager.until("STOPPING=1")
    assert first.wait(timeout=30) == 0
    for process in (door, worker):
        identity = identify(process.pid)
        assert identity is not None
        assert identity.alive()
    node.launch()
    manager.until("READY=1")
    with node.client() as client:
        assert client.service("tiny").pid == worker.pid
        assert client.status().door_pid == door.pid
        assert client.service("tiny").restarts == 0


def test_a_stop_ends_every_process(node: Node, manager: Manager) -> None:
    process = node.launch()
    manager.until("READY=1")
    node.serve_tiny()
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(timeout=60) == 0
    eventually(lambda: not node.processes_of_home())


# -- upgrades --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", range(1, LATEST))
def test_a_node_starts_on_a_database_of_every_earlier_version(version: int, node: Node) -> None:
    node.home.mkdir()
    with contextlib.closing(sqlite3.connect(node.home / "state.db")) as connection:
        connection.executescript((DATABASES / f"version_{version}.sql").read_text())
        before = dict(connection.execute("SELECT name, revision FROM services").fetchall())
    node.start()
    with node.client() as client:
        found = {service.name: service for service in client.services()}
        assert found.keys() == before.keys()
        assert found["chat"].spec.context_length == 4096
        assert client.status().version
    assert thaloom(node, "down").code == 0
    with contextlib.closing(sqlite3.connect(node.home / "state.db")) as connection:
        assert dict(connection.execute("SELECT name, revision FROM services").fetchall()) == before
        assert connection.execute("SELECT max(version) FROM schema_version").fetchone()[0] == LATEST


def test_an_older_daemon_refuses_a_newer_database_by_name_and_leaves_it(node: Node) -> None:
    node.start()
    assert thaloom(node, "down").code == 0
    with contextlib.closing(sqlite3.connect(node.home / "state.db")) as connection:
        connection.execute("INSERT INTO schema_version VALUES (?, 0)", (LATEST + 1,))
        connection.commit()
    before = (node.home / "state.db").read_bytes()
    assert node.launch().wait(timeout=30) == 7
    assert f"version {LATEST + 1}" in node.log()
    assert "state_unusable" in node.log()
    assert (node.home / "state.db").read_bytes() == before


# -- backups ---------------------------------------------------------------------------------------------------------


def test_a_node_is_backed_up_while_it_serves_and_put_back(node: Node, tmp_path: Path) -> None:
    node.start()
    node.serve_tiny()
    target = tmp_path / "backup.tar"
    done = thaloom(node, "backup", str(target), "--models", "--json")
    assert done.code == 0, done.err
    assert done.document["models"]
    refused = thaloom(node, "restore", str(target), "--replace", "--json")
    assert refused.error["code"] == "already_running"
    with node.client() as client:
        client.stop("tiny")
    assert thaloom(node, "down").code == 0
    assert thaloom(node, "restore", str(target), "--json").error["code"] == "name_taken"
    restored = thaloom(node, "restore", str(target), "--replace", "--json")
    assert restored.code == 0, restored.err
    assert Path(restored.document["before"]).is_dir()
    node.start()
    with node.client() as client:
        client.wait_ready("tiny", timeout_s=60)
    assert thaloom(node, "verify", "tiny").code == 0
