"""Services that are idle: how long nobody has asked them anything, and their unloading.

A service is told to be idle before its workers are asked to end, so that a door which finds a worker gone knows by then
why; and a worker agrees to end only if nobody asks it anything in that moment (Shutdown.if_idle_s). So a request that
comes just then is answered by this worker, or wakes the next.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable

from thaloom.base.clock import Clock
from thaloom.base.errors import ServiceNotFound
from thaloom.base.events import Emit
from thaloom.base.ids import DeviceId, ServiceName
from thaloom.init.events import ServiceKept, ServiceUnloaded
from thaloom.init.memory.node_memory import NodeMemory
from thaloom.init.rounds.actions import Hold, Unload
from thaloom.init.rounds.supervisor import Supervised, Supervisor
from thaloom.kernel.sched.idling import SETTLED_S, IdleConfig, Loaded
from thaloom.kernel.state.store import StateStore
from thaloom.kernel.state.types import Service

UNLOADING = "idle"
"""Why such a worker is stopped."""


class Idling:
    """Looks at workers; what it decides nothing about, it carries out."""

    def __init__(
        self,
        config: IdleConfig,
        *,
        store: StateStore,
        memory: NodeMemory,
        supervisor: Supervisor,
        clock: Clock,
        emit: Emit,
    ) -> None:
        self.config = config
        self._store = store
        self._memory = memory
        self._supervisor = supervisor
        self._clock = clock
        self._emit = emit
        self.tell_doors: Callable[[], None] = lambda: None
        """Publish the routes as they are now."""

    def keep_alive_s(self, service: Service) -> float:
        """As things are: what was asked for last, else what is wished, else what is usual here."""
        for said in (service.asked_keep_alive_s, service.spec.keep_alive_s):
            if said is not None:
                return said
        return self.config.keep_alive_s

    def loaded(self) -> tuple[Loaded, ...]:
        """Services that have workers, and are to have them."""
        found = []
        for name, workers in sorted(self._workers().items()):
            with contextlib.suppress(ServiceNotFound):  # it is leaving
                service = self._store.service(name)
                if service.idle_since is None:
                    found.append(self._loaded(service, workers))
        return tuple(found)

    def leaving_bytes(self) -> dict[DeviceId, int]:
        """What comes back from workers that are being unloaded."""
        leaving = [each for each in self._supervisor if each.alive and each.stop_reason == UNLOADING]
        devices = {device for each in leaving for device in self._memory.devices_of(each.id)}
        return {device: self._memory.held_bytes([each.id for each in leaving], device) for device in devices}

    def idle_s(self, service: ServiceName) -> float | None:
        """For how long nobody has asked it anything; None: it is answering, or not ready."""
        return self._idle_s(self._workers().get(service, []))

    async def unload(self, action: Unload) -> None:
        """Have its workers end, if they agree; else it goes on as it was."""
        service = self._store.service(action.service)
        since = service.idle_since or self._clock.now() - action.idle_s
        self._store.put_rest(action.service, idle_since=since)
        self.tell_doors()
        workers = [found for worker in action.workers if (found := self._supervisor.get(worker)) is not None]
        agreed = [await self._supervisor.unload(each, action.if_idle_s, reason=UNLOADING) for each in workers]
        if all(agreed):
            self._emit(ServiceUnloaded(service=action.service, reason=action.reason, idle_s=round(action.idle_s, 3)))
        elif self._store.service(action.service).idle_since is not None:  # else somebody has woken it meanwhile
            self._store.put_rest(action.service, idle_since=None, asked_keep_alive_s=service.asked_keep_alive_s)
            self._emit(ServiceKept(service=action.service))

    def settle_waking(self, holds: list[Hold]) -> None:
        """Those that have come to be ready are awake; those there is no room for are idle again, and whoever waits for
        them is told why when he asks anew."""
        held = {hold.service for hold in holds}
        for service in self._store.services():
            name = service.spec.name
            if not service.waking:
                continue
            if name in held:
                self._store.put_rest(name, idle_since=self._clock.now())
            elif any(each.ready_since is not None for each in self._workers().get(name, [])):
                self._store.put_rest(name, idle_since=None, asked_keep_alive_s=service.asked_keep_alive_s)

    def _loaded(self, service: Service, workers: list[Supervised]) -> Loaded:
        device = next((device for each in workers for device in self._memory.devices_of(each.id)), DeviceId(""))
        return Loaded(
            service=service.spec.name,
            device=device,
            num_bytes=self._memory.held_bytes([each.id for each in workers], device),
            idle_s=self._idle_s(workers),
            keep_alive_s=self._keep_alive_s(service, workers),
            priority=service.spec.priority,
        )

    def _keep_alive_s(self, service: Service, workers: list[Supervised]) -> float:
        """Who was started for somebody is there when he comes."""
        keep_alive_s = self.keep_alive_s(service)
        was_asked = any(each.stats is not None and each.stats.requests_total for each in workers)
        if keep_alive_s < 0 or was_asked or service.asked_keep_alive_s is not None:
            return keep_alive_s
        return max(keep_alive_s, SETTLED_S)

    def _workers(self) -> dict[ServiceName, list[Supervised]]:
        """By service: those that are not leaving."""
        found: dict[ServiceName, list[Supervised]] = defaultdict(list)
        for each in self._supervisor:
            if each.alive and each.stop_reason is None and each.lease.service is not None:
                found[each.lease.service].append(each)
        return found

    def _idle_s(self, workers: list[Supervised]) -> float | None:
        """Of all of them, the least."""
        now = self._clock.monotonic()
        idle = [each.idle_s(now) for each in workers]
        known = [one for one in idle if one is not None]
        return min(known) if known and len(known) == len(idle) else None
