"""backup and restore, through the process that does them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.user_cli.conftest import Shell
from thaloom.base.clock import ManualClock
from thaloom.init.layout import Layout
from thaloom.kernel.state.store import StateStore


@pytest.fixture
def node_home(home: Path) -> Path:
    Layout(home).create()
    StateStore(home / "state.db", ManualClock()).close()
    return home


def test_there_and_back(node_home: Path, shell: Shell, tmp_path: Path) -> None:
    run = shell("backup", str(tmp_path / "b.tar"))
    assert (run.code, str(tmp_path / "b.tar") in run.out) == (0, True)
    refused = shell("restore", str(tmp_path / "b.tar"), "--json")
    assert refused.code == 4
    assert refused.error["code"] == "name_taken"
    run = shell("restore", str(tmp_path / "b.tar"), "--replace")
    assert run.code == 0
    assert ".before-" in run.err
    assert "no models" in run.err
    assert (
        shell("restore", str(tmp_path / "b.tar"), "--home", str(tmp_path / "new"), "--json").document["before"] is None
    )
    assert (tmp_path / "new" / "state.db").exists()


def test_refusals_are_told_as_any_other(home: Path, shell: Shell, tmp_path: Path) -> None:
    run = shell("backup", str(tmp_path / "b.tar"))
    assert run.code == 2
    assert "not the folder of a node" in run.err
    (tmp_path / "b.tar").write_text("hello")
    assert shell("restore", str(tmp_path / "b.tar"), "--json").error["code"] == "corrupt_object"
