"""What a person or a program may ask of the node: the one way in (implements edge.api.control.plane.ControlPlane)."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import re
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import TypeVar

from thaloom import __version__
from thaloom.base.air_gap import RefusedCall
from thaloom.base.clock import Clock
from thaloom.base.errors import BadParameter, ModelInUse, NodeNotRunning, OutOfMemory, ServiceNotFound, WrongState
from thaloom.base.events import Emit
from thaloom.base.ids import DeviceId, ServiceName
from thaloom.base.plugins import Absent
from thaloom.base.procs import resident_bytes
from thaloom.hal.inventory import Inventory
from thaloom.hal.types import Device, Reading
from thaloom.init.aliasing import Aliasing
from thaloom.init.boot import NodeConfig
from thaloom.init.events import NodeStopping, ServiceRemoved, ServiceWished
from thaloom.init.history import History
from thaloom.init.layout import Layout
from thaloom.init.locksmith import Locksmith
from thaloom.init.log_stream import follow_log
from thaloom.init.node_memory import NodeMemory
from thaloom.init.placement import Planner
from thaloom.init.pulls import Pulls
from thaloom.init.quantising import Quantising
from thaloom.init.reconcile import shortage
from thaloom.init.reconcile_loop import ReconcileLoop
from thaloom.init.reporter import Reporter
from thaloom.init.supervisor import Supervisor
from thaloom.init.vault import Vault, secret_from
from thaloom.kernel.models.bundled import NAMES, bundled_model
from thaloom.kernel.models.pulling.sources import is_hub_name, parse_source
from thaloom.kernel.models.store import ModelStore
from thaloom.kernel.models.types import (
    HubModel,
    HubSettings,
    Manifest,
    ModelName,
    QuantiseWish,
    UnfinishedPull,
    Verification,
)
from thaloom.kernel.state.store import StateStore
from thaloom.kernel.state.types import (
    OUTSIDE,
    AccessKey,
    Alias,
    EncryptionStatus,
    KeyLimits,
    NodeStatus,
    PastEvent,
    ProcessStatus,
    ServiceSpec,
    ServiceStatus,
)
from thaloom.work.runtime.engines.places import place_of

T = TypeVar("T")
OnProgress = Callable[[str, int, int | None], None]

_SERVICE = re.compile(r"[a-z0-9][A-Za-z0-9._:-]{0,126}")
_RESERVED = ("daemon", "door")
"""Their logs lie beside the services' logs."""


class Syscalls:
    """Everything here may raise a leaf of ThaloomError, as its ControlPlane says."""

    def __init__(
        self,
        layout: Layout,
        config: NodeConfig,
        *,
        store: StateStore,
        models: ModelStore,
        inventory: Inventory,
        planner: Planner,
        memory: NodeMemory,
        pulls: Pulls,
        supervisor: Supervisor,
        reconcile_loop: ReconcileLoop,
        reporter: Reporter,
        history: History,
        locksmith: Locksmith,
        vault: Vault,
        clock: Clock,
    ) -> None:
        self._layout = layout
        self._config = config
        self._store = store
        self._models = models
        self._inventory = inventory
        self._planner = planner
        self._memory = memory
        self._pulls = pulls
        self._supervisor = supervisor
        self._reconcile_loop = reconcile_loop
        self._reporter = reporter
        self._history = history
        self._locksmith = locksmith
        self._vault = vault
        self._clock = clock
        self._emit: Emit = history
        self._started_at = clock.now()
        self.aliases = Aliasing(store, history, reconcile_loop.wake)
        self._quantising = Quantising(
            layout, models=models, planner=planner, memory=memory, supervisor=supervisor, emit=history
        )

    def use(self, config: NodeConfig) -> None:
        """Heed settings that were read again."""
        self._config = config

    # -- the node

    async def status(self) -> NodeStatus:
        door = self._reporter.door()
        return NodeStatus(
            version=__version__,
            pid=os.getpid(),
            home=str(self._layout.home),
            url=self._config.url,
            started_at=self._started_at,
            door_pid=None if door is None else door.lease.pid,
            door_ready=door is not None and door.ready_since is not None,
            conditions=self._reporter.node_conditions(self._reconcile_loop.failures),
            memory=self._memory.report(),
            num_models=len(await asyncio.to_thread(self._models.list)),
            services=self._reporter.statuses(),
        )

    async def processes(self) -> Sequence[ProcessStatus]:
        own = ProcessStatus(
            role="daemon",
            pid=os.getpid(),
            id="daemon",
            service=None,
            started_at=self._started_at,
            resident_bytes=resident_bytes(os.getpid()),
        )
        kept = [
            ProcessStatus(
                role=process.lease.role,
                pid=process.lease.pid,
                id=process.id,
                service=process.lease.service,
                started_at=process.lease.started_at,
                resident_bytes=resident_bytes(process.lease.pid),
            )
            for process in self._supervisor
            if process.alive
        ]
        return [own, *sorted(kept, key=lambda process: (process.role, process.service or "", process.started_at))]

    async def events(self, limit: int) -> Sequence[PastEvent]:
        return self._history.latest(limit)

    async def down(self) -> int:
        self.go_down("asked to")
        return os.getpid()

    def go_down(self, reason: str) -> None:
        """Begin the orderly end; a second time changes nothing. Wishes stay: the next start serves them again."""
        if self._reconcile_loop.going_down:
            return
        self._emit(NodeStopping(reason=reason))
        self._reconcile_loop.going_down = True
        self._reconcile_loop.wake()

    def interrupt(self, signal_name: str) -> None:
        """Go down; who asks a second time does not want to wait for answers under way."""
        if self._reconcile_loop.going_down:
            self._supervisor.kill_all()
        self.go_down(signal_name)

    # -- devices

    async def devices(self) -> tuple[Sequence[tuple[Device, Reading | None]], Sequence[Absent]]:
        report = self._inventory.refresh()
        readings = {reading.device: reading for reading in self._inventory.readings()}
        return [(device, readings.get(device.id)) for device in report.devices], report.absent

    async def device(self, device: DeviceId) -> tuple[Device, Reading | None]:
        self._inventory.refresh()
        found = self._inventory.device(device)
        readings = {reading.device: reading for reading in self._inventory.readings()}
        return found, readings.get(device)

    # -- models

    async def models(self) -> Sequence[Manifest]:
        return await asyncio.to_thread(self._models.list)

    async def model(self, name: ModelName) -> Manifest:
        return await asyncio.to_thread(self._models.get, name)

    def source(self, source: str) -> Path | HubModel:
        path = Path(source)
        found = path if path.is_absolute() else bundled_model(source)
        if found is not None:
            return found
        if not is_hub_name(source):
            raise BadParameter(
                f"{source!r} is neither an absolute path, nor the name of a model that came with Thaloom "
                f"({', '.join(map(repr, NAMES))}), nor a model of a hub (org/name, hf://, ms://, https://)",
                param="source",
            )
        return parse_source(source)

    async def pull(
        self, path: Path, name: ModelName | None, *, replace: bool, encrypt: bool | None, progress: OnProgress
    ) -> Manifest:
        self._require_up()
        sealed = self._whether_to_encrypt(encrypt)
        manifest = await with_progress(
            lambda tell: self._models.import_path(path, name, replace=replace, encrypt=sealed, progress=tell),
            "importing",
            progress,
        )
        self._planner.forget_model(manifest.name)
        self._reconcile_loop.wake()  # a wish may have waited for it
        return manifest

    async def pull_from_hub(
        self,
        model: HubModel,
        settings: HubSettings,
        name: ModelName | None,
        *,
        replace: bool,
        read_through: bool,
        encrypt: bool | None,
        progress: OnProgress,
    ) -> Manifest:
        self._require_up()
        sealed = self._whether_to_encrypt(encrypt)
        return await self._pulls.pull(
            model, settings, name, replace=replace, read_through=read_through, encrypt=sealed, progress=progress
        )

    async def unfinished_pulls(self) -> Sequence[UnfinishedPull]:
        return await self._pulls.unfinished()

    async def remove_pull(self, source: str) -> str:
        return await self._pulls.remove(source)

    async def refused_calls(self) -> tuple[str | None, Sequence[RefusedCall]]:
        return await self._pulls.refused_calls()

    async def verify(self, name: ModelName, progress: OnProgress) -> Verification:
        return await with_progress(lambda tell: self._models.verify(name, tell), "verifying", progress)

    async def quantise(self, wish: QuantiseWish, progress: OnProgress) -> Manifest:
        self._require_up()
        if (await self.model(wish.model)).encrypted:
            raise WrongState(
                f"model {str(wish.model)!r} is encrypted, and quantising works on files in plain: "
                "quantise the original, then encrypt the outcome",
                param="model",
            )
        if wish.text is not None and not Path(wish.text).is_absolute():
            raise BadParameter(f"{wish.text!r} is not an absolute path", param="text")
        manifest = await self._quantising.quantise(wish, progress)
        self._planner.forget_model(manifest.name)
        self._reconcile_loop.wake()
        return manifest

    async def copy_model(self, name: ModelName, to: ModelName, *, replace: bool) -> Manifest:
        self._require_up()
        manifest = await asyncio.to_thread(self._models.copy, name, to, replace=replace)
        self._planner.forget_model(to)
        self._reconcile_loop.wake()
        return manifest

    async def remove_model(self, name: ModelName) -> None:
        users = [
            service.spec.name
            for service in self._store.services()
            if service.spec.engine not in OUTSIDE and ModelName.parse(service.spec.model) == name
        ]
        if users:
            raise ModelInUse(
                f"model {str(name)!r} is served as {', '.join(map(repr, users))}; stop that first", services=users
            )
        await asyncio.to_thread(self._models.remove, name)

    # -- encryption

    async def encryption(self) -> EncryptionStatus:
        return await asyncio.to_thread(self._vault.status)

    async def convert_model(
        self, name: ModelName, to: ModelName | None, *, encrypted: bool, replace: bool, progress: OnProgress
    ) -> Manifest:
        self._require_up()
        manifest = await with_progress(
            lambda tell: self._models.convert(name, to, encrypted=encrypted, replace=replace, progress=tell),
            "encrypting" if encrypted else "decrypting",
            progress,
        )
        self._planner.forget_model(manifest.name)
        self._reconcile_loop.wake()
        return manifest

    async def make_master_key(self) -> str:
        return await asyncio.to_thread(self._vault.make)

    async def rotate_master_key(self, passphrase: str | None, key_file: str | None) -> str:
        if key_file is not None and not Path(key_file).is_absolute():
            raise BadParameter(f"{key_file!r} is not an absolute path", param="key_file")
        return await asyncio.to_thread(lambda: self._vault.rotate(secret_from(passphrase, key_file)))

    # -- services

    async def services(self) -> Sequence[ServiceStatus]:
        return self._reporter.statuses()

    async def service(self, name: ServiceName) -> ServiceStatus:
        return self._reporter.status(name)

    async def serve(self, spec: ServiceSpec) -> ServiceStatus:
        """Refuses a wish that cannot be met as things are: unknown model or device, more bytes than are free."""
        require_service_name(spec.name)
        self._require_up()
        spec = await asyncio.to_thread(self._with_engine, spec)
        if spec.engine == "openai":
            place_of(spec.url, self._config.engine_hosts)
        self.aliases.refuse_name(spec.name)
        await self._require_room(spec)
        service = self._store.put_service(spec)
        self._emit(ServiceWished(service=spec.name, model=spec.model, revision=service.revision))
        self._reconcile_loop.renewed(spec.name)
        await self._reconcile_loop.settle()
        return self._reporter.status(spec.name)

    async def stop(self, name: ServiceName) -> None:
        self._store.delete_service(name)
        self._emit(ServiceRemoved(service=name))
        self._reconcile_loop.removed(name)
        await self._reconcile_loop.settle()

    async def put_alias(self, alias: Alias) -> Alias:
        require_service_name(alias.name)
        self._require_up()
        return self.aliases.put(alias)

    async def logs(self, name: ServiceName, *, follow: bool, tail: int) -> AsyncIterator[bytes]:
        path = self._layout.service_log(name) if _SERVICE.fullmatch(name) else None
        if path is None or not (path.exists() or self._wished(name)):
            raise ServiceNotFound(f"no service {name!r}")
        going_on = (lambda: self._wished(name) and not self._reconcile_loop.going_down) if follow else (lambda: False)
        return follow_log(path, tail, self._clock, going_on)

    # -- keys

    async def keys(self) -> tuple[Sequence[AccessKey], bool]:
        return self._store.keys(), self._config.require_keys

    async def make_key(self, name: str, limits: KeyLimits, expires_in_s: float | None) -> tuple[AccessKey, str]:
        return self._locksmith.make(name, limits, expires_in_s)

    async def remove_key(self, name: str) -> None:
        self._locksmith.remove(name)

    # -- below

    def _whether_to_encrypt(self, asked: bool | None) -> bool:
        """Raises EncryptionKeyMissing and others before anything is read."""
        sealed = self._config.encrypt_models if asked is None else asked
        if sealed:
            self._vault()
        return sealed

    def _require_up(self) -> None:
        if self._reconcile_loop.going_down:
            raise NodeNotRunning("the node is going down")

    def _with_engine(self, spec: ServiceSpec) -> ServiceSpec:
        """The wish, with the one engine there is for the model where the caller left that open."""
        if spec.engine == "thaloom" and self._models.get(spec.model).card.family == "onnx":
            return dataclasses.replace(spec, engine="onnx")
        return spec

    async def _require_room(self, spec: ServiceSpec) -> None:
        plan = await self._planner.make(spec)
        mine = [process.id for process in self._supervisor if process.lease.service == spec.name]
        free = self._memory.free_bytes(self._supervisor)[plan.device] + self._memory.held_bytes(mine, plan.device)
        needed_bytes = plan.estimate.total_bytes * spec.replicas
        if needed_bytes > free:
            raise OutOfMemory(
                shortage(spec.name, plan.device, needed_bytes, free),
                device=plan.device,
                needed_bytes=needed_bytes,
                free_bytes=free,
                weight_bytes=plan.estimate.weight_bytes,
                kv_bytes=plan.estimate.kv_bytes,
            )

    def _wished(self, name: ServiceName) -> bool:
        return any(service.spec.name == name for service in self._store.services())


class _Cancelled(Exception):
    """Raised inside a store's thread, by its call for progress, when nobody waits for it any more."""


async def with_progress(work: Callable[[Callable[[int, int], None]], T], stage: str, progress: OnProgress) -> T:
    """Run blocking `work` in a thread. Cancelling waits until the thread has stopped, at its next chunk."""
    loop = asyncio.get_running_loop()
    cancelled = threading.Event()

    def tell(done_bytes: int, total_bytes: int) -> None:
        if cancelled.is_set():
            raise _Cancelled
        loop.call_soon_threadsafe(progress, stage, done_bytes, total_bytes)

    thread = asyncio.ensure_future(asyncio.to_thread(work, tell))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        cancelled.set()
        await asyncio.wait([thread])
        thread.exception()  # whatever it was, nobody waits for it
        raise


def require_service_name(name: str) -> None:
    if not _SERVICE.fullmatch(name) or ".." in name or name in _RESERVED:
        raise BadParameter(
            f"not a name for a service: {name!r} (letters, digits, '.', '_', '-', ':'; not {' or '.join(_RESERVED)})",
            param="name",
        )
