"""Who may ask what of the door: every route of the models' protocols, by keys of every role and scope, and by none.

The table is written by hand; a route of the door's document that is not in it fails.
"""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Any, cast

import pytest

from tests.contract.edge.doorkeepers import FixedKeys, bearer, guarded_door
from tests.contract.edge.live_door import LiveDoor
from thaloom.base.access import ROLES, SCOPES
from thaloom.base.errors import Unauthorized
from thaloom.base.ids import ServiceName
from thaloom.door import openapi_document
from thaloom.kernel.state.shared_rows import SharedRows
from thaloom.work.runtime.frontend.doorkeeper import Doorkeeper

OPEN = {
    *("GET /", "GET /healthz", "GET /readyz", "GET /version", "GET /openapi.json", "GET /metrics"),
    *("GET /v2/health/live", "GET /v2/health/ready"),
}
"""To all: says nothing of anybody's prompts, and is asked by machines that have no key."""
LOOKS = {
    *("GET /v1/models", "GET /v1/models/{model}", "GET /api/models", "GET /v2"),
    *("GET /api/tags", "GET /api/ps", "GET /api/version"),
}
"""Tells which models there are. For who may ask models, and for who may look (role viewer, scope `read`)."""
ASKS = {
    *("POST /v1/chat/completions", "POST /v1/completions", "POST /v1/embeddings"),
    *("POST /v1/rerank", "POST /rerank", "POST /v2/rerank", "POST /v1/score", "POST /score"),
    *("POST /tokenize", "POST /detokenize", "POST /v1/messages", "POST /v1/messages/count_tokens"),
    *("POST /v1/audio/speech", "POST /v1/audio/transcriptions", "POST /v1/images/generations"),
    *("GET /v2/models/{model}", "GET /v2/models/{model}/ready", "POST /v2/models/{model}/infer"),
    "GET /tokenizer_info",
    *("POST /api/chat", "POST /api/generate", "POST /api/embed", "POST /api/embeddings"),
    *("POST /api/show", "POST /api/copy", "DELETE /api/delete", "POST /api/pull"),
    *("POST /v1/responses", "POST /v1/responses/input_tokens", "GET /v1/responses/{id}", "DELETE /v1/responses/{id}"),
    *("GET /v1/responses/{id}/input_items", "POST /v1/responses/{id}/cancel"),
    *("GET /v1/files", "POST /v1/files", "GET /v1/files/{id}", "DELETE /v1/files/{id}", "GET /v1/files/{id}/content"),
    *("GET /v1/batches", "POST /v1/batches", "GET /v1/batches/{id}", "POST /v1/batches/{id}/cancel"),
    *(f"GET /{name}/resolve/{{revision}}/{{file}}" for name in ("{name}", "{org}/{name}")),
    *(
        f"GET /api/models/{name}{view}"
        for name in ("{name}", "{org}/{name}")
        for view in ("", "/revision/{revision}", "/tree/{revision}", "/refs", "/auth-check")
    ),
    *(f"POST /api/models/{name}/paths-info/{{revision}}" for name in ("{name}", "{org}/{name}")),
}  # fmt: skip
"""Asks a model, fetches one, or is about what is kept for those who ask: role user, scope `infer`."""
GIVEN = {"model": "tiny", "name": "tiny", "org": "a", "revision": "main", "file": "config.json", "id": "x"}
NOT_FOR_THE_KEY = 403


def test_every_route_of_the_document_is_in_the_table() -> None:
    served = {
        f"{method.upper()} {path}"
        for path, methods in openapi_document()["paths"].items()
        for method in methods
        if method != "parameters"
    }
    assert served == OPEN | LOOKS | ASKS, "every route needs a place in the table: who may ask it"


async def status(door: LiveDoor, asked: str, key: str | None) -> tuple[int, str]:
    method, path = asked.format(**GIVEN).split(" ")
    body: dict[str, Any] = {} if method == "GET" else {"json": {"model": "tiny"}}
    answer = await door.http.request(method, path, headers={} if key is None else bearer(key), **body)
    return answer.status_code, answer.text


def test_keys_of_every_role_and_scope_and_none(tmp_path: Path) -> None:
    async def test() -> None:
        keys = FixedKeys()
        async with guarded_door(tmp_path, keys) as door:
            by_role = {role: keys.add(role, role=role, scopes=None) for role in ROLES}
            by_scope = {scope: keys.add(f"only {scope}", role="admin", scopes=(scope,)) for scope in SCOPES}
            for asked in sorted(OPEN | LOOKS | ASKS):
                without, text = await status(door, asked, None)
                assert (without == 401) == (asked not in OPEN), f"{asked} without a key: {text}"
                for role, key in by_role.items():
                    found, text = await status(door, asked, key)
                    assert found != 401
                    may = asked in OPEN | LOOKS or role != "viewer"
                    assert (found == NOT_FOR_THE_KEY and "'infer'" in text) == (not may), f"{asked} {role}: {text}"
                for scope, key in by_scope.items():
                    found, text = await status(door, asked, key)
                    may = asked in OPEN or scope == "infer" or (asked in LOOKS and scope == "read")
                    assert (found == NOT_FOR_THE_KEY and "'infer'" in text) == (not may), f"{asked} {scope}: {text}"

    asyncio.run(test())


@pytest.mark.parametrize("tenants", [False, True])
def test_measurements_are_open_until_there_are_tenants(tmp_path: Path, tenants: bool) -> None:
    async def test() -> None:
        keys = FixedKeys()
        async with guarded_door(tmp_path, keys) as door:
            eye = keys.add("eye", role="viewer", scopes=("read",))
            if tenants:
                keys.add_tenant("acme")
            theirs = keys.add("theirs", role="admin", tenant="acme" if tenants else None, scopes=None)
            assert (await status(door, "GET /metrics", None))[0] == (401 if tenants else 200)
            assert (await status(door, "GET /metrics", theirs))[0] == (403 if tenants else 200)
            assert (await status(door, "GET /metrics", eye))[0] == 200

    asyncio.run(test())


def test_a_door_that_always_asks_does_so_without_any_key_and_whatever_is_set() -> None:
    keys = FixedKeys(require_keys=False)
    keeper = Doorkeeper(keys, cast(SharedRows, None), keys.clock, always=True)
    for shown in ([], ["guess"]):
        with pytest.raises(Unauthorized):
            keeper.enter(shown, "192.0.2.1")
    assert keeper.asks_for_keys
    visit = keeper.enter([keys.add("alice")], "192.0.2.1")
    assert visit is not None
    with pytest.raises(Unauthorized):
        keeper.enter([], "192.0.2.1")
    with pytest.raises(Unauthorized):
        keeper.enter_as("bob")


def test_a_tenant_has_names_of_its_own(tmp_path: Path) -> None:
    async def test() -> None:
        keys = FixedKeys()
        async with guarded_door(tmp_path, keys) as door:
            (there,) = door.routes.routes
            door.routes.routes.append(dataclasses.replace(there, name=ServiceName("own@acme")))
            keys.add_tenant("acme")
            keys.add_tenant("beta")
            acme, beta = (keys.add(f"ci@{name}", tenant=name) for name in ("acme", "beta"))
            plain = keys.add("plain")
            limited = keys.add("less@acme", tenant="acme", models=("own",))

            async def models(key: str) -> list[str]:
                answer = await door.http.get("/v1/models", headers=bearer(key))
                return [model["id"] for model in answer.json()["data"]]

            async def ask(key: str, model: str) -> int:
                body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
                return (await door.post("/v1/chat/completions", body, headers=bearer(key))).status_code

            assert await models(acme) == ["own"]
            elsewhere = keys.add("elsewhere@acme", tenant="acme", models=("more",))
            assert await models(limited) == ["own"]
            assert await models(elsewhere) == [], "a tenant's key lists what it is for"
            assert await models(beta) == []
            assert await models(plain) == ["tiny"]
            for key, model, expected in (
                (acme, "own", 200),
                (acme, "own:latest", 200),
                (acme, "own@acme", 200),
                (limited, "own", 200),
                (elsewhere, "own", 403),
                (acme, "tiny", 404),
                (beta, "own", 404),
                (beta, "own@acme", 404),
                (beta, "tiny", 404),
                (plain, "own", 404),
                (plain, "own@acme", 404),
                (plain, "tiny", 200),
            ):
                assert await ask(key, model) == expected, (model, expected)
            ready = await door.http.get("/readyz")
            assert "own" not in ready.text
            # What is in the store is the node's, and so are its files.
            fetched = await door.http.get("/tiny/resolve/main/config.json", headers=bearer(acme))
            assert fetched.status_code in (403, 404)

    asyncio.run(test())


def test_what_is_narrowed_counts_against_all_it_came_of(tmp_path: Path) -> None:
    async def test() -> None:
        keys = FixedKeys()
        async with guarded_door(tmp_path, keys) as door:
            keys.add("parent", requests_per_minute=3)
            child = keys.add("child", parent="parent")
            other = keys.add("other", parent="parent", requests_per_minute=2)
            body = {"model": "tiny", "prompt": "a", "max_tokens": 1}

            async def ask(key: str) -> Any:
                return await door.post("/v1/completions", body, headers=bearer(key))

            assert [(await ask(child)).status_code for _ in range(2)] == [200, 200]
            assert (await ask(other)).status_code == 200
            refused = await ask(other)
            assert refused.status_code == 429
            assert "'parent'" in refused.json()["error"]["message"]
            assert int(refused.headers["retry-after"]) == 20
            # What the parent refused was not counted for the child.
            keys.clock.at += 20.0
            assert (await ask(other)).status_code == 200

    asyncio.run(test())


def test_a_tenants_quota_is_shared_by_its_keys(tmp_path: Path) -> None:
    async def test() -> None:
        keys = FixedKeys()
        async with guarded_door(tmp_path, keys) as door:
            (there,) = door.routes.routes
            door.routes.routes.append(dataclasses.replace(there, name=ServiceName("tiny@acme")))
            keys.add_tenant("acme", requests_per_minute=3)
            one, two = (keys.add(f"{name}@acme", tenant="acme") for name in ("one", "two"))
            body = {"model": "tiny", "prompt": "a", "max_tokens": 8}
            answers = [await door.post("/v1/completions", body, headers=bearer(key)) for key in (one, two) * 2]
            assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
            assert "the tenant 'acme'" in answers[-1].json()["error"]["message"]
            assert answers[-1].headers["x-ratelimit-limit-requests"] == "3"

    asyncio.run(test())


def test_guesses_are_slowed_for_their_address_and_not_for_who_is_known(tmp_path: Path) -> None:
    async def test() -> None:
        keys = FixedKeys()
        async with guarded_door(tmp_path, keys) as door:
            known, new = keys.add("known"), keys.add("new")
            assert (await status(door, "GET /v1/models", known))[0] == 200
            found = [(await status(door, "GET /v1/models", f"guess {number}"))[0] for number in range(12)]
            assert found == [401] * 10 + [429] * 2
            answer = await door.http.get("/v1/models", headers=bearer("guess"))
            assert (answer.headers["retry-after"], answer.json()["error"]["code"]) == ("6", "rate_limited")
            assert (await status(door, "GET /v1/models", known))[0] == 200
            assert (await status(door, "GET /v1/models", new))[0] == 429, "right or wrong, it is not looked at"
            assert (await status(door, "GET /thaloom/v1/status", "guess"))[0] == 429, "by whichever route"
            keys.clock.at += 6.0
            assert (await status(door, "GET /v1/models", new))[0] == 200

    asyncio.run(test())
