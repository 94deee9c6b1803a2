"""Encrypted models through the control API: for the socket's owner, and for nobody who comes through the door."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.edge_control.plane import serving
from tests.unit.edge_control.test_control_api import raw
from thaloom.base.errors import EncryptionKeyMissing, ModelNotFound
from thaloom.edge.wire.control import PREFIX, ConvertRequest, PullRequest, RotateRequest


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Short: a socket lies in it."""
    return tmp_path_factory.mktemp("e")


def test_a_model_is_converted_either_way(home: Path) -> None:
    with serving(home) as (plane, client, _):
        made = client.convert("tiny:v1", ConvertRequest(name="sealed"), encrypted=True)
        assert (made.name, made.encrypted) == ("sealed", True)
        assert not client.convert("tiny:v1", ConvertRequest(replace=True), encrypted=False).encrypted
        assert plane.converted == [("tiny:v1", "sealed", True, False), ("tiny:v1", None, False, True)]
        with pytest.raises(ModelNotFound):
            client.convert("nothing", ConvertRequest(), encrypted=True)
        plane.has_key = False
        with pytest.raises(EncryptionKeyMissing):
            client.convert("tiny:v1", ConvertRequest(), encrypted=True)


def test_the_key_is_shown_made_and_changed(home: Path) -> None:
    with serving(home) as (plane, client, _):
        assert client.encryption().ready
        assert client.make_master_key().origin == "/home/master.key"
        assert client.rotate_master_key(RotateRequest(passphrase="words")).origin == "a passphrase"
        assert client.rotate_master_key(RotateRequest(key_file="/a/key")).origin == "/a/key"
        client.rotate_master_key(RotateRequest())
        assert plane.rotated == [("words", None), (None, "/a/key"), (None, None)]
        assert "words" not in repr(RotateRequest(passphrase="words"))


@pytest.mark.parametrize(("wish", "told"), [(None, None), (True, True), (False, False)])
def test_a_pull_may_say_whether_to_encrypt(wish: bool | None, told: bool | None, home: Path) -> None:
    with serving(home) as (plane, client, _):
        plane.gate.set()
        client.pull(PullRequest(source="/a/model", encrypt=wish))
        assert plane.encrypt is told


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/encryption/key", {}),
        ("/encryption/rotate", {}),
        ("/models/tiny/encrypt", {}),
        ("/models/tiny/decrypt", {}),
    ],
)
def test_nobody_changes_it_through_the_door(path: str, body: dict[str, object], home: Path) -> None:
    with serving(home) as (plane, _, _):
        answer = raw(home, "POST", PREFIX + path, body, via="1.1 thaloom-door")
        assert answer.status_code == 403
        assert answer.json()["error"]["code"] == "forbidden"
        assert (plane.rotated, plane.converted) == ([], [])


@pytest.mark.parametrize("wrong", [{"passphrase": ""}, {"passphrase": "x" * 1025}, {"key": "x"}, {"key_file": 5}])
def test_a_wrong_body_is_refused_by_name_and_not_echoed(wrong: dict[str, object], home: Path) -> None:
    with serving(home) as (plane, _, _):
        answer = raw(home, "POST", PREFIX + "/encryption/rotate", wrong)
        assert answer.status_code == 400
        assert "xxxx" not in answer.text
        assert plane.rotated == []
