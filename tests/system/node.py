"""A real node for system tests: its own home, a free port, and nothing left behind, whatever the test did to it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import httpx2
import pytest

from thaloom.base.errors import NodeNotRunning
from thaloom.base.procs import ProcessIdentity, identify
from thaloom.edge.client.control import ControlClient
from thaloom.edge.wire.control import Process, PullRequest, ServeRequest
from thaloom.init.recovery import waits
from thaloom.kernel.sandbox.finding import find_groups
from thaloom.kernel.sandbox.grouping import folder_name

T = TypeVar("T")
TINY = Path(__file__).parents[2] / "models" / "tiny"
PATIENCE_S = 30.0
"""Longest wait for anything. Far above what it takes: a slow machine must not make a test fail."""


class Node:
    """`start` it; use `client`; `kill` what the test is about. The fixture ends all of it."""

    def __init__(self, home: Path, port: int) -> None:
        self.home = home
        self.port = port
        self.environment = os.environ | {"THALOOM_HOME": str(home), "THALOOM_PORT": str(port)}
        self.environment.pop("THALOOM_HOST", None)
        self._daemons: list[subprocess.Popen[bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def daemon(self) -> subprocess.Popen[bytes]:
        return self._daemons[-1]

    def start(self, *arguments: str, pass_fds: tuple[int, ...] = ()) -> None:
        """Run the daemon and wait until it answers."""
        self.launch(*arguments, pass_fds=pass_fds)
        eventually(self.answers)

    def launch(
        self, *arguments: str, module: str = "thaloom.daemon", pass_fds: tuple[int, ...] = ()
    ) -> subprocess.Popen[bytes]:
        self.home.mkdir(parents=True, exist_ok=True)
        with (self.home / "daemon-test.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=pass_fds,
            )
        self._daemons.append(process)
        return process

    def client(self) -> ControlClient:
        return ControlClient(self.home)

    def answers(self) -> bool:
        if self._daemons and self.daemon.poll() is not None:
            raise AssertionError(f"the daemon ended with {self.daemon.returncode}:\n{self.log()}")
        with self.client() as client, contextlib.suppress(NodeNotRunning):
            return client.status().pid > 0
        return False

    def serve_tiny(self, name: str = "tiny") -> None:
        """Import the bundled model if it is not there yet, serve it, wait until it is ready."""
        with self.client() as client:
            client.pull(PullRequest(source=str(TINY), name="tiny"))
            client.serve(name, ServeRequest(model="tiny", num_threads=1))
            client.wait_ready(name, timeout_s=PATIENCE_S)

    def wait_for_door(self) -> Process:
        """The door that answers. One that was just killed is `door_ready` until the daemon hears of its end."""

        def answers() -> int | None:
            status = client.status()
            identity = identify(status.door_pid) if status.door_ready and status.door_pid is not None else None
            return None if identity is None or not identity.alive() else identity.pid

        with self.client() as client:
            pid = eventually(answers)  # one that gives way to it may be there still
            return next(process for process in client.processes() if process.pid == pid)

    def answer(self, model: str = "tiny", *, max_tokens: int = 8) -> str:
        """What a model says to one prompt, which whoever has its weights says again. Through the door: one that has not
        heard yet that the service is ready is asked again."""
        body = {"model": model, "prompt": "The socket option", "max_tokens": max_tokens, "temperature": 0}

        def told() -> httpx2.Response | None:
            reply = httpx2.post(f"{self.url}/v1/completions", json=body, timeout=PATIENCE_S, trust_env=False)
            return None if reply.status_code == 503 else reply

        reply = eventually(lambda: [found] if (found := told()) is not None else None)[0]
        assert reply.status_code == 200, reply.text
        return str(reply.json()["choices"][0]["text"])

    def process(self, role: str, service: str | None = None) -> Process:
        with self.client() as client:
            return next(p for p in client.processes() if p.role == role and service in (None, p.service))

    def kill(self, pid: int) -> None:
        """SIGKILL, and wait until it is gone."""
        identity = identify(pid)
        assert identity is not None
        identity.send(signal.SIGKILL)
        eventually(lambda: not identity.alive())
        if self._daemons and pid == self.daemon.pid:
            self.daemon.wait()

    def heal(self, service: str = "tiny") -> int:
        """Kill the worker of a service; the one that came after it, once it is ready."""
        before = self.process("worker", service).pid
        self.kill(before)
        with self.client() as client:
            eventually(lambda: [p.pid for p in client.processes() if p.service == service] not in ([], [before]))
            client.wait_ready(service, timeout_s=PATIENCE_S)
        return self.process("worker", service).pid

    def log(self) -> str:
        return (self.home / "daemon-test.log").read_text(errors="replace")

    def processes_of_home(self) -> list[ProcessIdentity]:
        """Every process of ours whose command line or environment names this home."""
        mark = str(self.home).encode()
        found = []
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit() or int(folder.name) == os.getpid():
                continue
            try:
                named = mark in (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
            except OSError:
                continue
            identity = identify(int(folder.name)) if named else None
            if identity is not None and identity.alive():
                found.append(identity)
        return found

    def process_pids(self, module: str) -> list[int]:
        """Of the processes of this home that run `python -m module`; not of the worker that waits to be one."""
        found = []
        for process in self.processes_of_home():
            with contextlib.suppress(OSError):
                folder = Path(f"/proc/{process.pid}")
                words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if module in words and not waits(folder, words):
                    found.append(process.pid)
        return found

    def clean_up(self) -> None:
        """Kill what is left, by identity, daemon first so that it starts nothing anew."""
        for daemon in self._daemons:
            if daemon.poll() is None:
                daemon.kill()
            daemon.wait()
        eventually(self._without_processes)
        eventually(lambda: without_groups(self.home))

    def _without_processes(self) -> bool:
        """Asked again: one of them may have started another in the moment of its end."""
        left = self.processes_of_home()
        for identity in left:
            identity.send(signal.SIGKILL)
        return not left


def without_groups(home: Path) -> bool:
    """Whether none is left of that home's. A node that was killed leaves its groups to the next of its home; where
    there will be none, they end here."""
    groups = find_groups(folder_name(home))
    for group in groups.list():
        group.kill()
        group.delete()
    groups.close()
    return not groups.list()


def eventually(what: Callable[[], T], *, timeout_s: float = PATIENCE_S) -> T:
    """The first true value of `what()`. Asks again and again; fails the test after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = what()
        if value:
            return value
        assert time.monotonic() < deadline, f"still not so after {timeout_s:g} s: {what}"
        time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """Not started yet. Its home has a short path: sockets lie in it."""
    made = Node(tmp_path_factory.mktemp("n") / "h", free_port())
    try:
        yield made
    finally:
        made.clean_up()
