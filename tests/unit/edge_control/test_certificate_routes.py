"""The control API's routes about the door's certificate."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from tests.gates import gate, own_uid
from tests.unit.edge_control.plane import Plane, serving
from thaloom.base.errors import BadParameter
from thaloom.edge.api.control.routes import control_app
from thaloom.edge.wire.control import VIA, CertificateRequest, ImportCertificateRequest


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("c")


def test_it_is_told_made_renewed_and_imported(home: Path) -> None:
    with serving(home) as (plane, client, _):
        shown = client.certificate()
        assert (shown.fingerprint, shown.names) == ("ab" * 32, ["node", "10.0.0.1"])
        client.make_certificate(CertificateRequest())
        client.renew_certificate(CertificateRequest(names=["a"], days=7))
        client.import_certificate(ImportCertificateRequest(certificate="/c", key="/k"))
        assert plane.asked_for == [("make", None, 365), ("renew", ["a"], 7), ("import", "/c", "/k")]


@pytest.mark.parametrize("wrong", [{"days": 0}, {"days": 4000}, {"names": []}, {"name": "a"}])
def test_a_wrong_wish_is_refused(wrong: dict[str, object]) -> None:
    with TestClient(control_app(Plane(), gate(), peer=own_uid)) as http:
        reply = http.post("/thaloom/v1/certificate/make", json=wrong)
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, BadParameter.code)


@pytest.mark.parametrize(
    ("path", "body"),
    [("make", {}), ("renew", {}), ("import", {"certificate": "/c"})],
)
def test_nobody_who_comes_through_the_door_changes_it(path: str, body: dict[str, object]) -> None:
    with TestClient(control_app(Plane(), gate(), peer=own_uid)) as http:
        reply = http.post(f"/thaloom/v1/certificate/{path}", json=body, headers={"via": VIA})
        assert reply.status_code == 403
        assert http.get("/thaloom/v1/certificate", headers={"via": VIA}).status_code == 200
