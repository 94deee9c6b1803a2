"""Who may ask what of the control API: every route, by everybody.

The table is written by hand and knows nothing of what the routes say of themselves; a route that is not in it fails.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from starlette.routing import Route
from starlette.testclient import TestClient

from tests.contract.edge.doorkeepers import StandingClock
from tests.gates import HeldKeys, Notes, gate
from tests.unit.edge_control.plane import Plane, standing
from thaloom.base.access import ROLES, SCOPES, Role, Scope
from thaloom.base.ids import ServiceName
from thaloom.edge.api.control.gate import check_gate
from thaloom.edge.api.control.routes import control_app
from thaloom.kernel.models.types import ModelName
from thaloom.kernel.state.types import AccessKey, Alias, KeyLimits, ServiceSpec, Share, Tenant
from thaloom.kernel.trust.keys import digest_of, new_key

P = "/thaloom/v1"
VIA = {"via": "1.1 thaloom-door", "forwarded": 'for="127.0.0.1"'}
DIGEST = "0" * 64

ALL: tuple[Role, ...] = ("viewer", "user", "operator", "admin")
OPERATORS: tuple[Role, ...] = ("operator", "admin")
ADMINS: tuple[Role, ...] = ("admin",)
NOBODY: tuple[Role, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Who:
    """`node`, `tenant`: which roles may, of the node and of a tenant; `scope`: which one a token needs; `open`: whether
    it is answered through the door to who shows nothing, where the node requires nothing."""

    node: tuple[Role, ...]
    tenant: tuple[Role, ...]
    scope: Scope | Literal["any"]
    open: bool
    body: dict[str, Any] | None = None


def who(
    node: tuple[Role, ...],
    tenant: tuple[Role, ...],
    scope: Scope | Literal["any"],
    *,
    open: bool = False,
    body: dict[str, Any] | None = None,
) -> Who:
    return Who(node=node, tenant=tenant, scope=scope, open=open, body=body)


MATRIX: dict[str, Who] = {
    # Whoever comes may know what this is, and who he is.
    "GET /version": who(ALL, ALL, "any", open=True),
    "GET /whoami": who(ALL, ALL, "any", open=True),
    # The node: to be looked at by whoever is not a tenant's.
    "GET /status": who(ALL, NOBODY, "read", open=True),
    "GET /processes": who(ALL, NOBODY, "read", open=True),
    "GET /events": who(ALL, NOBODY, "read", open=True),
    "GET /outgoing": who(ALL, NOBODY, "read", open=True),
    "GET /devices": who(ALL, NOBODY, "read", open=True),
    "GET /devices/cpu": who(ALL, NOBODY, "read", open=True),
    "GET /encryption": who(ALL, NOBODY, "read", open=True),
    "POST /down": who(ADMINS, NOBODY, "node", open=True),
    # What is in the store is the node's; a tenant must know what it may serve.
    "GET /models": who(ALL, ALL, "read", open=True),
    "GET /models/tiny:v1": who(ALL, ALL, "read", open=True),
    "GET /pulls": who(ALL, NOBODY, "read", open=True),
    "POST /models/pull": who(OPERATORS, NOBODY, "models", open=True, body={"source": "/x"}),
    "DELETE /pulls?source=x": who(OPERATORS, NOBODY, "models", open=True),
    "POST /models/tiny:v1/verify": who(OPERATORS, NOBODY, "models", open=True),
    "POST /models/tiny:v1/quantise": who(OPERATORS, NOBODY, "models", open=True, body={"to": "int8"}),
    "POST /models/tiny:v1/copy": who(OPERATORS, NOBODY, "models", open=True, body={"name": "other"}),
    "DELETE /models/tiny:v1": who(OPERATORS, NOBODY, "models", open=True),
    "POST /models/tiny:v1/encrypt": who(ADMINS, NOBODY, "models", body={}),
    "POST /models/tiny:v1/decrypt": who(ADMINS, NOBODY, "models", body={}),
    "POST /encryption/key": who(ADMINS, NOBODY, "node"),
    "POST /encryption/rotate": who(ADMINS, NOBODY, "node", body={}),
    # Services and aliases: each sees his own.
    "GET /services": who(ALL, ALL, "read", open=True),
    "GET /services/chat": who(ALL, ALL, "read", open=True),
    "PUT /services/chat": who(OPERATORS, OPERATORS, "services", open=True, body={"model": "tiny"}),
    "DELETE /services/chat": who(OPERATORS, OPERATORS, "services", open=True),
    "POST /services/chat/wake": who(OPERATORS, OPERATORS, "services", open=True),
    "PUT /services/chat/keep-alive": who(OPERATORS, OPERATORS, "services", open=True, body={"seconds": 60}),
    "GET /services/chat/logs": who(OPERATORS, OPERATORS, "services", open=True),
    "GET /aliases": who(ALL, ALL, "read", open=True),
    "GET /aliases/talk": who(ALL, ALL, "read", open=True),
    "PUT /aliases/talk": who(OPERATORS, OPERATORS, "services", open=True, body={"services": {"chat": 1}}),
    "DELETE /aliases/talk": who(OPERATORS, OPERATORS, "services", open=True),
    "POST /aliases/talk/return": who(
        OPERATORS, OPERATORS, "services", open=True, body={"revision": 1, "reason": "worse"}
    ),
    # Keys: an admin's; everybody may narrow and give back his own (whose a key is, is tested with the real node).
    "GET /keys": who(ADMINS, ADMINS, "tokens"),
    "POST /keys": who(ADMINS, ADMINS, "tokens", body={"name": "new"}),
    "POST /keys/held/narrow": who(ALL, ALL, "tokens", body={"name": "less"}),
    "DELETE /keys/held": who(ALL, ALL, "tokens"),
    # Whoever runs a program here may do what the node's owner may; a document may be a program.
    "GET /jobs": who(ADMINS, NOBODY, "jobs"),
    "GET /jobs/nightly": who(ADMINS, NOBODY, "jobs"),
    "PUT /jobs/nightly": who(ADMINS, NOBODY, "jobs", body={"command": ["true"]}),
    "POST /jobs/nightly/stop": who(ADMINS, NOBODY, "jobs"),
    "DELETE /jobs/nightly": who(ADMINS, NOBODY, "jobs"),
    "GET /jobs/nightly/wait": who(ADMINS, NOBODY, "jobs"),
    "GET /jobs/nightly/logs": who(ADMINS, NOBODY, "jobs"),
    "GET /documents": who(ADMINS, NOBODY, "node"),
    "GET /documents/service/chat": who(ADMINS, NOBODY, "node"),
    "POST /documents": who(ADMINS, NOBODY, "node", body={"documents": []}),
    # What it shows to whoever connects, everybody may know; what it shall be, the owner says.
    "GET /certificate": who(ALL, NOBODY, "read", open=True),
    "POST /certificate/make": who(ADMINS, NOBODY, "node", body={}),
    "POST /certificate/renew": who(ADMINS, NOBODY, "node", body={}),
    "POST /certificate/import": who(ADMINS, NOBODY, "node", body={"certificate": "/c", "key": "/k"}),
    "POST /access/refused": who(
        ADMINS, NOBODY, "node", body={"address": "::1", "what": "GET /", "code": "x", "message": "y", "num": 1}
    ),
    # Tenants and the journal: the node's. What was done: each sees what was done to his own (init.acting.seeing).
    "GET /tenants": who(OPERATORS, NOBODY, "node"),
    "GET /tenants/acme": who(OPERATORS, NOBODY, "node"),
    "POST /tenants": who(ADMINS, NOBODY, "node", body={"name": "new"}),
    "PUT /tenants/acme": who(ADMINS, NOBODY, "node", body={}),
    "DELETE /tenants/acme": who(ADMINS, NOBODY, "node"),
    "GET /actions": who(OPERATORS, OPERATORS, "node"),
    "GET /actions/a-1": who(OPERATORS, OPERATORS, "node"),
    "POST /actions/a-1/undo": who(ADMINS, NOBODY, "node"),
    "POST /actions/approve": who(ADMINS, NOBODY, "node", body={"digest": DIGEST}),
    "GET /journal/checkpoint": who(OPERATORS, NOBODY, "node"),
    "POST /journal/verify": who(OPERATORS, NOBODY, "node", body={}),
}


class Recording(Plane):
    """Services of the node and of two tenants; notes every name it is asked for."""

    def __init__(self) -> None:
        self.begin_again()

    def begin_again(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.gate.set()
        for name in ("chat", "chat@acme", "chat@beta"):
            self.services_now[name] = standing(ServiceSpec(name=ServiceName(name), model="tiny"), "ready")
        for name in ("talk", "talk@acme", "talk@beta"):
            chat = ServiceName(name.replace("talk", "chat"))
            self.aliases.now[ServiceName(name)] = Alias(name=ServiceName(name), shares=(Share(service=chat),))
        self.tenants_now = {name: Tenant(name=name) for name in ("acme", "beta")}

    async def service(self, name: ServiceName) -> Any:
        self.asked.append(name)
        return await super().service(name)

    async def serve(self, spec: ServiceSpec) -> Any:
        self.asked.append(spec.name)
        self.services_now[spec.name] = standing(spec, "ready")
        return self.services_now[spec.name]

    async def stop(self, name: ServiceName) -> None:
        self.asked.append(name)

    async def wake(self, name: ServiceName) -> Any:
        self.asked.append(name)
        return await self.service(name)

    async def keep_alive(self, name: ServiceName, seconds: float) -> Any:
        self.asked.append(name)
        return await self.service(name)

    async def logs(self, name: ServiceName, *, follow: bool, tail: int) -> Any:
        self.asked.append(name)
        return _no_lines()

    async def put_alias(self, alias: Alias) -> Alias:
        self.asked += [alias.name, *(share.service for share in alias.shares)]
        return alias

    async def remove_alias(self, name: ServiceName) -> None:
        self.asked.append(name)

    async def return_canary(self, name: ServiceName, revision: int, reason: str) -> Alias:
        self.asked.append(name)
        return self.aliases.now[name]


async def _no_lines() -> Any:
    for line in ():
        yield line


class Everybody:
    """A control API, and a token of every role, scope and tenant. One for all tests: making it takes its time."""

    def __init__(self) -> None:
        self.plane = Recording()
        self.clock = StandingClock()
        self.keys = HeldKeys(required=False)
        self.notes = Notes()
        self.uid: int | None = os.getuid()
        self.secrets: dict[str, str] = {}
        for tenant in (None, "acme"):
            for role in ROLES:
                self._add(f"{role}@{tenant}", role, tenant, None)
        for scope in SCOPES:
            self._add(scope, "admin", None, (scope,))
        self.held = [_key("held", "user", None, None)[0], _key("held@acme", "user", "acme", None)[0]]
        users: dict[str, Role] = {str(10_000 + rank): role for rank, role in enumerate(ROLES)}
        door = gate(self.keys, users=users, notes=self.notes, clock=self.clock)
        app = control_app(self.plane, door, peer=lambda _: self.uid)
        self.client = TestClient(app, base_url="http://localhost", raise_server_exceptions=False)

    def begin_again(self) -> None:
        self.plane.begin_again()
        self.plane.keys_now = {key.name: key for key in (*self.keys.keys, *self.held)}
        self.keys.required = False
        self.notes.entries.clear()
        self.clock.at += 3600.0  # what was told is told again

    def _add(self, name: str, role: Role, tenant: str | None, scopes: tuple[Scope, ...] | None) -> None:
        key, self.secrets[name] = _key(name, role, tenant, scopes)
        self.keys.keys.append(key)

    def ask(
        self, route: str, token: str | None = None, *, door: bool = False, uid: int | None = None, **headers: str
    ) -> tuple[int, str]:
        """Status and text. `uid` None: the node's own."""
        method, path = route.split(" ")
        self.uid = os.getuid() if uid is None else uid
        sent = dict(headers) | (VIA if door else {})
        if token is not None:
            sent["authorization"] = f"Bearer {self.secrets[token]}"
        body = MATRIX[route].body if route in MATRIX else None
        options = {} if body is None else {"json": body}
        answer = self.client.request(method, P + path, headers=sent, **options)
        return answer.status_code, answer.text


def _key(name: str, role: Role, tenant: str | None, scopes: tuple[Scope, ...] | None) -> tuple[AccessKey, str]:
    key_id, secret = new_key()
    key = AccessKey(
        name=name,
        id=key_id,
        digest=digest_of(secret),
        limits=KeyLimits(),
        created_at=1.0,
        role=role,
        tenant=tenant,
        scopes=scopes,
    )
    return key, secret


@pytest.fixture(scope="module")
def all_of_them() -> Everybody:
    return Everybody()


@pytest.fixture
def everybody(all_of_them: Everybody) -> Everybody:
    all_of_them.begin_again()
    return all_of_them


PLACES = (
    ("/service/chat", "/{kind}/{name}"),
    *((f"/{name}", "/{name}") for name in ("nightly", "chat", "talk", "tiny:v1", "held", "acme")),
    ("/cpu", "/{device}"),
    ("/a-1", "/{action}"),
)


def refused(status: int) -> bool:
    return status in (401, 403)


def test_every_route_is_in_the_table_and_nothing_else(everybody: Everybody) -> None:
    known = {route.split("?")[0] for route in MATRIX}
    for name, part in PLACES:
        known = {route.replace(name, part) for route in known}
    served = {
        f"{method.upper()} {path.removeprefix(P)}"
        for path, methods in everybody.client.get(f"{P}/openapi.json").json()["paths"].items()
        for method in methods
    }
    assert served == known, "every route needs a line in MATRIX: who may ask it"


@pytest.mark.parametrize("route", MATRIX)
@pytest.mark.parametrize("door", [False, True], ids=["socket", "door"])
@pytest.mark.parametrize("tenant", [None, "acme"])
@pytest.mark.parametrize("role", ROLES)
def test_a_token_of_each_role(everybody: Everybody, route: str, role: Role, tenant: str | None, door: bool) -> None:
    may = MATRIX[route].node if tenant is None else MATRIX[route].tenant
    status, text = everybody.ask(route, f"{role}@{tenant}", door=door)
    assert refused(status) == (role not in may), text
    if role not in may:
        assert status == 403
        assert [(kind, record["code"]) for kind, record, _ in everybody.notes.entries] == [
            ("access.refuse", "forbidden")
        ]
        assert everybody.plane.asked == []


@pytest.mark.parametrize("route", MATRIX)
@pytest.mark.parametrize("scope", SCOPES)
def test_a_token_of_each_scope(everybody: Everybody, route: str, scope: Scope) -> None:
    status, text = everybody.ask(route, scope, door=True)
    assert refused(status) == (MATRIX[route].scope not in (scope, "any")), text


@pytest.mark.parametrize("route", MATRIX)
@pytest.mark.parametrize("required", [False, True])
def test_through_the_door_without_a_token(everybody: Everybody, route: str, required: bool) -> None:
    everybody.keys.required = required
    status, _ = everybody.ask(route, door=True)
    assert refused(status) == (required or not MATRIX[route].open)
    assert status != 403 or not required, "who shows nothing is asked for a token"


@pytest.mark.parametrize("route", MATRIX)
@pytest.mark.parametrize("role", [*ROLES, "root", "own", "stranger"])
def test_users_of_this_machine_by_the_socket(everybody: Everybody, route: str, role: str) -> None:
    uids = {"root": 0, "own": os.getuid(), "stranger": 20_000}
    uid = uids.get(role, 10_000 + ROLES.index(role) if role in ROLES else -1)  # type: ignore[arg-type]
    # Saying that one is the door helps nobody but the door.
    for headers in ({}, {"via": "1.1 thaloom-door"}, VIA) if role in (*ROLES, "stranger") else ({},):
        everybody.keys.required = False
        status, text = everybody.ask(route, uid=uid, **headers)
        may = role in ("root", "own") or role in MATRIX[route].node
        assert refused(status) == (not may), text
        assert (status == 401) == (role == "stranger")


def test_no_route_can_be_made_without_saying_what_it_needs() -> None:
    app = control_app(Recording(), gate())
    with pytest.raises(TypeError, match="does not say what it needs"):

        @app.get(f"{P}/secret")
        async def secret() -> None: ...

    app.router.routes.append(Route(f"{P}/aside", lambda _: None))
    with pytest.raises(TypeError, match="without the gate"):
        check_gate(app)


@pytest.mark.parametrize("route", [route for route in MATRIX if MATRIX[route].tenant])
def test_what_a_tenant_asks_reaches_its_own_and_nothing_else(everybody: Everybody, route: str) -> None:
    status, text = everybody.ask(route, "admin@acme", door=True)
    assert status < 400, text
    assert all(name.endswith("@acme") for name in everybody.plane.asked), everybody.plane.asked
    assert "beta" not in text
    if "/services" in route or "/aliases" in route:
        assert "@" not in text, "it calls its own by its own names"


NAMED = [route for route in MATRIX if MATRIX[route].tenant and any(f"/{name}" in route for name in ("chat", "talk"))]


@pytest.mark.parametrize("route", NAMED)
@pytest.mark.parametrize("other", ["chat@beta", "chat@", "@beta", "chat@beta@acme"])
def test_a_tenant_cannot_name_what_is_anothers(everybody: Everybody, route: str, other: str) -> None:
    asked = route.replace("/chat", f"/{other}").replace("/talk", f"/{other}")
    MATRIX[asked] = MATRIX[route]
    try:
        everybody.ask(asked, "admin@acme", door=True)
    finally:
        del MATRIX[asked]
    for name in everybody.plane.asked:
        assert name.endswith("@acme"), "a name that the node keeps for nobody else"
    assert "chat@beta" not in everybody.plane.asked


def test_an_unknown_token_is_no_token_of_anybodys(everybody: Everybody) -> None:
    everybody.secrets["guess"] = new_key()[1]
    for door, required, expected in ((False, False, 401), (False, True, 401), (True, True, 401), (True, False, 200)):
        everybody.keys.required = required
        assert everybody.ask("GET /status", "guess", door=door)[0] == expected
        assert refused(everybody.ask("GET /keys", "guess", door=door)[0])


def test_a_dry_run_is_gated_as_the_deed_is(everybody: Everybody) -> None:
    everybody.plane.aliases.now.clear()
    for token, expected in (("viewer@None", 403), ("operator@None", 200)):
        status, _ = everybody.ask("PUT /aliases/talk", token)
        assert status == expected
    answer = everybody.client.put(
        f"{P}/aliases/talk",
        params={"dry_run": "true"},
        json={"services": {"chat": 1}},
        headers={"authorization": f"Bearer {everybody.secrets['viewer@None']}"},
    )
    assert answer.status_code == 403


NARROWED = ("chat", "talk")
"""What a tenant's token is for, beside which there are more of its tenant's."""


@pytest.fixture
def narrowed(everybody: Everybody) -> Iterator[Everybody]:
    """With a token of acme for some models, services of others beside it, and a store with more than they serve."""
    key, everybody.secrets["narrowed"] = _key("narrowed@acme", "admin", "acme", None)
    everybody.keys.keys.append(dataclasses.replace(key, limits=KeyLimits(models=NARROWED)))
    plane = everybody.plane
    for name, model in (("more@acme", "hidden"), ("chat@acme", "tiny:v1"), ("chat", "secret")):
        plane.services_now[name] = standing(ServiceSpec(name=ServiceName(name), model=model), "ready")
    (tiny,) = plane.manifests
    plane.manifests += [dataclasses.replace(tiny, name=ModelName.parse(name)) for name in ("hidden", "secret", "talk")]
    plane.aliases.now[ServiceName("most@acme")] = Alias(
        name=ServiceName("most@acme"), shares=(Share(service=ServiceName("more@acme")),)
    )
    yield everybody
    everybody.keys.keys.pop()


def test_a_tenants_token_for_some_models_sees_those_and_what_they_serve(narrowed: Everybody) -> None:
    def names(path: str, token: str) -> list[str]:
        found = json.loads(narrowed.ask(f"GET {path}", token, door=True)[1])
        return sorted(one["name"] for one in next(value for value in found.values() if isinstance(value, list)))

    assert names("/services", "narrowed") == ["chat"]
    assert names("/aliases", "narrowed") == ["talk"]
    assert names("/models", "narrowed") == ["talk", "tiny:v1"], "what chat serves, and what is called talk"
    assert names("/services", "admin@acme") == ["chat", "more"]
    assert len(names("/models", "admin@acme")) == 4, "who is for all sees the store, of which it may serve"
    page = json.loads(narrowed.ask("GET /services?limit=1", "narrowed", door=True)[1])
    assert (page["total"], page["next"]) == (1, None), "how many more there are is not told either"
    assert json.loads(narrowed.ask("GET /services?after=chat", "narrowed", door=True)[1])["services"] == []


@pytest.mark.parametrize("there", ["more", "nothing"])
@pytest.mark.parametrize("route", NAMED)
def test_what_a_tenants_token_is_not_for_is_refused_whether_it_is_there_or_not(
    narrowed: Everybody, route: str, there: str
) -> None:
    asked = route.replace("/chat", f"/{there}").replace("/talk", f"/{there}")
    MATRIX[asked] = MATRIX[route]
    try:
        status, text = narrowed.ask(asked, "narrowed", door=True)
    finally:
        del MATRIX[asked]
    assert status == 403, text
    assert f"not for '{there}'" in text
    assert narrowed.plane.asked == []


def test_a_tenants_token_for_some_models_neither_names_nor_serves_another(narrowed: Everybody) -> None:
    for name in ("hidden", "secret", "nothing"):
        status, text = narrowed.ask(f"GET /models/{name}", "narrowed", door=True)
        assert status == 404
        assert "tiny" not in text, "and is told of none that is near"
    assert narrowed.ask("GET /models/tiny:v1", "narrowed", door=True)[0] == 200
    headers = VIA | {"authorization": f"Bearer {narrowed.secrets['narrowed']}"}
    for model, expected in (("hidden", 404), ("secret", 404), ("tiny:v1", 200), ("talk", 200)):
        answer = narrowed.client.put(f"{P}/services/chat", json={"model": model}, headers=headers)
        assert answer.status_code == expected, answer.text
    answer = narrowed.client.put(f"{P}/aliases/talk", json={"services": {"more": 1}}, headers=headers)
    assert answer.status_code == 403, "nor by an alias that it may have"
    answer = narrowed.client.put(f"{P}/aliases/talk", json={"services": {"chat": 1}, "canary": "more"}, headers=headers)
    assert answer.status_code == 403
