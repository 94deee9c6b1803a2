from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.unit.user_cli.fake_node import FakePlane, Relay, serve_plane
from thaloom.edge.client.control import control_socket
from thaloom.user.cli import main
from thaloom.user.cli.texts import VARIABLES


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> Any:
        return json.loads(self.err)["error"]


class Shell:
    """Runs commands as a person would type them, in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *words: str) -> Run:
        self._capsys.readouterr()
        code = main(list(words))
        captured = self._capsys.readouterr()
        return Run(code=code, out=captured.out, err=captured.err)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in (*VARIABLES, "THALOOM_HOST", "THALOOM_PORT", "_THALOOM_COMPLETE", "NO_COLOR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("THALOOM_HOME", str(tmp_path / "home"))
    for variable in ("THALOOM_URL", "THALOOM_TOKEN", "THALOOM_CA", "THALOOM_FINGERPRINT"):
        monkeypatch.setenv(variable, "")  # so that what a flag writes into the environment goes with the test
    return tmp_path / "home"


@pytest.fixture
def shell(home: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    """A shell on a machine where no node runs."""
    return Shell(capsys)


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Relay, Path]]:
    relay, path = Relay(), tmp_path_factory.mktemp("node") / "control.sock"
    with serve_plane(relay, path):
        yield relay, path


@pytest.fixture
def plane(home: Path, served: tuple[Relay, Path]) -> FakePlane:
    """A node runs: it holds the models `tiny` and `chatty`, and serves the second."""
    plane = FakePlane()
    plane.add_model("tiny")
    plane.add_model("chatty", chat=True)
    plane.add_service("chatty", "chatty")
    relay, path = served
    relay.plane = plane
    control_socket(home).parent.mkdir(parents=True)
    control_socket(home).symlink_to(path)
    return plane
