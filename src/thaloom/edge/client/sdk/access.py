# Made from async_access.py by tools/generate_sync_client.py (make docs): change that one.
"""Who may ask a node what: keys, tenants and their quotas."""

from __future__ import annotations

from typing import Unpack

from thaloom.edge.client.sdk.calls import delete, get, given, post, put
from thaloom.edge.client.sdk.connection import Asking
from thaloom.edge.client.sdk.options import KeyOptions, QuotaOptions
from thaloom.edge.wire import control as wire

_P = wire.PREFIX


class Access(Asking):
    """The part of `Node` that is about keys and tenants: over the node's own socket (`Client(home=...)`), or
    with a key whose role and scopes allow it."""

    def whoami(self) -> wire.Whoami:
        """Who asks, as the node sees him: role, scopes, tenant.

        >>> (client.node.whoami()).role
        """
        return self._connection.ask(wire.Whoami, get(f"{_P}/whoami"))

    def keys(self) -> wire.Keys:
        """The keys that open the door, not the secrets themselves.

        >>> [key.name for key in (client.node.keys()).keys]
        """
        return self._connection.ask(wire.Keys, get(f"{_P}/keys"))

    def make_key(self, name: str, **limits: Unpack[KeyOptions]) -> wire.NewKey:
        """A new key. Its secret is in this answer and nowhere else.

        >>> (client.node.make_key("ci", requests_per_minute=60, models=["tiny"])).secret
        """
        return self._connection.ask(wire.NewKey, post(f"{_P}/keys", name=name, **limits))

    def narrow_key(self, parent: str, name: str, **limits: Unpack[KeyOptions]) -> wire.NewKey:
        """A key that may do what `parent` may, or less. It is taken back with that one. Raises Forbidden for more.

        >>> (client.node.narrow_key("ci", "ci-nightly", expires_in_s=3600)).secret
        """
        return self._connection.ask(wire.NewKey, post(f"{_P}/keys/{{}}/narrow", parent, name=name, **limits))

    def remove_key(self, name: str) -> wire.Removed:
        """From now on the key opens nothing, nor does what was narrowed from it.

        >>> client.node.remove_key("ci")
        """
        return self._connection.ask(wire.Removed, delete(f"{_P}/keys/{{}}", name))

    def make_tenant(self, name: str, **quota: Unpack[QuotaOptions]) -> wire.Tenant:
        """A tenant, which has services and keys of its own, and sees no other's.

        >>> (client.node.make_tenant("acme", services=2, tokens_per_minute=10_000)).quota.services
        """
        return self._connection.ask(wire.Tenant, post(f"{_P}/tenants", name=name, quota=given(quota)))

    def tenants(self) -> wire.Tenants:
        """Every tenant, with its quota and what it has of it.

        >>> [tenant.name for tenant in (client.node.tenants()).tenants]
        """
        return self._connection.ask(wire.Tenants, get(f"{_P}/tenants"))

    def tenant(self, name: str) -> wire.Tenant:
        """One of them. Raises TenantNotFound.

        >>> (client.node.tenant("acme")).memory_bytes
        """
        return self._connection.ask(wire.Tenant, get(f"{_P}/tenants/{{}}", name))

    def set_quota(self, name: str, **quota: Unpack[QuotaOptions]) -> wire.Tenant:
        """Another quota in the place of the whole old one. What the tenant has already is left to it.

        >>> (client.node.set_quota("acme", services=3)).quota.services
        """
        return self._connection.ask(wire.Tenant, put(f"{_P}/tenants/{{}}", name, **quota))

    def remove_tenant(self, name: str) -> wire.Removed:
        """Remove a tenant that has nothing any more. Raises WrongState that names what it has.

        >>> client.node.remove_tenant("acme")
        """
        return self._connection.ask(wire.Removed, delete(f"{_P}/tenants/{{}}", name))
