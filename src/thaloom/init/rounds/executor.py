"""Carrying actions out. What is about to be done is in the journal before it is done, and how it ended after.

A kill between the two leaves an intent without an outcome: recovery then looks at the machine and adopts or clears
away what it finds there (init.recovery).
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
from typing import Any

from thaloom.base.actions import RECONCILER
from thaloom.base.clock import Clock
from thaloom.base.ids import ServiceName, WorkerId, new_worker_id
from thaloom.hal.inventory import Inventory
from thaloom.init.access.vault import Vault
from thaloom.init.commands import door_command, worker_command
from thaloom.init.layout import Layout
from thaloom.init.memory.idling import Idling
from thaloom.init.memory.node_memory import NodeMemory
from thaloom.init.memory.placement import Placement, Planner
from thaloom.init.memory.segments import Segments
from thaloom.init.rounds.actions import (
    Action,
    Forget,
    Hold,
    StartDoor,
    StartWorker,
    StopDoor,
    StopWorker,
    Unload,
    to_record,
)
from thaloom.init.rounds.publishing import TextFiles
from thaloom.init.rounds.standby import ONE_THREAD, Standby, fits
from thaloom.init.rounds.supervisor import Supervised, Supervisor, size_of
from thaloom.init.walls.confining import Confiner
from thaloom.init.walls.fencing import Fences
from thaloom.init.walls.leftovers import clear_away
from thaloom.kernel.models.store import ModelStore
from thaloom.kernel.sandbox.latency import WEIGHTS
from thaloom.kernel.sandbox.types import Latency
from thaloom.kernel.state.store import StateStore
from thaloom.kernel.state.types import Lease, Priority, Service, ServiceSpec
from thaloom.work.runtime.spec import WorkerSpec, write_spec


class Executor:
    """The hands of process one. Each method is one action; it raises ThaloomError or OSError if it failed."""

    def __init__(
        self,
        layout: Layout,
        *,
        store: StateStore,
        models: ModelStore,
        inventory: Inventory,
        planner: Planner,
        memory: NodeMemory,
        supervisor: Supervisor,
        text_files: TextFiles,
        confiner: Confiner,
        fences: Fences,
        segments: Segments,
        clock: Clock,
        vault: Vault,
        idling: Idling,
        standby: Standby,
        engine_hosts: tuple[str, ...] = (),
    ) -> None:
        self._layout = layout
        self._store = store
        self._models = models
        self._inventory = inventory
        self._planner = planner
        self._memory = memory
        self._supervisor = supervisor
        self._text_files = text_files
        self._confiner = confiner
        self._fences = fences
        self._segments = segments
        self._clock = clock
        self._vault = vault
        self._idling = idling
        self._standby = standby
        self.engine_hosts = engine_hosts

    async def perform(self, action: Action) -> None:
        """Do it, between two entries of the journal. Raises what hindered it, after writing that down."""
        process = self._subject(action)
        journal, by = self._store.journal, str(RECONCILER)
        record = to_record(action) | {"process": process}
        intent = journal.append(type(action).__name__, record, phase="intent", by=by)
        outcome: dict[str, Any] = {"process": process, "done": False}
        try:
            await self._do(action, process)
            outcome["done"] = True
        except Exception as error:
            outcome["error"] = f"{type(error).__name__}: {error}"
            raise
        finally:
            journal.append(intent.kind, outcome, action=intent.action, by=by)

    def _subject(self, action: Action) -> WorkerId:
        """The process it is about: for one that is to be started a new id, or that of the one that waits."""
        match action:
            case StopWorker(worker=worker) | Unload(workers=(worker, *_)):
                return worker
            case Unload():
                raise ValueError("a service without workers cannot be unloaded")
            case StopDoor(door=door):
                return door
            case Forget(id=process):
                return process
            case StartWorker(service=service):
                return self._standby.offered(self._store.service(service).spec) or new_worker_id()
            case StartDoor() | Hold():
                return new_worker_id()

    async def _do(self, action: Action, process: WorkerId) -> None:
        match action:
            case StartWorker():
                await self._start_worker(action, process)
            case StartDoor():
                await self._start_door(action, process)
            case StopWorker() | StopDoor():
                self._stop(process, action.reason, action.grace_s)
            case Unload():
                await self._idling.unload(action)
            case Forget():
                await self._forget(process)
            case Hold():
                pass

    async def _start_worker(self, action: StartWorker, worker: WorkerId) -> None:
        self._standby.claim(worker)
        try:
            service = self._store.service(action.service)
            plan = await self._planner.make(service.spec)
            self._standby.hand_over(worker)
            await self._memory.admit(worker, plan.device, plan.estimate, lends=plan.lends)
            if plan.manifest is not None:
                await asyncio.to_thread(self._text_files.prepare, self._models.open(plan.manifest))
            write_spec(self._layout.worker_spec(worker), self._spec(worker, service, plan))
            started = await self._begun(worker, service, plan)
        except BaseException:
            self._memory.release(worker)
            self._segments.given(worker)
            await self._standby.drop(worker)
            await clear_away(self._layout, self._confiner, worker)
            raise
        self._segments.given(worker)
        self._store.put_lease(started.lease)

    async def _begun(self, worker: WorkerId, service: Service, plan: Placement) -> Supervised:
        """The one that waits becomes this worker, or a process is started."""
        spec, log = service.spec, self._layout.service_log(service.spec.name)
        command = worker_command(self._layout.worker_spec(worker))
        command = await asyncio.to_thread(self._confiner.confine, worker, spec, plan, command)
        encrypted = plan.manifest is not None and plan.manifest.encrypted
        key, pass_fds = self._vault.for_child() if encrypted else ({}, ())
        shared = self._segments.give(worker, spec, plan.manifest, self._inventory.device(plan.device).driver)
        env = self._environment() | self._confiner.environment(spec) | (ONE_THREAD if fits(spec) else {})
        lease, log_offset = self._lease(worker, spec.name, service.revision), size_of(log)
        walls = self._layout.worker_walls(worker) if self._confiner.walled else None
        process = await self._standby.become(worker, plan=walls, environment=env, told=key | shared, log=log)
        if process is not None:
            return self._supervisor.take(lease, process, log=log, log_offset=log_offset)
        fds = (*pass_fds, *self._segments.descriptors(shared))
        return self._supervisor.start(lease, command, log=log, env=env | key | shared, pass_fds=fds)

    async def _start_door(self, action: StartDoor, door: WorkerId) -> None:
        lease = Lease(
            id=door,
            role="door",
            service=None,
            pid=0,
            start_ticks=0,
            socket=action.address,
            started_at=self._clock.now(),
        )
        key, pass_fds = self._vault.for_child()  # it hands encrypted models out too, as a hub
        env = self._environment() | key
        try:
            command = door_command(self._layout.home, action.address)
            command = await asyncio.to_thread(self._fences.door, door, command)
            started = self._supervisor.start(lease, command, log=self._layout.door_log, env=env, pass_fds=pass_fds)
        except BaseException:
            await clear_away(self._layout, self._confiner, door)
            raise
        self._store.put_lease(started.lease)

    def _stop(self, process: WorkerId, reason: str, grace_s: float) -> None:
        """Begins it; that it has ended is seen later, like any other end."""
        supervised = self._supervisor.get(process)
        if supervised is not None:
            self._supervisor.stop(supervised, reason=reason, grace_s=grace_s)

    async def _forget(self, process: WorkerId) -> None:
        self._supervisor.forget(process)
        self._memory.release(process)
        await clear_away(self._layout, self._confiner, process)
        self._store.delete_lease(process)

    def _lease(self, worker: WorkerId, service: ServiceName, revision: int) -> Lease:
        """Complete but for the process, which is not there yet."""
        return Lease(
            id=worker,
            role="worker",
            service=service,
            pid=0,
            start_ticks=0,
            socket=str(self._layout.worker_socket(worker)),
            started_at=self._clock.now(),
            revision=revision,
        )

    def _spec(self, worker: WorkerId, service: Service, plan: Placement) -> WorkerSpec:
        wish = dataclasses.asdict(service.spec)
        for name in ("name", "replicas", "labels", "latency", "keep_alive_s", "priority"):
            del wish[name]
        found = self._inventory.device(plan.device)
        lending = self._memory.lending if plan.lends else None
        return WorkerSpec(
            worker=worker,
            service=service.spec.name,
            store=str(self._layout.models),
            socket=str(self._layout.worker_socket(worker)),
            driver=found.driver,
            engine_hosts=self.engine_hosts,
            pages=None if lending is None else str(lending.path),
            tier_folder=str(self._layout.worker_tier(worker)) if service.spec.kv_disk_bytes else None,
            turns=str(self._layout.turns) if plan.takes_turns else None,
            turn_weight=self._turn_weight(service.spec),
            page_priority=3 * _PRIORITY[service.spec.priority] + _LATENCY[self._confiner.latency(service.spec)],
            **wish | {"device": found.id},
        )

    def _turn_weight(self, spec: ServiceSpec) -> int:
        return WEIGHTS[self._confiner.latency(spec)] * _SHARE[spec.priority] // _SHARE["normal"]

    def _environment(self) -> dict[str, str]:
        return os.environ | {"THALOOM_HOME": str(self._layout.home)}


_PRIORITY: dict[Priority, int] = {"low": 0, "normal": 1, "high": 2}
_LATENCY: dict[Latency, int] = {"batch": 0, "normal": 1, "interactive": 2}
"""Who goes first where several want what is left of the memory: who was named so, then who answers somebody."""

_SHARE: dict[Priority, int] = {"low": 1, "normal": 2, "high": 4}
"""How much of the device's time, where all of a latency class have something to do."""
