"""Services, the names that stand for them, and their logs."""

from __future__ import annotations

from collections.abc import AsyncIterator

from thaloom.base.actions import TERMS
from thaloom.base.errors import Forbidden, ServiceNotFound
from thaloom.base.ids import ServiceName
from thaloom.init.acting.aliases import AliasWish, CanaryReport, PutAlias, RemoveAlias, ReturnCanary
from thaloom.init.acting.guards import is_service_name, require_service_name
from thaloom.init.acting.kinds import Named, call
from thaloom.init.acting.services import Serve, Stop
from thaloom.init.log_stream import follow_log
from thaloom.init.syscalls.asking import Asking, refuse_dry_run
from thaloom.kernel.state.types import OUTSIDE, Alias, Page, ServiceSpec, ServiceStatus


class ServiceCalls(Asking):
    """Of services and aliases."""

    async def services(
        self, *, limit: int | None = None, after: str | None = None, tenant: str | None = None
    ) -> Page[ServiceStatus]:
        return self._node.reporter.statuses(limit=limit, after=after, tenant=tenant)

    async def service(self, name: ServiceName) -> ServiceStatus:
        return self._node.reporter.status(name)

    async def serve(self, spec: ServiceSpec) -> ServiceStatus:
        """Refuses a wish that cannot be met as things are: unknown model or device, more bytes than are free."""
        require_service_name(spec.name)
        if TERMS.get().caller.tenant is not None and spec.engine in OUTSIDE:
            raise Forbidden(
                f"a tenant serves what is in the store; engine {spec.engine!r} is the node's", param="engine"
            )
        await self._do(call(Serve.name, await self._node.guard.completed(spec)))
        return self._node.reporter.status(spec.name)

    async def stop(self, name: ServiceName) -> None:
        await self._do(call(Stop.name, Named(name=name)))

    async def wake(self, name: ServiceName) -> ServiceStatus:
        refuse_dry_run()
        await self._node.waking.wake(name, f"{TERMS.get().caller} asks for it")
        return self._node.reporter.status(name)

    async def keep_alive(self, name: ServiceName, seconds: float) -> ServiceStatus:
        refuse_dry_run()
        await self._node.waking.keep(name, seconds)
        return self._node.reporter.status(name)

    async def put_alias(self, alias: Alias) -> Alias:
        await self._do(call(PutAlias.name, AliasWish.of(alias)))
        return self._node.aliasing.get(alias.name)

    async def remove_alias(self, name: ServiceName) -> None:
        await self._do(call(RemoveAlias.name, Named(name=name)))

    async def return_canary(self, name: ServiceName, revision: int, reason: str) -> Alias:
        await self._do(call(ReturnCanary.name, CanaryReport(name=name, revision=revision, reason=reason)))
        return self._node.aliasing.get(name)

    async def logs(self, name: ServiceName, *, follow: bool, tail: int) -> AsyncIterator[bytes]:
        path = self._node.layout.service_log(name) if is_service_name(name) else None
        if path is None or not (path.exists() or self._wished(name)):
            raise ServiceNotFound(f"no service {name!r}")
        going_on = (
            (lambda: self._wished(name) and not self._node.reconcile_loop.going_down) if follow else (lambda: False)
        )
        return follow_log(path, tail, self._node.clock, going_on)

    def _wished(self, name: ServiceName) -> bool:
        return any(service.spec.name == name for service in self._node.store.services())
