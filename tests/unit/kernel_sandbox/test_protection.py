from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.kernel_sandbox.trees import v1_host, v2_host
from thaloom.kernel.sandbox.protection import NODE_BYTES, protect_node
from thaloom.kernel.sandbox.v2 import NODE

OWN = f"/system.slice/thaloom.service/{NODE}"


def test_the_nodes_own_group_keeps_what_a_daemon_takes(tmp_path: Path) -> None:
    group = v2_host(tmp_path, own=OWN)
    (group / "memory.min").write_text("0")
    assert protect_node(tmp_path)
    assert (group / "memory.min").read_text() == str(NODE_BYTES)


def test_a_group_that_is_no_nodes_own_is_left_as_it_is(tmp_path: Path) -> None:
    group = v2_host(tmp_path)
    (group / "memory.min").write_text("0")
    assert not protect_node(tmp_path)
    assert (group / "memory.min").read_text() == "0"


def test_what_is_not_there_or_refused_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = v2_host(tmp_path / "a", own=OWN)
    assert not protect_node(tmp_path / "a")
    assert not (group / "memory.min").exists()
    (group / "memory.min").write_text("0")

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    v1_host(tmp_path / "b")
    assert not protect_node(tmp_path / "b")
    monkeypatch.setattr(Path, "write_text", refuse)
    assert not protect_node(tmp_path / "a")
