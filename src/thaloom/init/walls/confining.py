"""What a worker needs to see, reach and use, and so the walls around it.

Everything it is not given it has not: another's model, another's socket, the network, the node's own books. Memory is
the plan's estimate and slack: an estimate that was wrong by more is told (MemoryLimit), and hurts nobody else.
"""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Collection, Sequence
from pathlib import Path

from thaloom.base.errors import BadParameter, NotEnforceable
from thaloom.base.ids import WorkerId
from thaloom.base.units import GIB, MIB
from thaloom.init.layout import WALLS, Layout
from thaloom.init.memory.placement import Placement
from thaloom.init.rounds.last_words import LastWords
from thaloom.kernel.models.store import ModelStore
from thaloom.kernel.sandbox.group import Group
from thaloom.kernel.sandbox.host import python_paths
from thaloom.kernel.sandbox.latency import WEIGHTS
from thaloom.kernel.sandbox.types import Confinement, Latency, Limits, Network
from thaloom.kernel.sandbox.walls import Confined, Mode, Sandbox
from thaloom.kernel.state.types import ServiceSpec

_NETWORK: dict[str, Network] = {
    "thaloom": "none",
    "onnx": "none",
    "transformers": "loopback",
    "llama.cpp": "loopback",
    "vllm": "loopback",
    "openai": "host",
}
"""By engine. A guest listens on a loopback of its own, which only its worker shares."""
_ANYWHERE = frozenset({"llama.cpp", "vllm"})
"""Engines that are installed, and keep what they need, where nobody here knows: they see the host, but for secrets."""
MEASURED = frozenset({"thaloom", "onnx"})
"""Engines whose memory is held to: that of others is a guess, and a wrong guess must not end them."""
_SECRETS = (".ssh", ".gnupg", ".aws", ".azure", ".config/gcloud", ".kube", ".docker", ".password-store")
_ACCELERATORS = ("/dev/nvidia*", "/dev/dri", "/dev/kfd", "/dev/davinci*", "/dev/hisi_hdc", "/dev/accel*", "/dev/dxg")
_CACHES = ("VLLM_CACHE_ROOT", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "NUMBA_CACHE_DIR")
_LOG_BYTES = GIB
"""What a worker may add to its log in one life."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SandboxConfig:
    """`[sandbox]` of config.toml."""

    walls: Mode = "auto"
    """`auto`: every wall this host can build, and what is missing is told (`thaloom doctor host`). `required`: nothing
    is started unless all hold. `off`: no walls, no limits; for finding out whether they are what is in the way."""
    scratch_bytes: int = 256 * MIB
    """Of /tmp and /dev/shm of a worker, each: memory, which counts as its own. Enough for what libraries unpack."""
    memory_slack_bytes: int = 512 * MIB
    """What a worker may take beyond its estimate and a quarter of it. Generous: the limit is there for leaks."""
    num_pids: int = 1024
    """Threads and processes of a worker. Libraries start a few for each core."""
    door_memory_bytes: int = 4 * GIB
    """The most the door may take: tokenizers of what is served, and what requests hold. One that takes more is ended
    by the kernel, named, and started again."""
    errand_memory_bytes: int = 4 * GIB
    """The most a pull may take, and a quantisation whose model needs no more."""
    latency: Latency = "interactive"
    """Class of services that name none, as far as this host can: they answer somebody, and jobs (`batch`) can wait."""

    def __post_init__(self) -> None:
        for name, least in (
            ("scratch_bytes", MIB),
            ("memory_slack_bytes", 0),
            ("num_pids", 16),
            ("door_memory_bytes", 256 * MIB),
            ("errand_memory_bytes", 256 * MIB),
        ):
            if getattr(self, name) < least:
                raise BadParameter(f"{name} must be at least {least}", param=f"sandbox.{name}")


class Confiner:
    """Walls around workers, by their ids. Every method may block for some milliseconds; several threads may call."""

    def __init__(self, layout: Layout, config: SandboxConfig, *, sandbox: Sandbox, models: ModelStore) -> None:
        self._layout = layout
        self._config = config
        self._sandbox = sandbox
        self._models = models
        self._ending: list[Group] = []
        self._ending_lock = threading.Lock()
        self._behind: dict[WorkerId, Confined] = {}
        self._latency: Latency | None = None

    @property
    def walled(self) -> bool:
        return self._sandbox.mode != "off"

    def confine(self, worker: WorkerId, spec: ServiceSpec, plan: Placement, command: Sequence[str]) -> list[str]:
        """The command line that starts the worker inside; makes its folder. Raises NotEnforceable."""
        self._layout.worker_folder(worker).mkdir(mode=0o700, exist_ok=True)
        self.require_latency(spec)
        if spec.kv_disk_bytes:
            self._layout.worker_tier(worker).mkdir(mode=0o700, exist_ok=True)
        if not self.walled:
            return list(command)
        wish = self._wish(worker, spec, plan)
        failure = Path(f"{self._layout.worker_socket(worker)}.failure.json")
        return self._sandbox.confine(worker, wish, command, plan=self._layout.worker_walls(worker), failure=failure)

    def require_latency(self, spec: ServiceSpec) -> None:
        """Raises NotEnforceable for a class that is asked for by name and cannot be had whole."""
        if spec.latency is None:
            return
        ability = self._sandbox.latency(spec.latency)
        if ability.why_not is not None:
            raise NotEnforceable(
                f"latency {spec.latency!r} cannot be enforced on this host: {ability.why_not}",
                param="latency",
                limit="latency",
            )

    def latency(self, spec: ServiceSpec) -> Latency:
        """The class it runs in: `normal` where nobody asked for more than this host can."""
        if spec.latency is not None:
            return spec.latency
        if self._latency is None:
            self._latency = self._config.latency if self._sandbox.latency(self._config.latency).enforced else "normal"
        return self._latency

    def environment(self, spec: ServiceSpec) -> dict[str, str]:
        """What is different in there: caches are written to scratch space, and no path hangs on where we stand."""
        if self._sandbox.mode == "off":
            return {}
        caches = dict.fromkeys(_CACHES, "/tmp/cache") if spec.engine in _ANYWHERE else {}
        places = [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]
        paths = {"PYTHONPATH": os.pathsep.join(str(Path(place).absolute()) for place in places)} if places else {}
        return caches | paths

    def named(self, worker: WorkerId, status: int | None, words: LastWords, log: Path) -> LastWords:
        """Its last words, and the wall it met if it met one. `status`: exit code or minus the signal; None: unknown."""
        confined = self._confined(worker)
        if not confined.walled or words.hopeless:
            return words
        met = confined.met(self._limits_told(confined), status=status, words=words.message, log=log)
        return words if met is None else LastWords(reason=met.reason, message=met.message)

    def running_into(self, worker: WorkerId) -> str | None:
        """What to tell of one that lives and keeps meeting a wall."""
        met = self._confined(worker).meeting(self._config.num_pids)
        return None if met is None else met.message

    def release(self, worker: WorkerId) -> bool:
        """After its end: whatever it left running is killed, and its group removed. False where the kernel still clears
        somebody away: that is left to a later call."""
        group = self._confined(worker).group
        self._behind.pop(worker, None)
        return self._end(group)

    def sweep(self, alive: Collection[WorkerId], spared: Collection[int] = ()) -> list[str]:
        """Groups of this node that nobody owns are ended and removed; their names. One with a process among `spared`
        is left: somebody ends it in his own way."""
        groups = {group.name: group for group in self._sandbox.groups.list()}
        for plan in self._layout.workers.glob(f"*{WALLS}"):
            if (worker := WorkerId(plan.stem)) not in alive:
                groups[worker] = Confined(worker, plan).group
                plan.unlink(missing_ok=True)
        orphans = [group for name, group in groups.items() if name not in alive and not group.members() & {*spared}]
        self._end(*orphans)
        return [group.name for group in orphans]

    def close(self) -> None:
        """The node goes: its own folder among the groups with it, if nobody is left."""
        self._end()
        self._sandbox.groups.close()

    def _end(self, *groups: Group) -> bool:
        """These, and those that were not quite gone before; whether none is left. Each caller waits its turn: a
        list that two write would forget a group."""
        with self._ending_lock:
            listed = {group.name: group for group in (*groups, *self._ending)}
            self._ending = [group for group in listed.values() if not (group.kill() and group.delete())]
            return not self._ending

    def holds_memory(self) -> bool:
        """Whether a worker is kept to the memory it was admitted with."""
        return "memory" in self._sandbox.enforced_limits()

    def missing(self) -> tuple[str, ...]:
        """The walls this host does not build, with the reasons; none where they are switched off."""
        if self._sandbox.mode == "off":
            return ()
        return tuple(f"{ability.name}: {ability.why_not}" for ability in self._sandbox.missing())

    def _confined(self, worker: WorkerId) -> Confined:
        """Its plan is read once: it does not change."""
        confined = self._behind.get(worker)
        if confined is None:
            confined = self._behind.setdefault(worker, Confined(worker, self._layout.worker_walls(worker)))
        return confined

    def _limits_told(self, confined: Confined) -> Confinement:
        """For the words only: what the groups themselves say of their limits."""
        limits = Limits(memory_bytes=confined.group.memory_limit(), num_pids=confined.group.pids_limit())
        return Confinement(limits=limits, scratch_bytes=self._config.scratch_bytes)

    def _wish(self, worker: WorkerId, spec: ServiceSpec, plan: Placement) -> Confinement:
        layout, anywhere = self._layout, spec.engine in _ANYWHERE
        socket = layout.worker_socket(worker)
        lock = layout.models / "lock"
        packed: tuple[tuple[str, str], ...] = ()
        read = [*python_paths(), str(layout.worker_spec(worker))]
        if plan.manifest is not None:
            lock.touch(mode=0o644)
            read.append(str(lock))
            self._models.packed.trim()
            packed = ((str(self._models.packed.folder_of(plan.manifest.digest)), str(layout.models / "packed")),)
            read += map(str, self._models.files(plan.manifest))
        if anywhere:  # what lies below /tmp would be hidden by its own
            read += [path for path in (spec.model, *os.get_exec_path()) if path.startswith("/")]
        return Confinement(
            limits=self._limits(spec, plan),
            latency=self.latency(spec),
            network=_NETWORK[spec.engine],
            read=tuple(path for path in read if Path(path).exists()),
            write=(str(layout.worker_tier(worker)),) if spec.kv_disk_bytes else (),
            moved=packed,
            sockets=str(socket.parent),
            words=(*([str(layout.pages)] * plan.lends), *([str(layout.turns)] * plan.takes_turns)),
            files=(f"{socket}.failure.json",),
            devices=accelerators() if anywhere or plan.device.split(":")[0] not in ("cpu", "virtual") else (),
            whole_host=anywhere,
            hidden=(str(layout.home), *secret_folders()) if anywhere else (),
            scratch_bytes=self._config.scratch_bytes,
            file_bytes=self._longest_file(spec, plan),
        )

    def _limits(self, spec: ServiceSpec, plan: Placement) -> Limits:
        """Only what holds here: nobody asked for these, so none of them is missed."""
        enforced = self._sandbox.enforced_limits()
        estimate = plan.estimate.total_bytes + plan.estimate.lent_bytes
        memory = estimate + estimate // 4 + self._config.memory_slack_bytes + self._config.scratch_bytes
        held = spec.engine in MEASURED and "memory" in enforced
        return Limits(
            memory_bytes=memory if held else None,
            swap_bytes=0 if held and "swap" in enforced else None,
            num_pids=self._config.num_pids if "pids" in enforced else None,
            cpu_weight=WEIGHTS[self.latency(spec)] if "cpu_weight" in enforced else None,
        )

    def _longest_file(self, spec: ServiceSpec, plan: Placement) -> int:
        """The log goes on where it ended; packed weights are as long as the model at most, widened to f32."""
        log = self._layout.service_log(spec.name)
        return (log.stat().st_size if log.exists() else 0) + _LOG_BYTES + 4 * plan.estimate.weight_bytes


def accelerators() -> tuple[str, ...]:
    return tuple(path for pattern in _ACCELERATORS for path in sorted(map(str, Path("/").glob(pattern.lstrip("/")))))


def secret_folders() -> tuple[str, ...]:
    home = Path("~").expanduser()
    return tuple(str(home / name) for name in _SECRETS if (home / name).is_dir())
