"""Ranks, scopes and narrowing: whatever is narrowed, however often, allows nothing that was not allowed before."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thaloom.base.access import ROLES, SCOPES, Needs, Role, Scope, kept_name, seen_name, tenant_of
from thaloom.base.errors import Forbidden
from thaloom.kernel.trust.access import Rights, default_scopes, narrowed, why_not

some = st.none() | st.integers(1, 9)
rights = st.builds(
    Rights,
    role=st.sampled_from(ROLES),
    tenant=st.sampled_from([None, "acme", "beta"]),
    scopes=st.none() | st.frozensets(st.sampled_from(SCOPES), min_size=1),
    models=st.none() | st.frozensets(st.sampled_from("abc"), min_size=1),
    priority=st.sampled_from(["low", "normal", "high"]),
    expires_at=st.none() | st.floats(0, 9),
    requests_per_minute=some,
    tokens_per_minute=some,
    concurrent=some,
)
asks = st.builds(
    Rights,
    role=st.none() | st.sampled_from(ROLES),
    tenant=st.sampled_from([None, "acme", "beta"]),
    scopes=st.none() | st.frozensets(st.sampled_from(SCOPES), min_size=1),
    models=st.none() | st.frozensets(st.sampled_from("abc"), min_size=1),
    priority=st.none() | st.sampled_from(["low", "normal", "high"]),
    expires_at=st.none() | st.floats(0, 9),
    requests_per_minute=some,
    tokens_per_minute=some,
    concurrent=some,
)
NEEDS = [
    Needs(role=role, scope=scope, tenants=tenants)
    for role, scope, tenants in itertools.product(ROLES, (None, *SCOPES), (False, True))
]


def allowed(held: Rights) -> set[int]:
    assert held.role is not None
    return {
        number
        for number, needs in enumerate(NEEDS)
        if why_not(
            needs, role=held.role, scopes=held.scopes, tenant=held.tenant, way="token", tokens_required=True
        )
        is None
    }  # fmt: skip


def at_most(less: float | None, more: float | None) -> bool:
    return more is None or (less is not None and less <= more)


@given(rights, st.lists(asks, max_size=4))
def test_narrowing_never_gives_more(held: Rights, asked: list[Rights]) -> None:
    first = held
    for ask in asked:
        try:
            held = narrowed(held, ask)
        except Forbidden:
            continue
    assert allowed(held) <= allowed(first)
    assert held.tenant == first.tenant or (first.tenant is None and first.role == "admin")
    assert first.models is None or (held.models is not None and held.models <= first.models)
    for name in ("expires_at", "requests_per_minute", "tokens_per_minute", "concurrent"):
        assert at_most(getattr(held, name), getattr(first, name)), name


@given(rights)
def test_what_is_left_out_is_as_it_was(held: Rights) -> None:
    assert narrowed(held, Rights()) == held


@given(rights, asks)
def test_what_is_asked_for_and_given_is_what_was_asked_for(held: Rights, ask: Rights) -> None:
    try:
        given_rights = narrowed(held, ask)
    except Forbidden:
        return
    for name in ("role", "tenant", "scopes", "models", "priority", "expires_at", "concurrent"):
        assert getattr(ask, name) in (None, getattr(given_rights, name)), name


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("needed", ROLES)
def test_roles_are_ranks(role: Role, needed: Role) -> None:
    needs = Needs(role=needed, scope=None)
    reason = why_not(needs, role=role, scopes=None, tenant=None, way="token", tokens_required=True)
    assert (reason is None) == (ROLES.index(role) >= ROLES.index(needed))
    assert reason is None or needed in reason, "it says what is missing"


@pytest.mark.parametrize("scope", SCOPES)
def test_without_the_scope_even_an_admin_is_refused(scope: Scope) -> None:
    needs = Needs(role="viewer", scope=scope)
    for held in SCOPES:
        reason = why_not(needs, role="admin", scopes={held}, tenant=None, way="token", tokens_required=True)
        assert (reason is None) == (held == scope)


def test_only_a_users_key_has_scopes_nobody_chose() -> None:
    assert [default_scopes(role) for role in ROLES] == [None, ("infer",), None, None]


@given(st.text("ab@-", max_size=6), st.sampled_from(["a", "b", "a-b"]))
def test_a_tenant_is_never_given_a_name_of_anothers(name: str, tenant: str) -> None:
    kept = kept_name(name, tenant)
    assert tenant_of(kept) == tenant
    assert kept_name(seen_name(kept, tenant), tenant) in (kept, seen_name(kept, tenant))
