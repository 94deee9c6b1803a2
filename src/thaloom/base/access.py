"""Words for who may ask what: roles, scopes, and what a route or verb needs of whoever asks it.

Roles are ranks: each may do what those before it may. Scopes say what a token is for; a token has some, and does no
more than its role and they both allow. A tenant sees its own only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["viewer", "user", "operator", "admin"]
"""viewer: looks; user: asks models; operator: serves them; admin: whatever there is."""
ROLES: tuple[Role, ...] = ("viewer", "user", "operator", "admin")
"""From the least."""
Scope = Literal["infer", "read", "services", "models", "jobs", "tokens", "node"]
"""infer: ask models; read: look at things; services: serve and stop, aliases, logs; models: what is in the store;
jobs: run programs; tokens: make and take back tokens; node: all the rest."""
SCOPES: tuple[Scope, ...] = ("infer", "read", "services", "models", "jobs", "tokens", "node")
Way = Literal["socket", "token", "open", "door"]
"""How somebody came in: by the node's own socket; with a token; through the door without one. The door itself asks what
is open too, and needs no token for it."""
MARK = "@"
"""Between a name and the tenant it belongs to: `chat@acme`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a route needs of whoever asks it."""

    role: Role
    scope: Scope | None
    """None: whatever a token is for, it may ask this."""
    tenants: bool = False
    """Whether tenants may ask it; it then shows and changes nothing but their own."""
    open: bool = False
    """Whether it is answered through the door without a token, on a node that requires none."""


def rank(role: Role) -> int:
    return ROLES.index(role)


def kept_name(name: str, tenant: str | None) -> str:
    """Under which a node keeps what a tenant calls so."""
    mark = "" if tenant is None else MARK + tenant
    return name if name.endswith(mark) else name + mark


def tenant_of(name: str) -> str | None:
    """Whose it is that is kept under this name; None: the node's own."""
    _, mark, tenant = name.rpartition(MARK)
    return tenant if mark else None


def seen_name(name: str, tenant: str | None) -> str:
    """What a tenant calls what is kept so; to all others it has its whole name."""
    return name if tenant is None else name.removesuffix(MARK + tenant)
