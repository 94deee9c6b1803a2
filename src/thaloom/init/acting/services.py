"""Serving a model, and serving it no longer."""

from __future__ import annotations

import dataclasses
from typing import Any

from thaloom.base.actions import Change, Plan
from thaloom.base.errors import ServiceNotFound
from thaloom.base.events import Emit
from thaloom.base.ids import ServiceName
from thaloom.init.acting.guards import ServiceGuard
from thaloom.init.acting.kinds import Aid, Done, Named, call
from thaloom.init.events import ServiceRemoved, ServiceWished
from thaloom.init.rounds.reconcile_loop import ReconcileLoop
from thaloom.kernel.state.store import StateStore
from thaloom.kernel.state.types import Service, ServiceSpec


class Serve:
    """`service.serve`: wish for a service, or change the wish."""

    name, parameters, outlives_caller = "service.serve", ServiceSpec, True

    def __init__(
        self,
        store: StateStore,
        loop: ReconcileLoop,
        emit: Emit,
        *,
        guard: ServiceGuard,
    ) -> None:
        self._store = store
        self._loop = loop
        self._emit = emit
        self._guard = guard

    async def plan(self, given: ServiceSpec) -> Plan:
        self._loop.require_up()
        await self._guard.check(given)
        present = _present(self._store, given.name)
        if present is not None and present.spec == given:
            nothing = "it changes nothing" if present.idle_since is None else "it is loaded again, and changes nothing"
            return Plan(call=call(self.name, given), risk="low", changes=(), no_undo=nothing)
        return Plan(
            call=call(self.name, given),
            risk="low" if present is None else "medium",
            changes=(Change(subject=f"service/{given.name}", before=_spec(present), after=dataclasses.asdict(given)),),
            touches=tuple(f"worker/{worker}" for worker in self._guard.workers(given.name)),
            undo=call(Stop.name, Named(name=given.name)) if present is None else call(self.name, present.spec),
        )

    async def apply(self, given: ServiceSpec, _: Aid) -> Done:
        service = self._store.put_service(given)
        if service.idle_since is not None:  # somebody insists
            self._store.put_rest(given.name, idle_since=None, waking=True)
        self._emit(ServiceWished(service=given.name, model=given.model, revision=service.revision))
        self._loop.renewed(given.name)
        await self._loop.settle()
        return Done(told={"revision": service.revision})

    async def holds(self, given: ServiceSpec) -> bool:
        present = _present(self._store, given.name)
        return present is not None and present.spec == given


class Stop:
    """`service.stop`: wish for it no longer. What it is answering is answered first."""

    name, parameters, outlives_caller = "service.stop", Named, True

    def __init__(self, store: StateStore, loop: ReconcileLoop, emit: Emit, *, guard: ServiceGuard) -> None:
        self._store = store
        self._loop = loop
        self._emit = emit
        self._guard = guard

    async def plan(self, given: Named) -> Plan:
        present = self._store.service(ServiceName(given.name))
        return Plan(
            call=call(self.name, given),
            risk="medium",
            changes=(Change(subject=f"service/{given.name}", before=_spec(present), after=None),),
            touches=tuple(f"worker/{worker}" for worker in self._guard.workers(present.spec.name)),
            undo=call(Serve.name, present.spec),
        )

    async def apply(self, given: Named, _: Aid) -> Done:
        name = ServiceName(given.name)
        self._store.delete_service(name)
        self._emit(ServiceRemoved(service=name))
        self._loop.removed(name)
        await self._loop.settle()
        return Done()

    async def holds(self, given: Named) -> bool:
        return _present(self._store, given.name) is None


def _present(store: StateStore, name: str) -> Service | None:
    try:
        return store.service(ServiceName(name))
    except ServiceNotFound:
        return None


def _spec(service: Service | None) -> dict[str, Any] | None:
    return None if service is None else dataclasses.asdict(service.spec)
