"""The real gate over keys that a test has in its hand, and keys and tenants for control planes that are canned."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, cast

from thaloom.base.access import Role
from thaloom.base.clock import Clock, ManualClock
from thaloom.base.errors import KeyNotFound, NameTaken, TenantNotFound
from thaloom.base.events import Emit, ignore
from thaloom.init.access.gate import Gate
from thaloom.init.access.locksmith import Locksmith
from thaloom.kernel.state.types import AccessKey, KeyWish, Quota, Tenant, TenantUse
from thaloom.kernel.trust.keys import KeyRing


class HeldKeys:
    """As init.access.locksmith.Locksmith, as far as a gate asks it."""

    def __init__(self, keys: Sequence[AccessKey] = (), *, required: bool = True) -> None:
        self.keys = list(keys)
        self.required = required

    @property
    def requires_keys(self) -> bool:
        return self.required and bool(self.keys)

    def find(self, shown: str) -> AccessKey | None:
        return KeyRing(self.keys).find(shown)

    def ancestors(self, key: AccessKey) -> list[AccessKey]:
        by_id = {other.id: other for other in self.keys}
        found = [key]
        while (parent := by_id.get(found[-1].parent or "")) is not None:
            found.append(parent)
        return found


class FakeAccess:
    """Part of a control plane: keys and tenants."""

    def __init__(self) -> None:
        super().__init__()
        self.keys_now: dict[str, AccessKey] = {}
        self.keys_required = True
        self.tenants_now: dict[str, Tenant] = {}

    async def keys(self) -> tuple[Sequence[AccessKey], bool]:
        return list(self.keys_now.values()), self.keys_required

    async def make_key(self, wish: KeyWish) -> tuple[AccessKey, str]:
        if wish.name in self.keys_now:
            raise NameTaken(f"there is a key {wish.name!r}")
        key = AccessKey(
            name=wish.name,
            id="abcdefghijkl",
            digest="d",
            limits=wish.limits,
            created_at=1.0,
            expires_at=None if wish.expires_in_s is None else 1.0 + wish.expires_in_s,
            role=wish.role or "user",
            tenant=wish.tenant,
            scopes=wish.scopes,
            parent=None if wish.parent is None else self._key(wish.parent).id,
        )
        self.keys_now[wish.name] = key
        return key, "sk-th-abcdefghijkl-secret"

    async def remove_key(self, name: str) -> None:
        self._key(name)
        del self.keys_now[name]

    async def tenants(self) -> Sequence[TenantUse]:
        return [_use(tenant) for tenant in self.tenants_now.values()]

    async def tenant(self, name: str) -> TenantUse:
        if name not in self.tenants_now:
            raise TenantNotFound(f"no tenant {name!r}")
        return _use(self.tenants_now[name])

    async def put_tenant(self, name: str, quota: Quota, *, new: bool) -> TenantUse:
        if new and name in self.tenants_now:
            raise NameTaken(f"there is a tenant {name!r}")
        if not new:
            await self.tenant(name)
        self.tenants_now[name] = Tenant(name=name, quota=quota, created_at=1.0)
        return await self.tenant(name)

    async def remove_tenant(self, name: str) -> None:
        await self.tenant(name)
        del self.tenants_now[name]

    def _key(self, name: str) -> AccessKey:
        if name not in self.keys_now:
            raise KeyNotFound(f"no key {name!r}")
        return self.keys_now[name]


def _use(tenant: Tenant) -> TenantUse:
    return TenantUse(tenant=tenant, services=1, replicas=2, memory_bytes=3, keys=4)


class Notes:
    """As a journal that is only written to."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, dict[str, Any], str]] = []

    def append(self, kind: str, data: Mapping[str, Any], *, by: str = "", **_: Any) -> None:
        self.entries.append((kind, dict(data), by))


def gate(
    keys: HeldKeys | None = None,
    *,
    users: Mapping[str, Role] | None = None,
    notes: Notes | None = None,
    clock: Clock | None = None,
    emit: Emit = ignore,
) -> Gate:
    return Gate(
        cast(Locksmith, keys or HeldKeys()),
        users=users or {},
        journal=cast(Any, notes or Notes()),
        clock=clock or ManualClock(1000.0),
        emit=emit,
    )


def own_uid(_: object) -> int:
    """Where no unix socket tells: the node's own user asks."""
    return os.getuid()
