"""Who may do what, and what a holder of rights may hand on: pure rules.

Source of the model: NIST RBAC (ANSI INCITS 359), hierarchical; narrowing as in macaroons (Birgisson et al. 2014), but
kept in a table, so that taking back one takes back all that came of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Set
from dataclasses import dataclass
from typing import Literal, TypeVar

from thaloom.base.access import Needs, Role, Scope, Way, rank
from thaloom.base.errors import Forbidden

N = TypeVar("N", int, float)
MOST_NARROWED = 4
"""How often rights are handed on and on. Each step is one more account a request is counted in."""


def why_not(
    needs: Needs, *, role: Role, scopes: Set[Scope] | None, tenant: str | None, way: Way, tokens_required: bool
) -> str | None:
    """What stands in the way of it; None: nothing does."""
    if (way == "open" and tokens_required) or (way in ("open", "door") and not needs.open):
        return "this is asked through the node's own socket only (the thaloom command), or with a token that allows it"
    if rank(role) < rank(needs.role):
        return f"this needs the role {needs.role}, and {_a(role)} asks"
    if needs.scope is not None and scopes is not None and needs.scope not in scopes:
        return f"this needs a token with the scope {needs.scope!r}; this one is for {', '.join(sorted(scopes))}"
    if tenant is not None and not needs.tenants:
        return f"this is the node's, and nothing of a tenant's ({tenant!r})"
    return None


def default_scopes(role: Role) -> tuple[Scope, ...] | None:
    """Of a token nobody chose any for. A user's is handed out widely, to programs that ask models and nothing else."""
    return ("infer",) if role == "user" else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rights:
    """What the holder of a token may do. None: all there is, or without an end."""

    role: Role | None = None
    tenant: str | None = None
    scopes: frozenset[Scope] | None = None
    models: frozenset[str] | None = None
    priority: Literal["high", "normal", "low"] | None = None
    expires_at: float | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent: int | None = None


_PRIORITIES = ("low", "normal", "high")


def narrowed(held: Rights, asked: Rights) -> Rights:
    """`asked`, where it is no more than `held`; what it leaves open (None) is as in `held`.

    Raises Forbidden that names what would be more.
    """
    assert held.role is not None
    assert held.priority is not None
    role, priority = asked.role or held.role, asked.priority or held.priority
    if rank(role) > rank(held.role):
        raise _more("role", f"{role!r} is more than {held.role!r}")
    if _PRIORITIES.index(priority) > _PRIORITIES.index(held.priority):
        raise _more("priority", f"{priority!r} is more than {held.priority!r}")
    if held.tenant is not None and asked.tenant not in (None, held.tenant):
        raise _more("tenant", f"it is of the tenant {held.tenant!r}, and cannot be of {asked.tenant!r}")
    if held.tenant is None and asked.tenant is not None and held.role != "admin":
        raise _more("tenant", "only an admin of the node gives somebody a tenant's rights")
    return dataclasses.replace(
        asked,
        role=role,
        priority=priority,
        tenant=asked.tenant or held.tenant,
        scopes=_subset("scopes", held.scopes, asked.scopes),
        models=_subset("models", held.models, asked.models),
        expires_at=_at_most("expires_in_s", held.expires_at, asked.expires_at),
        requests_per_minute=_at_most("requests_per_minute", held.requests_per_minute, asked.requests_per_minute),
        tokens_per_minute=_at_most("tokens_per_minute", held.tokens_per_minute, asked.tokens_per_minute),
        concurrent=_at_most("concurrent", held.concurrent, asked.concurrent),
    )


T = TypeVar("T", bound=str)


def _subset(what: str, held: frozenset[T] | None, asked: frozenset[T] | None) -> frozenset[T] | None:
    if asked is None or held is None:
        return held if asked is None else asked
    if more := asked - held:
        raise _more(what, f"{', '.join(sorted(more))} is not among {', '.join(sorted(held))}")
    return asked


def _at_most(what: str, held: N | None, asked: N | None) -> N | None:
    if asked is None or held is None:
        return held if asked is None else asked
    if asked > held:
        raise _more(what, f"{asked:g} is more than {held:g}")
    return asked


def _more(what: str, why: str) -> Forbidden:
    return Forbidden(f"a token is only ever narrowed: {what}: {why}", param=what)


def _a(role: Role) -> str:
    return f"an {role}" if role in ("operator", "admin") else f"a {role}"
