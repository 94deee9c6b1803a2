"""What is told of the services: statuses for people, routes for the door. Looked up whenever somebody asks."""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Callable

from thaloom.base.access import tenant_of
from thaloom.base.clock import Clock
from thaloom.base.ids import DeviceId, ServiceName, WorkerId
from thaloom.base.procs import resident_bytes
from thaloom.init.memory.idling import Idling
from thaloom.init.memory.placement import Planner
from thaloom.init.rounds.conditions import Evidence, complete, conditions, judge, keep_since
from thaloom.init.rounds.publishing import TextFiles
from thaloom.init.rounds.records import Owner, Records
from thaloom.init.rounds.supervisor import Supervised, Supervisor
from thaloom.kernel.sandbox.types import Latency
from thaloom.kernel.state.store import StateStore
from thaloom.kernel.state.types import Condition, Page, Route, Service, ServiceSpec, ServiceStatus

_RETRY_AFTER_S = 2.0
"""What callers are told who come while a service loads: most are ready by then."""


class Reporter:
    """Reads everything, changes nothing but its own memory of since when what has been so."""

    def __init__(
        self,
        store: StateStore,
        *,
        supervisor: Supervisor,
        planner: Planner,
        records: Records,
        text_files: TextFiles,
        idling: Idling,
        wall: Callable[[WorkerId], str | None],
        latency: Callable[[ServiceSpec], Latency],
        clock: Clock,
    ) -> None:
        """`wall(worker)`: which limit a living worker keeps meeting, in words. `latency(wish)`: the class of its
        workers."""
        self._store = store
        self._supervisor = supervisor
        self._planner = planner
        self._records = records
        self._text_files = text_files
        self._idling = idling
        self._wall = wall
        self._latency = latency
        self._clock = clock
        self._idle: dict[ServiceName, tuple[tuple[object, ...], Route]] = {}
        self._told: dict[Owner, tuple[Condition, ...]] = {}

    def door(self) -> Supervised | None:
        """The door's process, if one lives: rather one that is not leaving."""
        return self._newest(None, "door")

    def statuses(
        self, *, limit: int | None = None, after: str | None = None, tenant: str | None = None
    ) -> Page[ServiceStatus]:
        """Wished services as they are now, by name, from the one after `after`, wished or not. `tenant`: only that
        tenant's own."""
        services = self._store.services()
        if tenant is not None:
            services = [service for service in services if tenant_of(service.spec.name) == tenant]
        begin = 0 if after is None else bisect.bisect_right(services, after, key=lambda service: service.spec.name)
        end = len(services) if limit is None else min(len(services), begin + limit)
        items = tuple(self._status(service) for service in services[begin:end])
        more = begin < end < len(services)
        return Page(items=items, total=len(services), next=services[end - 1].spec.name if more else None)

    def status(self, name: ServiceName) -> ServiceStatus:
        """Raises ServiceNotFound."""
        return self._status(self._store.service(name))

    def node_conditions(self, round_failures: int, more: tuple[Condition, ...] = ()) -> tuple[Condition, ...]:
        """Ready is whether the door is; Degraded tells of errors of ours. `more`: what others know of the node."""
        evidence = self._evidence(None, self.door())
        told = (*conditions(evidence, judge(evidence, "the door")), *more)
        if round_failures:
            message = f"{round_failures} rounds of the reconciler ended in an error (see the daemon's log)"
            told = (*told, Condition(kind="Degraded", status=True, reason="RoundFailed", message=message, since=0.0))
        return self._since(None, told)

    def routes(self) -> tuple[Route, ...]:
        """Those of services that nobody serves are the very ones of the last time, where nothing they tell of has
        changed: of ten thousand wishes most are like that."""
        serving = {process.lease.service for process in self._supervisor}
        records, copies, planned = self._records, self._text_files.now, self._planner.known
        before, now, settings = self._idle, {}, self._idling.config
        routes = []
        for service in self._store.services():
            name = service.spec.name
            if name in serving:
                routes.append(self._route(service))
                continue
            told = (records.hold(name), records.backoff(name), records.last_words(name))
            made_of = (service, *told, planned(service), copies, settings)
            known = before.get(name)
            if known is None or known[0] != made_of:  # mostly the very same, which is seen at once
                known = (made_of, self._route(service))
            now[name] = known
            routes.append(known[1])
        self._idle = now
        return tuple(routes)

    def forget(self, service: ServiceName) -> None:
        self._told.pop(service, None)

    def _status(self, service: Service) -> ServiceStatus:
        name = service.spec.name
        process = self._newest(name, "worker")
        evidence = self._evidence(name, process)
        ready = self._serving(name)
        replicas = (len(ready), service.spec.replicas)
        evidence = dataclasses.replace(
            evidence,
            outdated=self._outdated(service, process),
            replicas=replicas,
            idle=service.idle_since is not None,
            waking=service.waking,
        )
        verdict = judge(evidence)
        status = ServiceStatus(
            spec=service.spec,
            phase=verdict.phase,
            conditions=self._since(name, conditions(evidence, verdict)),
            created_at=service.created_at,
            restarts=self._records.restarts(name),
            ready_replicas=len(ready),
            latency=self._latency(service.spec),
            idle_since=service.idle_since,
            keep_alive_s=self._idling.keep_alive_s(service),
        )
        if process is None or service.idle_since is not None:
            return status
        return _with_figures(self._with_idleness(status, service), process, ready)

    def _with_idleness(self, status: ServiceStatus, service: Service) -> ServiceStatus:
        idle_s = self._idling.idle_s(service.spec.name)
        if idle_s is None:
            return status
        since = self._clock.now() - idle_s
        unload_at = None if status.keep_alive_s < 0 else since + status.keep_alive_s
        return dataclasses.replace(status, idle_since=since, unload_at=unload_at)

    def _route(self, service: Service) -> Route:
        process = self._newest(service.spec.name, "worker")
        evidence = self._evidence(service.spec.name, process)
        verdict = judge(dataclasses.replace(evidence, idle=service.idle_since is not None, waking=service.waking))
        plan = self._planner.known(service)
        stats = process.stats if process is not None else None
        digest = stats.model_digest if stats is not None else plan.manifest.digest if plan and plan.manifest else ""
        context_length = plan.estimate.context_length if plan is not None else None
        serving = self._serving(service.spec.name) or [each for each in (process,) if each is not None]
        return Route(
            name=service.spec.name,
            model=service.spec.model,
            phase=verdict.phase,
            sockets=() if verdict.phase == "idle" else tuple(worker.lease.socket for worker in serving),
            context_length=(stats.context_length if stats is not None and stats.ready else context_length) or None,
            created_at=service.created_at,
            engine=service.spec.engine,
            tokenizer_files=self._text_files.of(digest) if digest else {},
            reason=verdict.message,
            retry_after_s=None if verdict.phase in ("ready", "idle") else _RETRY_AFTER_S,
            waking=service.waking,
            keep_alive_s=self._idling.keep_alive_s(service),
            keeps_prompts=service.spec.keeps_prompts,
        )

    def _outdated(self, service: Service, process: Supervised | None) -> str | None:
        """A worker keeps the model it has loaded when another is imported under its name; it is told, not restarted."""
        plan = self._planner.known(service)
        if plan is None or plan.manifest is None or process is None:
            return None
        if process.stats is None or not process.stats.ready:
            return None
        runs, stored = process.stats.model_digest, plan.manifest.digest
        if runs == stored:
            return None
        return f"it runs {runs[:12]}, {service.spec.model!r} is {stored[:12]} now: stop and serve it to change over"

    def _newest(self, service: ServiceName | None, role: str) -> Supervised | None:
        living = [process for process in self._supervisor if process.alive and process.lease.role == role]
        mine = [process for process in living if process.lease.service == service]
        return min(
            mine, key=lambda process: (process.stop_reason is not None, process.ready_since is None), default=None
        )

    def _serving(self, service: ServiceName) -> list[Supervised]:
        """Its workers that take requests."""
        mine = [process for process in self._supervisor if process.alive and process.lease.service == service]
        return [process for process in mine if process.ready_since is not None and process.stop_reason is None]

    def _evidence(self, owner: Owner, process: Supervised | None) -> Evidence:
        records = self._records
        before = Evidence(
            backoff=records.backoff(owner),
            hold=None if owner is None else records.hold(owner),
            last_words=records.last_words(owner),
        )
        if process is None:
            return before
        return dataclasses.replace(
            before,
            alive=True,
            ready=process.ready_since is not None,
            stopping=process.stop_reason,
            late=process.late,
            degraded=process.stats.degraded if process.stats is not None else None,
            wall=None if owner is None else self._wall(process.id),
        )

    def _since(self, owner: Owner, told: tuple[Condition, ...]) -> tuple[Condition, ...]:
        self._told[owner] = keep_since(complete(told), self._told.get(owner, ()), self._clock.now())
        return self._told[owner]


def _with_figures(status: ServiceStatus, process: Supervised, ready: list[Supervised]) -> ServiceStatus:
    """Of the worker that stands for all; what runs and waits, of all that are ready."""
    status = dataclasses.replace(
        status, worker=process.id, pid=process.lease.pid, resident_bytes=resident_bytes(process.lease.pid)
    )
    stats = process.stats
    if stats is None or not stats.ready:
        return status
    return dataclasses.replace(
        status,
        device=DeviceId(stats.device),
        weight_bytes=stats.weight_bytes,
        kv_bytes=stats.kv_bytes,
        context_length=stats.context_length,
        exact=stats.exact,
        operator_levels=stats.operator_levels,
        running=sum(each.stats.running for each in ready if each.stats is not None),
        waiting=sum(each.stats.waiting for each in ready if each.stats is not None),
    )
