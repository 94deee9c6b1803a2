"""On what terms a request is made: dry runs, approvals, ids, and who asks."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.gates import gate, own_uid
from tests.unit.edge_control.plane import PLAN, Plane
from thaloom.base.actions import LOCAL, Approval, Terms
from thaloom.edge.api.control.routes import control_app
from thaloom.init.access.gate import DOOR

BODY = {"services": {"tiny": 1}}
ALIAS = "/thaloom/v1/aliases/best"


@pytest.fixture
def plane() -> Plane:
    return Plane()


@pytest.fixture
def client(plane: Plane) -> TestClient:
    return TestClient(control_app(plane, gate(), peer=own_uid), base_url="http://localhost")


def test_a_dry_run_answers_with_the_plan_and_does_nothing(client: TestClient, plane: Plane) -> None:
    answer = client.put(ALIAS, json=BODY, params={"dry_run": "true"})
    assert answer.status_code == 200
    assert answer.headers["thaloom-dry-run"] == "true"
    plan: dict[str, Any] = answer.json()
    assert plan["digest"] == PLAN.digest
    assert plan["changes"] == [{"subject": "alias/best", "before": None, "after": {"shares": ["tiny"]}}]
    assert plan["undo"] == {"kind": "alias.remove", "parameters": {"name": "best"}}
    assert plane.aliases.now == {}


def test_a_dry_run_of_what_streams_answers_with_the_plan_too(client: TestClient) -> None:
    answer = client.post("/thaloom/v1/models/pull", json={"source": "/somewhere"}, params={"dry_run": "true"})
    assert (answer.status_code, answer.headers["thaloom-dry-run"]) == (200, "true")
    assert answer.json()["digest"] == PLAN.digest


def test_an_id_may_be_quoted_as_the_draft_has_it(client: TestClient, plane: Plane) -> None:
    client.put(ALIAS, json=BODY, headers={"Idempotency-Key": '"mine"'})
    assert plane.terms.action == "mine"


def test_without_terms_it_is_done_at_once(client: TestClient, plane: Plane) -> None:
    assert client.put(ALIAS, json=BODY).status_code == 200
    assert plane.terms == Terms(caller=LOCAL)


def test_the_terms_reach_whoever_carries_it_out(client: TestClient, plane: Plane) -> None:
    digest = "0" * 64
    answer = client.put(
        ALIAS,
        json=BODY,
        params={"plan": digest, "until": "12.5"},
        headers={"Idempotency-Key": "mine", "Via": "1.1 thaloom"},
    )
    assert answer.status_code == 200
    approval = Approval(digest=digest, until=12.5)
    assert plane.terms == Terms(caller=DOOR, action="mine", approval=approval)


def test_terms_of_one_request_are_not_those_of_the_next(client: TestClient, plane: Plane) -> None:
    client.put(ALIAS, json=BODY, headers={"Idempotency-Key": "mine"})
    client.put(ALIAS, json=BODY)
    assert plane.terms.action is None


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"dry_run": "maybe"}, "dry_run"),
        ({"plan": "short"}, "plan"),
        ({"plan": "Z" * 64}, "plan"),
        ({"plan": "0" * 64, "until": "soon"}, "until"),
        ({"plan": "0" * 64, "until": "nan"}, "until"),
    ],
)
def test_terms_that_make_no_sense_are_refused_by_name(
    client: TestClient, plane: Plane, query: dict[str, str], param: str
) -> None:
    answer = client.put(ALIAS, json=BODY, params=query)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert plane.aliases.now == {}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "actions/approve"),
        ("GET", "journal/checkpoint"),
        ("POST", "journal/verify"),
        ("GET", "actions"),
        ("GET", "actions/a-1"),
        ("POST", "actions/a-1/undo"),
    ],
)
def test_leave_and_the_journals_chain_are_not_for_who_comes_through_the_door(
    client: TestClient, method: str, path: str
) -> None:
    body = {"digest": "0" * 64} if path == "actions/approve" else {}
    answer = client.request(method, f"/thaloom/v1/{path}", json=body, headers={"Via": "1.1 thaloom"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")


def test_leave_is_given_for_a_time(client: TestClient, plane: Plane) -> None:
    assert client.post("/thaloom/v1/actions/approve", json={"digest": "a" * 64}).status_code == 200
    assert plane.approved[0] == "a" * 64
    for wrong in ({"digest": "a"}, {"digest": "a" * 64, "valid_s": 0}, {"digest": "a" * 64, "valid_s": 1e9}, {}):
        assert client.post("/thaloom/v1/actions/approve", json=wrong).status_code == 400


def test_what_was_done_is_listed_told_and_undone(client: TestClient) -> None:
    found = client.get("/thaloom/v1/actions", params={"subject": "service/tiny"}).json()["actions"]
    assert [(action["id"], action["by"], action["ending"]) for action in found] == [("a-1", "person:local", "done")]
    refused = client.get("/thaloom/v1/actions", params={"refused": "true"}).json()["actions"]
    assert [action["ending"] for action in refused] == ["refused"]
    assert client.get("/thaloom/v1/actions/a-1").json()["action"]["undo"]["kind"] == "service.stop"
    assert client.get("/thaloom/v1/actions/a-9").json()["error"]["code"] == "action_not_found"
    assert client.post("/thaloom/v1/actions/a-1/undo").json()["undoes"] == "a-1"


def test_a_journal_that_is_not_sound_says_so(client: TestClient) -> None:
    assert client.post("/thaloom/v1/journal/verify", json={}).json()["sound"] is True
    report = client.post("/thaloom/v1/journal/verify", json={"entry": 9, "seal": "x"}).json()
    assert (report["sound"], report["faults"]) == (False, [{"entry": 9, "problem": "not_through"}])
    assert client.get("/thaloom/v1/journal/checkpoint").json() == {"entry": 3, "seal": "abc"}


def test_the_document_tells_of_the_terms_of_all_that_changes_something(client: TestClient) -> None:
    document = client.get("/thaloom/v1/openapi.json").json()
    assert "Plan" in document["components"]["schemas"]
    changing = 0
    for operations in document["paths"].values():
        for method, operation in operations.items():
            names = [parameter["name"] for parameter in operation.get("parameters", [])]
            terms = {"dry_run", "plan", "until", "Idempotency-Key"}
            assert len(set(names)) == len(names)
            if method == "get":
                assert not terms & set(names)
                continue
            changing += 1
            assert terms <= set(names)
            said = operation["responses"]["200"]["content"]["application/json"]["schema"]
            assert "#/components/schemas/Plan" in str(said)
    assert changing > 15


def test_every_term_that_the_document_allows_is_taken(client: TestClient) -> None:
    terms = {"dry_run": "false", "plan": "0" * 64, "until": "1e12"}
    assert client.put(ALIAS, json=BODY, params=terms, headers={"Idempotency-Key": "a.B_c-9"}).status_code == 200
    for name, value in (("dry_run", "maybe"), ("plan", "x"), ("until", "soon")):
        refused = client.put(ALIAS, json=BODY, params={name: value})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, name)
