"""Keys: made, narrowed, listed, taken back; and who asks, as the node sees him.

Not open to who shows no token: whoever reaches the door could else make a key for himself, or lock everybody out.
"""

from __future__ import annotations

import dataclasses

from fastapi import FastAPI

from thaloom.base.actions import TERMS
from thaloom.edge.api.control.gate import Gatekeeper, needs, own, theirs
from thaloom.edge.api.control.messages import same
from thaloom.edge.api.control.plane import ControlPlane
from thaloom.edge.api.control.tenants import tenant_message
from thaloom.edge.wire import control as wire
from thaloom.kernel.state.types import AccessKey, KeyLimits, KeyWish


def add_key_routes(app: FastAPI, plane: ControlPlane) -> None:
    @app.get(f"{wire.PREFIX}/keys", tags=["keys"], openapi_extra=needs("admin", "tokens", tenants=True))
    async def keys() -> wire.Keys:
        found, required = await plane.keys()
        names = {key.id: key.name for key in found}
        tenant = TERMS.get().caller.tenant
        mine = [key for key in found if tenant in (None, key.tenant)]  # by no name: one of the node's may look the same
        return wire.Keys(keys=[_key(key, names.get(key.parent or "")) for key in mine], required=required)

    @app.post(f"{wire.PREFIX}/keys", tags=["keys"], openapi_extra=needs("admin", "tokens", tenants=True))
    async def make_key(body: wire.KeyRequest) -> wire.NewKey:
        wish = _wish(body)
        key, secret = await plane.make_key(wish)
        # What a token gives is narrowed from it.
        parent = None if key.parent is None else TERMS.get().caller.name
        return wire.NewKey(key=_key(key, parent), secret=secret)

    narrow_path = f"{wire.PREFIX}/keys/{{name}}/narrow"

    @app.post(narrow_path, tags=["keys"], openapi_extra=needs("viewer", "tokens", tenants=True))
    async def narrow_key(name: str, body: wire.NarrowRequest) -> wire.NewKey:
        wish = dataclasses.replace(_wish(body), parent=own(name), keep_priority=body.priority is None)
        key, secret = await plane.make_key(wish)
        return wire.NewKey(key=_key(key, wish.parent), secret=secret)

    @app.delete(f"{wire.PREFIX}/keys/{{name}}", tags=["keys"], openapi_extra=needs("viewer", "tokens", tenants=True))
    async def remove_key(name: str) -> wire.Removed:
        await plane.remove_key(own(name))
        return wire.Removed(name=name)

    @app.get(f"{wire.PREFIX}/whoami", tags=["keys"], openapi_extra=needs("viewer", None, tenants=True, open=True))
    async def whoami() -> wire.Whoami:
        caller = TERMS.get().caller
        tenant = None if caller.tenant is None else tenant_message(await plane.tenant(caller.tenant))
        return wire.Whoami(
            name=theirs(caller.name),
            kind=caller.kind,
            role=caller.role,
            scopes=None if caller.scopes is None else sorted(caller.scopes),
            way=caller.way,
            tenant=tenant,
        )

    @app.post(f"{wire.PREFIX}/access/refused", tags=["keys"], openapi_extra=needs("admin", "node"))
    async def refused_at_door(body: wire.RefusedAtDoor) -> wire.Noted:
        gate: Gatekeeper = app.state.gate
        gate.refused_at_door(body.address, body.what, body.code, body.message, body.num)
        return wire.Noted()


def _wish(body: wire.KeyRequest | wire.NarrowRequest) -> KeyWish:
    return KeyWish(
        name=body.name,
        limits=KeyLimits(
            requests_per_minute=body.requests_per_minute,
            tokens_per_minute=body.tokens_per_minute,
            concurrent=body.concurrent,
            models=None if body.models is None else tuple(body.models),
            priority=body.priority or "normal",
        ),
        expires_in_s=body.expires_in_s,
        role=body.role,
        tenant=body.tenant,
        scopes=None if body.scopes is None else tuple(body.scopes),
    )


def _key(key: AccessKey, parent: str | None) -> wire.Key:
    return same(wire.Key, key, name=theirs(key.name), parent=None if parent is None else theirs(parent))
