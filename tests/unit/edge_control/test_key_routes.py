"""Keys through the control API: made, listed, removed; by the socket's owner and nobody who comes through the door."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.edge_control.plane import serving
from tests.unit.edge_control.test_control_api import raw
from thaloom.base.errors import KeyNotFound, NameTaken
from thaloom.edge.wire.control import PREFIX, KeyRequest


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Short: a socket lies in it."""
    return tmp_path_factory.mktemp("k")


def test_a_key_is_made_listed_and_removed(home: Path) -> None:
    with serving(home) as (_, client, _):
        request = KeyRequest(
            name="alice", requests_per_minute=5, concurrent=2, models=["tiny"], priority="high", expires_in_s=9.0
        )
        made = client.make_key(request)
        assert made.secret.startswith("sk-th-")
        assert made.key.limits.model_dump() == {
            "requests_per_minute": 5,
            "tokens_per_minute": None,
            "concurrent": 2,
            "models": ["tiny"],
            "priority": "high",
        }
        assert made.key.expires_at == 10.0
        found = client.keys()
        assert (found.keys, found.required) == ([made.key], True)
        assert made.secret not in found.model_dump_json()
        assert "digest" not in found.model_dump_json()
        with pytest.raises(NameTaken):
            client.make_key(KeyRequest(name="alice"))
        assert client.remove_key("alice").name == "alice"
        with pytest.raises(KeyNotFound):
            client.remove_key("alice")
        assert client.keys().keys == []


@pytest.mark.parametrize(
    "wrong", [{"concurrent": 0}, {"models": []}, {"models": [""]}, {"priority": "urgent"}, {"name": ""}, {"rpm": 1},
              {"expires_in_s": 0}, {"requests_per_minute": True}],
)  # fmt: skip
def test_wrong_limits_are_refused_by_name(home: Path, wrong: dict[str, object]) -> None:
    with serving(home) as (plane, _, _):
        answer = raw(home, "POST", PREFIX + "/keys", {"name": "alice"} | wrong)
        assert answer.status_code == 400
        assert answer.json()["error"]["param"].startswith(next(iter(wrong)))
        assert plane.keys_now == {}


def test_nothing_of_keys_is_served_to_who_comes_through_the_door(home: Path) -> None:
    with serving(home) as (plane, client, _):
        client.make_key(KeyRequest(name="alice"))
        for method, path, body in (
            ("GET", "/keys", None),
            ("POST", "/keys", {"name": "mallory"}),
            ("DELETE", "/keys/alice", None),
        ):
            answer = raw(home, method, PREFIX + path, body, Via="1.1 thaloom-door")
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")
        assert list(plane.keys_now) == ["alice"]
