"""Tenants: what each has of its quota, and what is refused because it would be more.

Kept to here: how many services, workers and keys, and bytes by the ledger. The doors keep to requests and tokens a
minute and at the same time (work.runtime.frontend.doorkeeper). What nobody could keep to is no quota
(kernel.state.types.Quota), and one this host cannot keep to is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from thaloom.base.access import tenant_of
from thaloom.base.errors import BadParameter, NotEnforceable, QuotaExceeded, ThaloomError
from thaloom.base.ids import ServiceName
from thaloom.base.units import format_bytes
from thaloom.init.memory.node_memory import NodeMemory
from thaloom.init.memory.placement import Planner
from thaloom.init.rounds.supervisor import Supervisor
from thaloom.init.walls.confining import MEASURED
from thaloom.kernel.state.store import StateStore
from thaloom.kernel.state.types import Quota, ServiceSpec, TenantUse

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")


class Tenancy:
    def __init__(
        self,
        store: StateStore,
        *,
        planner: Planner,
        memory: NodeMemory,
        supervisor: Supervisor,
        holds_memory: Callable[[], bool],
    ) -> None:
        """`holds_memory`: whether this host keeps a worker to the memory it was admitted with."""
        self._store = store
        self._planner = planner
        self._memory = memory
        self._supervisor = supervisor
        self._holds_memory = holds_memory

    async def use(self, name: str) -> TenantUse:
        """Raises TenantNotFound."""
        tenant = self._store.tenant(name)
        bytes_of = await self._bytes_of_each(name)
        specs = self.services(name)
        return TenantUse(
            tenant=tenant,
            services=len(specs),
            replicas=sum(spec.replicas for spec in specs),
            memory_bytes=sum(bytes_of.get(spec.name, 0) for spec in specs),
            keys=self.num_keys(name),
        )

    def services(self, name: str) -> Sequence[ServiceSpec]:
        return [service.spec for service in self._store.services() if tenant_of(service.spec.name) == name]

    def num_keys(self, name: str) -> int:
        keys = self._store.keys()
        return sum(key.tenant == name for key in keys)

    def left(self, name: str) -> list[str]:
        """What stands in the way of its going, by subject."""
        aliases = [f"alias/{alias.name}" for alias in self._store.aliases() if tenant_of(alias.name) == name]
        keys = self._store.keys()
        held = [f"key/{key.name}" for key in keys if key.tenant == name]
        return [f"service/{spec.name}" for spec in self.services(name)] + aliases + held

    async def check_service(self, spec: ServiceSpec, needed_bytes: int) -> None:
        """Whether its tenant, if it has one, may have this service, in the place of the one of that name.

        Raises TenantNotFound, QuotaExceeded with the figures, NotEnforceable."""
        name = tenant_of(spec.name)
        if name is None:
            return
        quota = self._store.tenant(name).quota
        if quota.memory_bytes is not None and spec.engine not in MEASURED:
            raise NotEnforceable(
                f"the tenant {name!r} has a quota of memory, and engine {spec.engine!r} is not held to any",
                quota="memory",
            )
        if spec.kv_disk_bytes:
            raise NotEnforceable(
                f"the tenant {name!r} has no quota of disk that kv_disk_bytes could be held to", param="kv_disk_bytes"
            )
        bytes_of = {} if quota.memory_bytes is None else await self._bytes_of_each(name)
        # From here on nothing else happens until the wish is kept: two at once cannot both be the last.
        others = [other for other in self.services(name) if other.name != spec.name]
        _within("services", quota.services, len(others) + 1, name)
        _within("replicas", quota.replicas, sum(other.replicas for other in others) + spec.replicas, name)
        if quota.memory_bytes is not None:
            held = sum(bytes_of.get(other.name, 0) for other in others)
            if held + needed_bytes > quota.memory_bytes:
                raise QuotaExceeded(
                    f"the tenant {name!r} may have {format_bytes(quota.memory_bytes)} of memory and has "
                    f"{format_bytes(held)}; this needs {format_bytes(needed_bytes)}",
                    quota="memory",
                    limit=quota.memory_bytes,
                    held=held,
                    needed=needed_bytes,
                )

    def check_key(self, name: str | None) -> None:
        """One more key of this tenant. Raises TenantNotFound, QuotaExceeded."""
        if name is not None:
            _within("keys", self._store.tenant(name).quota.keys, self.num_keys(name) + 1, name)

    def check_quota(self, quota: Quota) -> None:
        """Raises NotEnforceable for what this host cannot keep to."""
        if quota.memory_bytes is not None and not self._holds_memory():
            raise NotEnforceable(
                "a quota of memory needs a control group that holds workers to their memory, and there is none "
                "(thaloom doctor host)",
                quota="memory",
            )

    async def _bytes_of_each(self, name: str) -> dict[ServiceName, int]:
        """What each service was admitted with, or holds if that is more."""
        found = {}
        for spec in self.services(name):
            workers = [process.id for process in self._supervisor if process.lease.service == spec.name]
            held = sum(self._memory.held_bytes(workers, memory.device) for memory in self._memory.report())
            try:
                admitted = (await self._planner.make(spec)).estimate.total_bytes * spec.replicas
            except ThaloomError:  # its model is gone: nothing more can be started of it
                admitted = 0
            found[spec.name] = max(held, admitted)
        return found


def require_tenant_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise BadParameter(f"not a name for a tenant: {name!r} (a-z, 0-9, '-', at most 32)", param="name")


def _within(what: str, limit: int | None, wanted: int, name: str) -> None:
    if limit is not None and wanted > limit:
        raise QuotaExceeded(
            f"the tenant {name!r} may have {limit} {what}, and this would be the {wanted}th"
            if wanted == limit + 1
            else f"the tenant {name!r} may have {limit} {what}, and these would be {wanted}",
            quota=what,
            limit=limit,
            wanted=wanted,
        )
