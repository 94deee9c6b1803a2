"""Where a node keeps what, under its one folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from thaloom.base.errors import BadParameter
from thaloom.base.files import sync_folder
from thaloom.base.ids import ServiceName, WorkerId
from thaloom.kernel.trust.tls import OWN_PAIR
from thaloom.work.runtime.spec import MAX_SOCKET_PATH_BYTES

WALLS = ".walls"


@dataclass(frozen=True, slots=True)
class Layout:
    home: Path

    @property
    def config(self) -> Path:
        return self.home / "config.toml"

    @property
    def state(self) -> Path:
        return self.home / "state.db"

    @property
    def node_key(self) -> Path:
        return self.home / "node.key"

    @property
    def reserve(self) -> Path:
        """Space kept free for when the disk is full."""
        return self.home / "reserve"

    @property
    def models(self) -> Path:
        return self.home / "models"

    @property
    def key_ring(self) -> Path:
        """What opens encrypted models, itself opened by the master key."""
        return self.models / "keyring.json"

    @property
    def master_key(self) -> Path:
        """The master key, where it is told of nowhere else."""
        return self.home / "master.key"

    @property
    def door_pair(self) -> Path:
        """The node's own certificate and its key (kernel.trust.tls)."""
        return self.home / OWN_PAIR

    @property
    def door_pair_before(self) -> Path:
        """The one that was in force before."""
        return self.home / f"{OWN_PAIR}.before"

    @property
    def door_pair_aside(self) -> Path:
        """While the one before is put back: the one that makes place for it."""
        return self.home / f"{OWN_PAIR}.aside"

    @property
    def pulls(self) -> Path:
        """Unfinished pulls; on the store's file system, and no part of the store."""
        return self.models / "pulls"

    @property
    def refused_calls(self) -> Path:
        return self.home / "refused-calls.jsonl"

    @property
    def run(self) -> Path:
        return self.home / "run"

    @property
    def control_socket(self) -> Path:
        return self.run / "control.sock"

    @property
    def routes(self) -> Path:
        return self.run / "routes.json"

    @property
    def keys(self) -> Path:
        return self.run / "keys.json"

    @property
    def workers(self) -> Path:
        return self.run / "workers"

    @property
    def pages(self) -> Path:
        """The board where workers lend each other memory of the host (kernel.memory.board)."""
        return self.run / "pages"

    @property
    def turns(self) -> Path:
        """The turnstile where workers take turns at the host's cores (work.runtime.turns.turnstile)."""
        return self.run / "turns"

    @property
    def standby_log(self) -> Path:
        """What the worker that waits says until it is somebody's."""
        return self.run / "standby.log"

    @property
    def workspaces(self) -> Path:
        """Folders that outlive what works in them, by name."""
        return self.home / "workspaces"

    @property
    def tokenizers(self) -> Path:
        return self.run / "tokenizers"

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    @property
    def jobs(self) -> Path:
        """A folder for each job: its logs, its own place to work in, and what its reaper writes."""
        return self.home / "jobs"

    @property
    def door_log(self) -> Path:
        return self.logs / "door.log"

    def worker_folder(self, worker: WorkerId) -> Path:
        """Its own: all of this home that it may write in."""
        return self.workers / worker

    def worker_socket(self, worker: WorkerId) -> Path:
        return self.worker_folder(worker) / "sock"

    def worker_tier(self, worker: WorkerId) -> Path:
        """Keys and values that its memory has no room for; gone with the worker."""
        return self.worker_folder(worker) / "tier"

    def worker_spec(self, worker: WorkerId) -> Path:
        return self.workers / f"{worker}.json"

    def worker_walls(self, worker: WorkerId) -> Path:
        """The plan of its walls (kernel.sandbox.plan)."""
        return self.workers / f"{worker}{WALLS}"

    def service_log(self, service: ServiceName) -> Path:
        return self.logs / f"{service}.log"

    def let_pass(self, others: bool) -> None:
        """Whether other users of this machine reach the control socket. They may pass through the folders then, and
        still neither list nor read what is in them. Raises OSError."""
        if others:
            self.home.chmod(self.home.stat().st_mode | 0o011)
        self.run.chmod(0o711 if others else 0o700)
        if self.control_socket.exists():
            self.control_socket.chmod(0o666 if others else 0o600)

    def create(self) -> None:
        """Make the folders, for this user only. Raises BadParameter if a socket's path would be too long."""
        longest = self.worker_socket(WorkerId("w-" + "0" * 12))
        if len(bytes(longest)) > MAX_SOCKET_PATH_BYTES:
            raise BadParameter(
                f"THALOOM_HOME {str(self.home)!r} is too long: the path of a socket in it may have "
                f"{MAX_SOCKET_PATH_BYTES} bytes, {str(longest)!r} has {len(bytes(longest))}",
                param="THALOOM_HOME",
            )
        for folder in (self.home, self.models, self.run, self.workers, self.tokenizers, self.logs, self.jobs):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        sync_folder(self.home)  # what is flushed in a folder is lost with it, where the disk forgets its name
