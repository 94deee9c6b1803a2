"""Tenants and their quotas. The node's own to give; a tenant sees its own at `whoami`."""

from __future__ import annotations

import dataclasses

from fastapi import FastAPI

from thaloom.edge.api.control.gate import needs
from thaloom.edge.api.control.messages import same
from thaloom.edge.api.control.plane import ControlPlane
from thaloom.edge.wire import control as wire
from thaloom.kernel.state.types import Quota, TenantUse


def add_tenant_routes(app: FastAPI, plane: ControlPlane) -> None:
    @app.get(f"{wire.PREFIX}/tenants", tags=["tenants"], openapi_extra=needs("operator", "node"))
    async def tenants() -> wire.Tenants:
        return wire.Tenants(tenants=[tenant_message(use) for use in await plane.tenants()])

    @app.get(f"{wire.PREFIX}/tenants/{{name}}", tags=["tenants"], openapi_extra=needs("operator", "node"))
    async def tenant(name: str) -> wire.Tenant:
        return tenant_message(await plane.tenant(name))

    @app.post(f"{wire.PREFIX}/tenants", tags=["tenants"], openapi_extra=needs("admin", "node"))
    async def make_tenant(body: wire.TenantRequest) -> wire.Tenant:
        return tenant_message(await plane.put_tenant(body.name, Quota(**body.quota.model_dump()), new=True))

    @app.put(f"{wire.PREFIX}/tenants/{{name}}", tags=["tenants"], openapi_extra=needs("admin", "node"))
    async def set_quota(name: str, body: wire.Quota) -> wire.Tenant:
        return tenant_message(await plane.put_tenant(name, Quota(**body.model_dump()), new=False))

    @app.delete(f"{wire.PREFIX}/tenants/{{name}}", tags=["tenants"], openapi_extra=needs("admin", "node"))
    async def remove_tenant(name: str) -> wire.Removed:
        await plane.remove_tenant(name)
        return wire.Removed(name=name)


def tenant_message(use: TenantUse) -> wire.Tenant:
    tenant = use.tenant
    quota = dataclasses.asdict(tenant.quota)
    return same(wire.Tenant, use, name=tenant.name, quota=quota, created_at=tenant.created_at)
