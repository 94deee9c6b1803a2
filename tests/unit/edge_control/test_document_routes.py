"""Documents over HTTP: what goes in comes out, and only by the socket or for an admin."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from tests.contract.edge.sdk_methods import FEDERATION
from tests.gates import gate, own_uid
from tests.unit.edge_control.plane import Plane
from thaloom.edge.api.control.routes import control_app

PLACE = "/thaloom/v1/documents"


@pytest.fixture
def client() -> TestClient:
    return TestClient(control_app(Plane(), gate(), peer=own_uid), base_url="http://localhost")


def test_what_is_applied_is_told_with_version_and_conditions(client: TestClient) -> None:
    applied = client.post(PLACE, json={"documents": [FEDERATION]})
    assert (applied.status_code, applied.json()["created"]) == (200, ["federation/f"])
    told = client.get(f"{PLACE}/federation/f").json()
    assert (told["kind"], told["metadata"]["version"], told["spec"]) == ("Federation", "v1", FEDERATION["spec"])
    assert told["status"]["conditions"][0]["type"] == "Ready"
    assert client.post(PLACE, json={"documents": [told]}).json()["unchanged"] == ["federation/f"], "as it was told"
    assert client.get(PLACE, params={"label": "app=x"}).json()["documents"] == []
    assert client.get(f"{PLACE}/federation/none").status_code == 404


def test_what_is_no_document_is_refused_by_name(client: TestClient) -> None:
    for changed, param in (
        ({"apiVersion": "v9"}, "documents.0.apiVersion"),
        ({"metdata": {}}, "documents.0.metdata"),
        ({"metadata": {"name": "f", "labels": {"a": 1}}}, "documents.0.metadata.labels.a"),
        ({"kind": "Pod"}, "kind"),
    ):
        refused = client.post(PLACE, json={"documents": [FEDERATION | changed]})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)
    assert client.get(PLACE, params={"label": "app"}).status_code == 400


def test_who_comes_through_the_door_without_a_token_is_refused(client: TestClient) -> None:
    via = {"Via": "1.1 thaloom-door"}
    assert client.get(PLACE, headers=via).status_code == 403
    assert client.get(f"{PLACE}/federation/f", headers=via).status_code == 403
    assert client.post(PLACE, json={"documents": [FEDERATION]}, headers=via).status_code == 403


def test_services_come_page_by_page(client: TestClient) -> None:
    page = client.get("/thaloom/v1/services", params={"limit": 1}).json()
    assert (page["services"], page["total"], page["next"]) == ([], 0, None)
    assert client.get("/thaloom/v1/services", params={"limit": 0}).status_code == 400
