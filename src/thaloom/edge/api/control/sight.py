"""What a tenant's token that is for some models only sees: services and aliases of those names, and of the store what
they serve or what is called so. The rest is not there for it, and can neither be served nor changed by it.

The node's own tokens see the whole node (its status, its events), so hiding names from them here would hide nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from thaloom.base.actions import TERMS
from thaloom.base.errors import BadParameter, Forbidden, ModelNotFound
from thaloom.base.ids import ServiceName
from thaloom.edge.api.control.gate import is_theirs, own, theirs
from thaloom.edge.api.control.plane import ControlPlane
from thaloom.kernel.models.types import Manifest, ModelName
from thaloom.kernel.state.types import OUTSIDE, Page, ServiceStatus


def narrowed() -> frozenset[str] | None:
    """The names that the caller's token is for; None: all of its tenant's."""
    caller = TERMS.get().caller
    return None if caller.tenant is None else caller.models


def is_for_it(kept: str) -> bool:
    names = narrowed()
    return names is None or theirs(kept) in names or kept in names


def asked(name: str) -> ServiceName:
    """The kept name of a service or an alias. Raises Forbidden for one the caller's token is not for, whether it is
    there or not."""
    kept = own(name)
    if not is_for_it(kept):
        raise Forbidden(f"this token is not for {theirs(kept)!r}", param="name")
    return kept


async def seen_services(plane: ControlPlane, limit: int | None, after: str | None) -> Page[ServiceStatus]:
    tenant = TERMS.get().caller.tenant
    if narrowed() is None:
        return await plane.services(limit=limit, after=after, tenant=tenant)
    everything = (await plane.services(limit=None, after=None, tenant=tenant)).items
    seen = tuple(status for status in everything if is_for_it(status.spec.name))
    rest = tuple(status for status in seen if after is None or status.spec.name > after)
    page = rest[:limit]
    return Page(items=page, total=len(seen), next=page[-1].spec.name if page and len(page) < len(rest) else None)


async def seen_models(plane: ControlPlane) -> Sequence[Manifest]:
    everything = await plane.models()
    names = narrowed()
    if names is None:
        return everything
    behind = {
        share.service
        for alias in plane.aliases.list()
        if is_theirs(alias.name) and is_for_it(alias.name)
        for share in alias.shares
    }
    visible = set(_parsed(names))
    for status in (await plane.services(limit=None, after=None, tenant=TERMS.get().caller.tenant)).items:
        spec = status.spec
        if spec.engine not in OUTSIDE and (is_for_it(spec.name) or spec.name in behind):
            visible |= set(_parsed([spec.model]))
    return [manifest for manifest in everything if manifest.name in visible]


async def seen_model(plane: ControlPlane, name: ModelName) -> Manifest:
    """Raises ModelNotFound, which names no other where the caller may not know those."""
    if narrowed() is None:
        return await plane.model(name)
    found = next((manifest for manifest in await seen_models(plane) if manifest.name == name), None)
    if found is None:
        raise ModelNotFound(f"no model {str(name)!r}", param="model")
    return found


def _parsed(names: Iterable[str]) -> Iterable[ModelName]:
    for name in names:
        try:
            yield ModelName.parse(name)
        except BadParameter:  # a service may be called as no model can be
            continue
