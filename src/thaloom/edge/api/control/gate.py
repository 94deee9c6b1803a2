"""The gate before every route: none can be made that does not say what it needs of whoever asks it.

    @app.put(path, openapi_extra=needs("operator", "services", tenants=True))

What it needs is told in the API's document (`x-thaloom-needs`), and asked of the gatekeeper before anything of the
request is read. A route that tenants may ask takes names by `own` and tells them by `theirs`; what is not theirs is not
there for them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from starlette.routing import Route

from thaloom.base.access import Needs, Role, Scope, kept_name, seen_name, tenant_of
from thaloom.base.actions import TERMS, Caller
from thaloom.base.errors import ThaloomError
from thaloom.base.ids import ServiceName

DECLARED = "x-thaloom-needs"


class Gatekeeper(Protocol):
    """init.access.gate has the real one."""

    def identify(self, uid: int | None, *, shown: Sequence[str], by_door: bool, client: str | None) -> Caller:
        """Raises Unauthorized, RateLimited."""
        ...

    def admit(self, caller: Caller, needs: Needs, what: str) -> None:
        """Raises Forbidden."""
        ...

    def refused(self, who: str, what: str, error: ThaloomError) -> None: ...
    def refused_at_door(self, address: str, what: str, code: str, message: str, num: int) -> None: ...


def needs(role: Role, scope: Scope | None, *, tenants: bool = False, open: bool = False) -> dict[str, Any]:
    """For `openapi_extra` of a route."""
    return {DECLARED: dataclasses.asdict(Needs(role=role, scope=scope, tenants=tenants, open=open))}


def declared(route: APIRoute) -> Needs:
    """Raises TypeError for a route that says nothing."""
    extra = route.openapi_extra or {}
    if DECLARED not in extra:
        raise TypeError(
            f"the route {route.path!r} does not say what it needs of who asks it (openapi_extra=needs(...))"
        )
    return Needs(**extra[DECLARED])


class GatedRoute(APIRoute):
    """Asks the gatekeeper first. Cannot be made without saying what it needs."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        self.needs = declared(self)
        method, *others = sorted(self.methods or ())
        assert not others, "one route, one method"
        self.what = f"{method} {path}"

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def gated(request: Request) -> Response:
            request.app.state.gate.admit(TERMS.get().caller, self.needs, self.what)
            return await handle(request)

        return gated


def close_gate(app: FastAPI, gate: Gatekeeper) -> None:
    """Before any route is added."""
    app.state.gate = gate
    app.router.route_class = GatedRoute


def check_gate(app: FastAPI) -> None:
    """Whether every way in is gated, but for the document, which says what anybody can read. Raises TypeError."""
    for route in app.routes:
        document = isinstance(route, Route) and route.path == app.openapi_url
        if not isinstance(route, GatedRoute) and not document:
            raise TypeError(f"{getattr(route, 'path', route)!r} is reached without the gate")


def own(name: str) -> ServiceName:
    """The kept name of what the caller calls so."""
    return ServiceName(kept_name(name, TERMS.get().caller.tenant))


def theirs(name: str) -> str:
    """What the caller calls what is kept so."""
    return seen_name(name, TERMS.get().caller.tenant)


def is_theirs(name: str) -> bool:
    """Whether the caller may see what is kept under this name."""
    tenant = TERMS.get().caller.tenant
    return tenant is None or tenant_of(name) == tenant
