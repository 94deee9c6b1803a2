"""The node of a run: on a disk of its own, with somebody who starts its daemon again as an init system would."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sqlite3
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tests.chaos.facts import Facts, Health
from tests.system.node import TINY, Node, free_port
from thaloom.base.errors import ThaloomError
from thaloom.base.files import free_bytes
from thaloom.base.procs import ProcessIdentity
from thaloom.edge.client.control import ControlClient
from thaloom.edge.wire.control import KeyRequest, PullRequest, ServeRequest
from thaloom.kernel.state.reserve import DEFAULT_BYTES, PLENTY_BYTES

T = TypeVar("T")
MIB = 1 << 20
DISK_BYTES = DEFAULT_BYTES + PLENTY_BYTES + 320 * MIB
LOOK_S = 0.1
PATIENCE_S = 60.0
RESTART_S = 0.2
"""Between two tries of whoever starts the daemon, where it ended by itself."""
SERVICES: dict[str, ServeRequest] = {
    "plain": ServeRequest(model="tiny", num_threads=1, context_length=1024),
    "twice": ServeRequest(model="tiny", num_threads=1, context_length=1024, replicas=2),
    "small": ServeRequest(model="tiny", num_threads=1, context_length=1024, weights="int8"),
}
"""What clients stream from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Living:
    """A process with a lease."""

    role: str
    service: str
    identity: ProcessIdentity
    started_at: float


class Stage:
    """Belongs to one event loop. `clock` is seconds since the run began."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._zero = time.monotonic()
        self.facts = Facts(replicas={name: wish.replicas for name, wish in SERVICES.items()})
        self.away_s = 0.0
        """How long the next dead daemon stays away."""
        self.daemon_back_at = 0.0
        """When somebody last started a daemon."""
        self.num_starts = 0
        self.bad_ends: list[str] = []
        """Daemons that ended by themselves and not well."""
        self.ending = False

    def begin(self) -> None:
        """Time begins now; what was before does not count."""
        self._zero = time.monotonic()
        self.facts.requests.clear()

    def clock(self) -> float:
        return time.monotonic() - self._zero

    def client(self) -> ControlClient:
        return self.node.client()

    def fail(self, words: str) -> None:
        self.facts.failures.append(f"{self.clock():.2f} s: {words}")
        print(f"FAILURE {self.facts.failures[-1]}", flush=True)

    async def call(self, what: Callable[[ControlClient], T]) -> T:
        """Ask the daemon. Raises what it raises, NodeNotRunning where there is none just now."""

        def ask() -> T:
            with self.client() as client:
                return what(client)

        return await asyncio.to_thread(ask)

    # -- processes

    def leases(self) -> list[Living]:
        """Of the living, oldest first, from the database itself: it can be read while there is no daemon."""
        with contextlib.closing(sqlite3.connect(f"file:{self.node.home}/state.db?mode=ro", uri=True)) as database:
            rows = database.execute(
                "SELECT role, service, pid, start_ticks, started_at FROM leases ORDER BY service, started_at"
            ).fetchall()
        found = [
            Living(
                role=role,
                service=service or "",
                identity=ProcessIdentity(pid=pid, start_ticks=ticks),
                started_at=started_at,
            )
            for role, service, pid, ticks, started_at in rows
        ]
        return [living for living in found if living.identity.alive()]

    def workers(self) -> list[Living]:
        """Of the services that clients stream from."""
        return [living for living in self.leases() if living.role == "worker" and living.service in SERVICES]

    # -- health

    async def watch(self) -> None:
        """Look again and again whether the node is as wished. Until cancelled."""
        while True:
            at = round(self.clock(), 4)
            self.facts.health.append(Health(at=at, missing=await asyncio.to_thread(self.missing)))
            await asyncio.sleep(LOOK_S)

    def missing(self) -> tuple[str, ...]:
        """What is not as wished: as the processes show, as the daemon says, and as the door has been told."""
        living = Counter((each.role, each.service) for each in self.leases())
        try:
            with ControlClient(self.node.home, timeout_s=5.0) as client:
                status = client.status()
        except ThaloomError:
            return ("daemon",)
        found = [] if status.door_ready and living["door", ""] else ["door"]
        services = {service.name: service for service in status.services}
        routes = self._routes()
        for name, wish in SERVICES.items():
            service = services.get(name)
            ready = service is not None and service.phase == "ready" and service.ready_replicas == wish.replicas
            if not ready or min(routes.get(name, 0), living["worker", name]) < wish.replicas:
                found.append(f"service {name}")
        return tuple(found)

    def _routes(self) -> dict[str, int]:
        """By service: how many workers the door sends requests to."""
        try:
            routes = json.loads((self.node.home / "run" / "routes.json").read_text())["routes"]
        except (OSError, ValueError, KeyError):
            return {}
        return {route["name"]: len(route["sockets"]) for route in routes if route["phase"] == "ready"}

    async def until_whole(self, timeout_s: float) -> bool:
        """Whether it is as wished before that."""
        deadline = self.clock() + timeout_s
        while self.clock() < deadline:
            if not await asyncio.to_thread(self.missing):
                return True
            await asyncio.sleep(LOOK_S)
        return False

    # -- who starts the daemon again

    async def keep_daemon(self) -> None:
        """Start the daemon whenever there is none, after as long as it is to stay away. Until cancelled."""
        while True:
            daemon = self.node.daemon
            while daemon.poll() is None:
                await asyncio.sleep(0.01)
            if self.ending:
                return
            if daemon.returncode not in (0, -9):
                self.bad_ends.append(f"{self.clock():.2f} s: exit code {daemon.returncode}")
                self.away_s = max(self.away_s, RESTART_S)
            await asyncio.sleep(self.away_s)
            self.away_s = 0.0
            self.num_starts += 1
            self.node.launch()
            self.daemon_back_at = self.clock()

    # -- the beginning

    async def build(self, num_keys: int) -> dict[str, str]:
        """Everything that is wished for: services, and keys for the clients (name -> key)."""
        await asyncio.to_thread(self.node.start)
        await self.call(lambda client: client.pull(PullRequest(source=str(TINY), name="tiny")))
        for name, wish in SERVICES.items():
            await self.call(lambda client, name=name, wish=wish: client.serve(name, wish))  # type: ignore[misc]
        for name in SERVICES:
            await self.call(lambda client, name=name: client.wait_ready(name, timeout_s=PATIENCE_S))  # type: ignore[misc]
        keys: dict[str, str] = {}
        for number in range(num_keys):
            made = await self.call(lambda client, number=number: client.make_key(KeyRequest(name=f"c{number}")))  # type: ignore[misc]
            keys[made.key.name] = made.secret
        if not await self.until_whole(PATIENCE_S):
            raise AssertionError(f"the node does not come up: {self.missing()}\n{self.node.log()[-4000:]}")
        return keys


@contextlib.contextmanager
def own_disk() -> Iterator[Path]:
    """An empty folder with a short name, on a file system of its own that is DISK_BYTES large. Only in a mount
    namespace of its own (`__main__` sees to that)."""
    with tempfile.TemporaryDirectory(prefix="x", dir="/tmp") as folder:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none", folder], check=True)
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "--lazy", folder], check=False)


@contextlib.asynccontextmanager
async def stage_at(folder: Path) -> AsyncIterator[Stage]:
    """Not built yet. All of it is gone afterwards, whatever came of it."""
    node = Node(folder / "h", free_port())
    node.environment |= {"THALOOM_AIRGAP": "1", "TMPDIR": str(folder / "t")}
    (folder / "t").mkdir()
    try:
        yield Stage(node)
    finally:
        await asyncio.to_thread(node.clean_up)


def fill(path: Path) -> None:
    """To the last byte."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        with contextlib.suppress(OSError):
            os.posix_fallocate(descriptor, 0, max(1, free_bytes(path.parent)))
        os.lseek(descriptor, 0, os.SEEK_END)
        for piece in (65536, 4096, 1):
            with contextlib.suppress(OSError):
                while os.write(descriptor, b"x" * piece):
                    pass
    finally:
        os.close(descriptor)
