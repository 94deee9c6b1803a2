"""Routes about jobs: what travels, and who is turned away."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.gates import gate, own_uid
from tests.unit.edge_control.plane import Plane
from thaloom.edge.api.control.routes import control_app
from thaloom.kernel.state.jobs.types import Dependency, JobResources

JOBS = "/thaloom/v1/jobs"


@pytest.fixture
def plane() -> Plane:
    return Plane()


@pytest.fixture
def client(plane: Plane) -> TestClient:
    return TestClient(control_app(plane, gate(), peer=own_uid), raise_server_exceptions=False)


def test_a_wish_arrives_as_it_was_said(client: TestClient, plane: Plane) -> None:
    body = {
        "command": ["sh", "-c", "exit 1"],
        "env": {"A": "b"},
        "read": ["/data"],
        "resources": {"memory_bytes": 1 << 30, "cpu_permille": 1500},
        "network": "loopback",
        "retries": 2,
        "retry_codes": [75],
        "deadline_s": 60.0,
        "depends_on": [{"job": "before", "ending": "ended"}],
    }
    answer = client.put(f"{JOBS}/train", json=body)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert (told["name"], told["phase"], told["pid"], told["conditions"][0]["reason"]) == (
        "train", "pending", 7, "WaitsForTurn",
    )  # fmt: skip
    assert {name: told["spec"][name] for name in body if name != "resources"} == {
        name: value for name, value in body.items() if name != "resources"
    }
    spec = plane.jobs_now["train"].spec
    assert spec.resources == JobResources(memory_bytes=1 << 30, cpu_permille=1500)
    assert spec.depends_on == (Dependency(job="before", ending="ended"),)  # type: ignore[arg-type]
    assert (spec.command, spec.retry_codes) == (("sh", "-c", "exit 1"), (75,))


@pytest.mark.parametrize(
    "wrong",
    [
        {"command": []},
        {},
        {"command": ["x"], "retrise": 1},
        {"command": ["x"], "retries": -1},
        {"command": ["x"], "secrets": {"A": "value"}},
        {"command": ["x"], "directory": "here"},
        {"command": ["x"], "resources": {"memory_bytes": 5}},
        {"command": ["x"], "network": "internet"},
    ],
)
def test_a_wish_that_cannot_be_is_refused(wrong: dict[str, Any], client: TestClient, plane: Plane) -> None:
    assert client.put(f"{JOBS}/train", json=wrong).status_code == 400
    assert plane.jobs_now == {}


def test_they_are_listed_shown_awaited_stopped_and_removed(client: TestClient) -> None:
    for name in ("a", "b"):
        client.put(f"{JOBS}/{name}", json={"command": ["true"]})
    assert [job["name"] for job in client.get(f"{JOBS}?limit=1").json()["jobs"]] == ["b"]
    assert client.get(JOBS).json()["counts"] == {"pending": 2}
    assert client.get(f"{JOBS}/a/wait?timeout_s=0").json()["phase"] == "pending"
    assert client.get(f"{JOBS}/a/logs?tail=2&follow=true").text == "line 0\nline 1\nmore\n"
    assert client.post(f"{JOBS}/a/stop").json()["ended_by"] == "stopped"
    assert client.get(f"{JOBS}?phase=stopped").json()["jobs"][0]["name"] == "a"
    assert client.delete(f"{JOBS}/b?stop=true").json() == {"name": "b"}
    for answer in (client.get(f"{JOBS}/b"), client.delete(f"{JOBS}/b"), client.get(f"{JOBS}/b/logs")):
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "job_not_found")
    assert client.get(f"{JOBS}/a/wait?timeout_s=1000").status_code == 400


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""), ("GET", "/a"), ("PUT", "/a"), ("POST", "/a/stop"), ("DELETE", "/a"), ("GET", "/a/wait"),
        ("GET", "/a/logs"),
    ],
)  # fmt: skip
def test_no_program_is_run_for_who_comes_through_the_door(client: TestClient, method: str, path: str) -> None:
    answer = client.request(method, JOBS + path, json={"command": ["true"]}, headers={"Via": "1.1 thaloom"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")
