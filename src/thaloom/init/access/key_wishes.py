"""What a key is to be, once it is known who wishes for it: nobody gives more than he has."""

from __future__ import annotations

import dataclasses

from thaloom.base.access import kept_name
from thaloom.base.actions import Caller
from thaloom.base.errors import Forbidden, KeyNotFound
from thaloom.init.access.gate import Gate
from thaloom.kernel.state.store import StateStore
from thaloom.kernel.state.types import AccessKey, KeyWish
from thaloom.kernel.trust.access import default_scopes


def completed(wish: KeyWish, caller: Caller, store: StateStore, gate: Gate) -> KeyWish:
    """With its kept name, its tenant and its parent. Whoever comes with a token gives of that one.

    Raises KeyNotFound, and Forbidden for a parent that is not the caller's."""
    if wish.parent is None:
        role = wish.role or "user"
        wish = dataclasses.replace(wish, role=role, scopes=wish.scopes or default_scopes(role))
        if caller.way == "token":
            wish = dataclasses.replace(wish, parent=caller.name)
    else:
        parent = find_key(store, wish.parent)
        require_hold(gate, caller, parent)
    tenant = wish.tenant or caller.tenant
    if wish.parent is not None:
        tenant = tenant or find_key(store, wish.parent).tenant
    return dataclasses.replace(wish, tenant=tenant, name=kept_name(wish.name, tenant))


def require_hold(gate: Gate, caller: Caller, key: AccessKey) -> None:
    """Raises Forbidden: a key is its holder's, and the admins' who see it. One of another tenant is not there."""
    if gate.may_take_back(caller, key):
        return
    if caller.tenant is not None and key.tenant != caller.tenant:
        raise KeyNotFound(f"no key {key.name!r}", param="name")
    raise Forbidden("only an admin does this to a key that is not his own, nor was narrowed from his own", param="name")


def find_key(store: StateStore, name: str) -> AccessKey:
    """Raises KeyNotFound."""
    keys = store.keys()
    found = next((key for key in keys if key.name == name), None)
    if found is None:
        raise KeyNotFound(f"no key {name!r}", param="name")
    return found
