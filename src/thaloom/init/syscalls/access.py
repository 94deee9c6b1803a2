"""Who may ask: keys and tenants."""

from __future__ import annotations

from collections.abc import Sequence

from thaloom.base.actions import TERMS
from thaloom.base.errors import NameTaken
from thaloom.init.access.key_wishes import completed, require_hold
from thaloom.init.acting.keys import MakeKey, RemoveKey
from thaloom.init.acting.kinds import Named, call
from thaloom.init.acting.tenants import PutTenant, RemoveTenant, TenantWish
from thaloom.init.syscalls.asking import Asking
from thaloom.kernel.state.types import AccessKey, KeyWish, Quota, TenantUse


class AccessCalls(Asking):
    """Of keys and tenants."""

    async def keys(self) -> tuple[Sequence[AccessKey], bool]:
        return self._node.store.keys(), self._config.require_keys

    async def make_key(self, wish: KeyWish) -> tuple[AccessKey, str]:
        """Asked for a second time by one id, it is told that the key itself was told already."""
        with self._refusing("key.make"):
            wish = completed(wish, TERMS.get().caller, self._node.store, self._node.gate)
        done = await self._do(call(MakeKey.name, wish))
        if done.given is None:
            raise NameTaken(f"the key {wish.name!r} was made by this very request, and told then")
        key, secret = done.given
        return key, secret

    async def remove_key(self, name: str) -> None:
        keys = {key.name: key for key in self._node.store.keys()}  # noqa: SIM118 - no dictionary
        if name in keys:  # else it may have been this very request that took it away
            with self._refusing("key.remove"):
                require_hold(self._node.gate, TERMS.get().caller, keys[name])
        await self._do(call(RemoveKey.name, Named(name=name)))

    async def tenants(self) -> Sequence[TenantUse]:
        return [await self._node.tenancy.use(tenant.name) for tenant in self._node.store.tenants()]

    async def tenant(self, name: str) -> TenantUse:
        return await self._node.tenancy.use(name)

    async def put_tenant(self, name: str, quota: Quota, *, new: bool) -> TenantUse:
        await self._do(call(PutTenant.name, TenantWish(name=name, quota=quota, new=new)))
        return await self._node.tenancy.use(name)

    async def remove_tenant(self, name: str) -> None:
        await self._do(call(RemoveTenant.name, Named(name=name)))
