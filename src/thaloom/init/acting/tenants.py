"""Tenants that come, get another quota, and go."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from thaloom.base.actions import Change, Json, Plan
from thaloom.base.clock import Clock
from thaloom.base.errors import NameTaken, TenantNotFound, WrongState
from thaloom.init.access.locksmith import Locksmith
from thaloom.init.access.tenancy import Tenancy, require_tenant_name
from thaloom.init.acting.kinds import Aid, Done, Named, as_json, call
from thaloom.kernel.state.store import StateStore
from thaloom.kernel.state.types import Quota, Tenant


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantWish:
    name: str
    quota: Quota
    new: bool = False
    """Whether it must not be there yet; else it must."""


class PutTenant:
    """`tenant.put`: a tenant, or another quota for it. What it has already is left to it."""

    name, parameters, outlives_caller = "tenant.put", TenantWish, True

    def __init__(self, store: StateStore, tenancy: Tenancy, locksmith: Locksmith, clock: Clock) -> None:
        self._store = store
        self._tenancy = tenancy
        self._locksmith = locksmith
        self._clock = clock

    async def plan(self, given: TenantWish) -> Plan:
        require_tenant_name(given.name)
        self._tenancy.check_quota(given.quota)
        present = _present(self._store, given.name)
        if given.new and present is not None:
            raise NameTaken(f"there is a tenant {given.name!r} already (thaloom tenant set)", param="name")
        if not given.new:
            present = self._store.tenant(given.name)
        asked = call(self.name, given)
        if present is not None and present.quota == given.quota:
            return Plan(call=asked, risk="low", changes=(), no_undo="it changes nothing")
        before = None if present is None else _record(present.quota)
        undo = (
            call(RemoveTenant.name, Named(name=given.name))
            if present is None
            else call(self.name, TenantWish(name=given.name, quota=present.quota))
        )
        change = Change(subject=f"tenant/{given.name}", before=before, after=_record(given.quota))
        return Plan(call=asked, risk="low" if present is None else "medium", changes=(change,), undo=undo)

    async def apply(self, given: TenantWish, _: Aid) -> Done:
        self._store.put_tenant(Tenant(name=given.name, quota=given.quota, created_at=self._clock.now()))
        self._locksmith.publish()
        return Done()

    async def holds(self, given: TenantWish) -> bool:
        present = _present(self._store, given.name)
        return present is not None and present.quota == given.quota


class RemoveTenant:
    """`tenant.remove`: one that has nothing any more."""

    name, parameters, outlives_caller = "tenant.remove", Named, True

    def __init__(self, store: StateStore, tenancy: Tenancy, locksmith: Locksmith) -> None:
        self._store = store
        self._tenancy = tenancy
        self._locksmith = locksmith

    async def plan(self, given: Named) -> Plan:
        tenant = self._store.tenant(given.name)
        if left := self._tenancy.left(given.name):
            raise WrongState(f"the tenant {given.name!r} has {', '.join(left)}; remove that first", left=left)
        return Plan(
            call=call(self.name, given),
            risk="medium",
            changes=(Change(subject=f"tenant/{given.name}", before=_record(tenant.quota), after=None),),
            undo=call(PutTenant.name, TenantWish(name=given.name, quota=tenant.quota, new=True)),
        )

    async def apply(self, given: Named, _: Aid) -> Done:
        self._store.delete_tenant(given.name)
        self._locksmith.publish()
        return Done()

    async def holds(self, given: Named) -> bool:
        return _present(self._store, given.name) is None


def _present(store: StateStore, name: str) -> Tenant | None:
    try:
        return store.tenant(name)
    except TenantNotFound:
        return None


def _record(quota: Quota) -> Json:
    return as_json(dataclasses.asdict(quota))
