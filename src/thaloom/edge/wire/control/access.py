"""Keys, tenants, and who one is."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from thaloom.base.access import Role, Scope
from thaloom.edge.wire.control.base import Answer, Ask


class KeyAsk(Ask):
    """What a key may be asked to be."""

    name: str = Field(min_length=1)
    role: Role | None = None
    tenant: str | None = None
    scopes: list[Scope] | None = Field(default=None, min_length=1)
    requests_per_minute: int | None = Field(default=None, ge=1, le=10**12)
    tokens_per_minute: int | None = Field(default=None, ge=1, le=10**12)
    """Of prompts and answers together."""
    concurrent: int | None = Field(default=None, ge=1, le=10**12)
    models: list[Annotated[str, Field(min_length=1)]] | None = Field(default=None, min_length=1)
    """Names of services; null: all."""
    expires_in_s: float | None = Field(default=None, gt=0, le=1e10)


class KeyRequest(KeyAsk):
    """Body of `POST keys`: a key with limits. What is left out has no limit (kernel.state.types.KeyLimits); without a
    role it is a user's, and a user's without scopes is for asking models."""

    priority: Literal["high", "normal", "low"] = "normal"


class NarrowRequest(KeyAsk):
    """Body of `POST keys/{name}/narrow`: a key that may do less than that one. What is left out is as there."""

    priority: Literal["high", "normal", "low"] | None = None


class RefusedAtDoor(Ask):
    """Body of `POST access/refused`: whom a door turned away, and how many since it told of the last."""

    address: str = Field(max_length=100)
    what: str = Field(max_length=100)
    code: str = Field(max_length=100)
    message: str = Field(max_length=500)
    num: int = Field(ge=1)


class Quota(Ask):
    """How much a tenant may have (kernel.state.types.Quota); null: as much as there is."""

    services: int | None = Field(default=None, ge=0, le=10**15)
    replicas: int | None = Field(default=None, ge=0, le=10**15)
    memory_bytes: int | None = Field(default=None, ge=0, le=10**15)
    keys: int | None = Field(default=None, ge=0, le=10**15)
    requests_per_minute: int | None = Field(default=None, ge=1, le=10**15)
    tokens_per_minute: int | None = Field(default=None, ge=1, le=10**15)
    concurrent: int | None = Field(default=None, ge=1, le=10**15)


class TenantRequest(Ask):
    """Body of `POST tenants`."""

    name: str = Field(min_length=1)
    quota: Quota = Quota()


class KeyLimits(Answer):
    requests_per_minute: int | None
    tokens_per_minute: int | None
    concurrent: int | None
    models: list[str] | None
    priority: str


class Key(Answer):
    """A key as the node keeps it: not the key itself. `id` is the part of it that may be seen."""

    name: str
    id: str
    limits: KeyLimits
    created_at: float
    expires_at: float | None
    role: str = "user"
    tenant: str | None = None
    scopes: list[str] | None = None
    """None: all that the role allows."""
    parent: str | None = None
    """The key it was narrowed from: is taken back with that one, and counts against its limits."""


class NewKey(Answer):
    """`secret` is the key; it is told this once, and kept nowhere."""

    key: Key
    secret: str


class Keys(Answer):
    keys: list[Key]
    required: bool
    """Whether the door turns away who shows no key, once there is one (`require_keys` in config.toml)."""


class Tenant(Answer):
    """A tenant, its quota, and what it has of it."""

    name: str
    quota: Quota
    created_at: float
    services: int
    replicas: int
    memory_bytes: int
    keys: int


class Tenants(Answer):
    tenants: list[Tenant]


class Whoami(Answer):
    """Who asks, as the node sees him."""

    name: str
    kind: str
    role: str
    scopes: list[str] | None
    """None: all."""
    way: str
    tenant: Tenant | None
