"""Process one, put together: who is handed to whom. The only place where every room is known by name."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterable

from thaloom.base import host_memory
from thaloom.base.access import tenant_of
from thaloom.base.clock import Clock
from thaloom.base.errors import DeadlineExceeded, NodeNotRunning, ThaloomError
from thaloom.base.events import Degraded, Emit
from thaloom.base.ids import DeviceId, WorkerId
from thaloom.base.plugins import Registry
from thaloom.base.procs import ProcessIdentity
from thaloom.hal.driver import Driver
from thaloom.hal.inventory import Inventory
from thaloom.init.access.certificates import Certificates
from thaloom.init.access.gate import Gate
from thaloom.init.access.locksmith import Locksmith
from thaloom.init.access.tenancy import Tenancy
from thaloom.init.access.vault import Vault
from thaloom.init.acting.guards import ServiceGuard
from thaloom.init.acting.past import Past
from thaloom.init.acting.performing import Performer
from thaloom.init.acting.registry import action_kinds
from thaloom.init.aliasing import Aliasing
from thaloom.init.boot import NodeConfig, require_free_port, require_host_memory
from thaloom.init.documents.federations import Federations
from thaloom.init.documents.jobs import Jobs
from thaloom.init.documents.kinds import DocumentKinds
from thaloom.init.documents.services import Services
from thaloom.init.documents.workspaces import Workspaces
from thaloom.init.errands.pulls import Pulls
from thaloom.init.errands.quantising import Quantising
from thaloom.init.events import OrphansEnded
from thaloom.init.history import History
from thaloom.init.jobs.confining import JobWalls
from thaloom.init.jobs.desk import JobDesk
from thaloom.init.jobs.guarding import JobGuard
from thaloom.init.jobs.loop import JobLoop
from thaloom.init.jobs.memory import JobMemory
from thaloom.init.layout import Layout
from thaloom.init.memory.host_turns import HostTurns
from thaloom.init.memory.idling import Idling
from thaloom.init.memory.lending import Lending
from thaloom.init.memory.low_memory import MemoryWatch
from thaloom.init.memory.node_memory import NodeMemory
from thaloom.init.memory.placement import Planner
from thaloom.init.memory.segments import IDLE_SHARE, Segments
from thaloom.init.memory.waking import Waking
from thaloom.init.recovery import Found, recover, running
from thaloom.init.rounds.executor import Executor
from thaloom.init.rounds.publishing import Publisher, TextFiles
from thaloom.init.rounds.reconcile_loop import ReconcileLoop
from thaloom.init.rounds.records import Records
from thaloom.init.rounds.reporter import Reporter
from thaloom.init.rounds.standby import Standby, fits
from thaloom.init.rounds.supervisor import Supervised, Supervisor
from thaloom.init.syscalls.asking import Parts
from thaloom.init.syscalls.calls import Syscalls
from thaloom.init.walls.confining import Confiner
from thaloom.init.walls.fencing import Fences
from thaloom.kernel.models.store import ModelStore
from thaloom.kernel.models.types import Manifest
from thaloom.kernel.sandbox.finding import find_groups
from thaloom.kernel.sandbox.grouping import NoGroups, folder_name
from thaloom.kernel.sandbox.host import NO_WALLS, find_walls
from thaloom.kernel.sandbox.protection import protect_node
from thaloom.kernel.sandbox.walls import Sandbox
from thaloom.kernel.state.routes import RouteReader
from thaloom.kernel.state.store import StateStore
from thaloom.kernel.state.types import Lease, Route, ServiceSpec
from thaloom.kernel.trust.master_key import MasterSecret
from thaloom.work.runtime.turns.turns import width_of

_HAND_OVER_S = 5.0
"""An action that takes longer is one that recovery knows how to look for."""


def take_stock(layout: Layout, config: NodeConfig, store: StateStore, clock: Clock) -> Found:
    """What an earlier daemon left behind, once the books are right.

    Where no door of ours is open: raises PortTaken if its port is another program's, BadParameter if its address is
    another machine's, and what keeps it from showing a certificate where it has to. A door that is open goes on.
    """
    found = recover(layout, store, clock)
    doors = [lease.socket for lease in found.alive if lease.role == "door"]
    if config.address not in doors:
        if not any(door.endswith(f":{config.port}") for door in doors):  # one of ours leaves it to the next
            require_free_port(config.host, config.port)
        if config.speaks_tls:
            config.door.read(layout.home)
    return found


class Node:
    """Everything of one node. Made inside the TaskGroup that owns its waiting."""

    def __init__(
        self,
        tasks: asyncio.TaskGroup,
        layout: Layout,
        config: NodeConfig,
        *,
        store: StateStore,
        registry: Registry[Driver],
        clock: Clock,
        emit: Emit,
        passphrase: MasterSecret | None = None,
    ) -> None:
        """`store` stays the caller's to close, after the TaskGroup has ended."""
        self._tasks = tasks
        self._layout = layout
        self._config = config
        self._store = store
        self._clock = clock
        history = History(clock, emit)
        self._vault = Vault(
            layout,
            key_file=config.master_key_file,
            passphrase=passphrase,
            has_encrypted=lambda: self._models.has_encrypted(),
            environment=os.environ,
            emit=history,
        )
        models = self._models = ModelStore(layout.models, clock, history, key=self._vault)
        self._vault.open()
        inventory = Inventory(registry, history)
        planner = Planner(
            models,
            inventory,
            clock,
            lends=lambda spec, device: memory.lending is not None and _is_trusted(memory, spec, device),
            takes_turns=lambda spec, device: _is_trusted(memory, spec, device),
        )
        memory = NodeMemory(
            inventory.refresh().devices,
            host_total_bytes=require_host_memory(host_memory.total_bytes()),
            host_available=_available_bytes,
            readings=lambda: {reading.device: reading for reading in inventory.readings()},
            headroom_bytes=config.memory_headroom_bytes,
        )
        turns: HostTurns | None = None
        if memory.host is not None:
            with contextlib.suppress(DeadlineExceeded):  # a worker was stopped in its turn: nothing is lent anew
                memory.lending = Lending(layout.pages, memory.host)
            turns = HostTurns(layout.turns, width_of(inventory.device(memory.host).num_cores))
        segments = self._segments = Segments(clock, history, max_idle_bytes=memory.host_capacity_bytes() // IDLE_SHARE)
        memory.sharing = segments
        text_files = self._text_files = TextFiles(layout.tokenizers)
        sandbox = self._sandbox = _sandbox(layout, config)
        confiner = self._confiner = Confiner(layout, config.sandbox, sandbox=sandbox, models=models)
        fences = Fences(layout, config.sandbox, sandbox)
        self._low_memory = MemoryWatch(
            low_bytes=config.memory_headroom_bytes // 2,  # what workers are never promised is half gone
            available=_available_bytes,
            clock=clock,
            emit=history,
            give_up=lambda: self._standby.end() + segments.make_room(memory.host_capacity_bytes()),
        )
        self.supervisor = Supervisor(
            tasks,
            clock=clock,
            emit=history,
            heartbeat_s=config.heartbeat_s,
            wake=lambda: self.reconcile_loop.wake(),
            on_end=lambda process, last_words: self.reconcile_loop.process_lost(process, last_words),
            on_ready=lambda: self.reconcile_loop.tell_of_ready(),
            named=confiner.named,
        )
        idling = self._idling = Idling(
            config.idle, store=store, memory=memory, supervisor=self.supervisor, clock=clock, emit=history
        )
        self._standby = Standby(
            layout,
            enabled=config.standby,
            driver=None if memory.host is None else inventory.device(memory.host).driver,
            fences=fences,
            confiner=confiner,
            memory=memory,
            supervisor=self.supervisor,
            clock=clock,
            emit=history,
        )
        memory.give_up = self._standby.end
        executor = self._executor = Executor(
            layout,
            store=store,
            models=models,
            inventory=inventory,
            planner=planner,
            memory=memory,
            supervisor=self.supervisor,
            text_files=text_files,
            confiner=confiner,
            fences=fences,
            segments=segments,
            clock=clock,
            vault=self._vault,
            idling=idling,
            standby=self._standby,
            engine_hosts=config.engine_hosts,
        )
        self._earlier = _routes_of_an_earlier_daemon(layout)
        self._publisher = Publisher(layout.routes, layout.control_socket, clock, store.with_room)
        self._locksmith = Locksmith(
            layout.keys,
            require_keys=config.require_keys,
            store=store,
            clock=clock,
            emit=history,
            always=config.beyond_loopback,
        )
        self.gate = Gate(self._locksmith, users=config.socket_users, journal=store.journal, clock=clock, emit=history)
        records = Records()
        reporter = Reporter(
            store,
            supervisor=self.supervisor,
            planner=planner,
            records=records,
            text_files=text_files,
            idling=idling,
            wall=confiner.running_into,
            latency=confiner.latency,
            clock=clock,
        )
        self.reconcile_loop = ReconcileLoop(
            config,
            store=store,
            planner=planner,
            memory=memory,
            supervisor=self.supervisor,
            executor=executor,
            records=records,
            reporter=reporter,
            publisher=self._publisher,
            idling=idling,
            segments=segments,
            clock=clock,
            emit=history,
        )
        self.reconcile_loop.on_published = self._published
        self._pulls = Pulls(
            layout,
            air_gap=config.air_gap,
            read_through=config.hub_read_through,
            models=models,
            tasks=tasks,
            clock=clock,
            emit=history,
            pulled=self._model_came,
            vault=self._vault,
            fences=fences,
            require_memory=self._low_memory.require,
        )
        self._workspaces = Workspaces(store, layout.workspaces, users=store.jobs.users_of_workspace)
        self._jobs, desk = self._make_jobs(history, memory)
        self._planner = planner
        self._memory = memory
        aliasing = Aliasing(store, history, self.reconcile_loop.wake)
        tenancy = Tenancy(
            store, planner=planner, memory=memory, supervisor=self.supervisor, holds_memory=confiner.holds_memory
        )
        self._certificates = Certificates(layout, config, door=reporter.door, clock=clock, emit=history)
        guard = self._guard = ServiceGuard(
            models,
            planner=planner,
            memory=memory,
            supervisor=self.supervisor,
            aliasing=aliasing,
            tenancy=tenancy,
            idling=idling,
            engine_hosts=config.engine_hosts,
            walls=confiner.require_latency,
        )
        quantising = Quantising(
            layout,
            models=models,
            planner=planner,
            memory=memory,
            supervisor=self.supervisor,
            emit=history,
            fences=fences,
        )
        documents = DocumentKinds(
            [
                Services(store, self.reconcile_loop, guard=guard, status=reporter.status, emit=history),
                Jobs(desk, history),
                self._workspaces,
                Federations(store),
            ]
        )
        kinds = action_kinds(
            store,
            loop=self.reconcile_loop,
            models=models,
            pulls=self._pulls,
            quantising=quantising,
            aliasing=aliasing,
            locksmith=self._locksmith,
            tenancy=tenancy,
            guard=guard,
            vault=self._vault,
            certificates=self._certificates,
            clock=clock,
            documents=documents,
            emit=history,
            came=self._model_came,
            gone=segments.forget,
            require_memory=self._low_memory.require,
            jobs=desk,
        )
        self._performer = Performer(kinds, journal=store.journal, tasks=tasks, clock=clock, refused=self.gate.telling)
        parts = Parts(
            layout=layout,
            store=store,
            models=models,
            inventory=inventory,
            memory=memory,
            pulls=self._pulls,
            supervisor=self.supervisor,
            reconcile_loop=self.reconcile_loop,
            reporter=reporter,
            history=history,
            aliasing=aliasing,
            guard=guard,
            performer=self._performer,
            tenancy=tenancy,
            gate=self.gate,
            documents=documents,
            vault=self._vault,
            jobs=desk,
            certificates=self._certificates,
            low_memory=self._low_memory,
            turns=turns,
            standby=self._standby,
            waking=Waking(store, self.reconcile_loop, guard=guard, clock=clock, emit=history),
            past=Past(store.journal),
            clock=clock,
            started_at=clock.now(),
        )
        self.syscalls = Syscalls(parts, config)
        self.emit: Emit = history

    def _make_jobs(self, emit: Emit, memory: NodeMemory) -> tuple[JobLoop, JobDesk]:
        layout, config, clock, store = self._layout, self._config, self._clock, self._store
        walls = JobWalls(layout.home, self._sandbox, config.sandbox, config.jobs)
        held = JobMemory(memory, self.supervisor, config.jobs.memory_bytes)
        loop = JobLoop(
            layout,
            config.jobs,
            store=store,
            walls=walls,
            memory=held,
            tasks=self._tasks,
            clock=clock,
            emit=emit,
            tick_s=config.tick_s,
            going_down=lambda: self.reconcile_loop.going_down,
        )
        self.reconcile_loop.on_going_down = loop.wake
        guard = JobGuard(
            home=layout.home, jobs=store.jobs, walls=walls, memory=held, is_workspace=self._workspaces.is_there
        )
        require_up = self.reconcile_loop.require_up
        return loop, JobDesk(store.jobs, loop=loop, guard=guard, clock=clock, require_up=require_up)

    async def start(self, found: Found) -> None:
        """Take over what an earlier daemon left running, then make a first round."""
        self._locksmith.publish()  # before there is a door that could let anybody in
        processes = list(running())
        jobs = self._jobs.adopt(processes)
        await self._adopt(found)
        self._segments.adopt(self.supervisor)
        await self._expect()
        self._stop_strangers(found.strangers)
        await self._sweep_groups(found, self._jobs.kept_groups(processes))
        await self._jobs.sweep(processes)
        await asyncio.to_thread(self._sweep_text_files)
        await asyncio.to_thread(self._workspaces.sweep)
        self._tasks.create_task(self._sweep_models(), name="sweep models")
        self._certificates.sweep()
        await asyncio.to_thread(self._certificates.load)
        self._watching = [
            self._tasks.create_task(self._certificates.watch(), name="watch certificate"),
            self._tasks.create_task(self._low_memory.run(), name="watch memory"),
            self._tasks.create_task(self._standby.run(), name="standby"),
        ]
        self.reconcile_loop.on_memory_error = self._low_memory.out_of_memory
        living = {str(lease.id) for lease in found.alive} | jobs
        for entry in self._store.journal.unfinished():
            try:
                await self._performer.resume(entry, living)
            except (ThaloomError, OSError) as error:  # the journal cannot be written: told, and tried at the next start
                self.emit(Degraded(subject=f"action {entry.action}", reason="ResumeFailed", message=str(error)))
        await self.reconcile_loop.settle()
        await asyncio.to_thread(protect_node)  # by now it has moved, if it had to
        await self._jobs.settle()

    async def run(self) -> None:
        """Keep the wishes, until somebody asks for the end and every process has ended."""
        await asyncio.gather(self.reconcile_loop.run(), self._jobs.run())
        for watching in self._watching:
            watching.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)
        await self._pulls.close()
        self._publisher.withdraw()
        self._segments.close()
        await asyncio.to_thread(self._confiner.close)

    def _published(self) -> None:
        """At the end of each round."""
        self._locksmith.catch_up()
        up = not self.reconcile_loop.going_down
        self._standby.look(wanted=up and any(fits(service.spec) for service in self._store.services()))

    async def _sweep_groups(self, found: Found, kept: Iterable[str]) -> None:
        """Whatever runs in a group of ours that nobody owns is ended, and the missing walls are told."""
        alive = {lease.id for lease in found.alive} | {WorkerId(name) for name in kept}
        orphans = await asyncio.to_thread(self._confiner.sweep, alive, [each.pid for each in found.strangers])
        if orphans:
            self.emit(OrphansEnded(groups=tuple(orphans)))
        if missing := self._confiner.missing():
            message = f"workers start without: {'; '.join(missing)} (see: thaloom doctor host)"
            self.emit(Degraded(subject="sandbox", reason="WallsMissing", message=message))

    def use(self, settings: NodeConfig) -> None:
        """Heed settings that were read again (init.reloading.LIVE)."""
        self._config = settings
        self.reconcile_loop.use(settings)
        self.supervisor.heartbeat_s = settings.heartbeat_s
        self._idling.config = settings.idle
        self._standby.use(enabled=settings.standby)
        self._executor.engine_hosts = self._guard.engine_hosts = settings.engine_hosts
        self._pulls.use(air_gap=settings.air_gap, read_through=settings.hub_read_through)
        self._locksmith.require(settings.require_keys)
        self.gate.use(settings.socket_users)
        self._layout.let_pass(self.gate.others_may_connect)
        self.syscalls.use(settings)
        self._certificates.use(settings)
        self._tasks.create_task(self._certificates.show(), name="show certificate")

    async def hand_over(self) -> None:
        """Come to rest between two actions, so that the process may end with everything running. Soon, in any case: a
        kill would be no worse."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_HAND_OVER_S):
                await self.reconcile_loop.hold_still()
                await self._jobs.hold_still()

    def _model_came(self, manifest: Manifest) -> None:
        self._planner.forget_model(manifest.name)
        if manifest.encrypted:
            self._segments.forget(manifest.digest)
        self.reconcile_loop.wake()  # a wish may have waited for it

    async def _adopt(self, found: Found) -> None:
        ready = {socket for route in self._earlier if route.phase == "ready" for socket in route.sockets}
        await asyncio.gather(*(self._adopt_one(lease, was_ready=lease.socket in ready) for lease in found.alive))

    async def _expect(self) -> None:
        """Book those who are loading still: what they have not touched yet is promised to them all the same."""
        for process in self.supervisor:
            service = process.lease.service
            if service is None or (process.stats is not None and process.stats.ready):
                continue
            with contextlib.suppress(ThaloomError):  # its wish or its model is gone: it is stopped in a moment
                plan = await self._planner.make(self._store.service(service).spec)
                self._memory.expect(process.id, plan.device, plan.estimate, lends=plan.lends)

    async def _adopt_one(self, lease: Lease, *, was_ready: bool) -> Supervised:
        log = self._layout.door_log if lease.service is None else self._layout.service_log(lease.service)
        return await self.supervisor.adopt(lease, log=log, was_ready=was_ready)

    def _sweep_text_files(self) -> None:
        served = {process.stats.model_digest for process in self.supervisor if process.stats is not None}
        self._text_files.keep_only(served | {manifest.digest for manifest in self._models.list()})

    async def _sweep_models(self) -> None:
        """Delete what a killed import left. That it fails is no reason not to serve."""
        try:
            await asyncio.to_thread(self._models.sweep)
        except (ThaloomError, OSError) as error:
            self.emit(Degraded(subject="models", reason="SweepFailed", message=str(error)))

    def _stop_strangers(self, strangers: Iterable[ProcessIdentity]) -> None:
        for process in strangers:
            self._tasks.create_task(process.stop(grace_s=self._config.stop_grace_s), name=f"stop stranger {process}")


def _sandbox(layout: Layout, config: NodeConfig) -> Sandbox:
    """By trial, unless walls are switched off. Blocks for a tenth of a second."""
    if config.sandbox.walls == "off":
        return Sandbox(walls=NO_WALLS, groups=NoGroups("walls are switched off"), mode="off")
    groups = find_groups(folder_name(layout.home))
    groups.settle()  # before there is a door or a worker, which would be born where we are
    return Sandbox(walls=find_walls(layout.run), groups=groups, mode=config.sandbox.walls)


def _available_bytes() -> int:
    """A host that stops telling has none left: nothing more is promised, and LowMemory says so."""
    return host_memory.available_bytes() or 0


def _is_trusted(memory: NodeMemory, spec: ServiceSpec, device: DeviceId) -> bool:
    """Whether its worker may sit at the host's board and turnstile: who does can write what stands there, so no
    tenant's does, and no foreign engine."""
    return memory.host == device and spec.engine == "thaloom" and not tenant_of(spec.name)


def _routes_of_an_earlier_daemon(layout: Layout) -> tuple[Route, ...]:
    try:
        return RouteReader(layout.routes).current().routes
    except NodeNotRunning:
        return ()
