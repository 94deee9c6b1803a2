from __future__ import annotations

import os

import pytest

from tests.unit.user_cli.conftest import Shell
from thaloom.base.errors import InternalError
from thaloom.kernel.sandbox.grouping import LIMITS
from thaloom.kernel.sandbox.types import WALLS
from thaloom.user.cli import doctor
from thaloom.user.cli.texts import has_text


def test_a_machine_without_a_node_is_told_as_such(shell: Shell) -> None:
    done = shell("doctor", "host")
    assert (done.code, done.err) == (0, "")
    assert "No node runs here" in done.out
    assert "memory bandwidth" in done.out
    for word in ("WALL", "LIMIT", "LATENCY", "THIS HOST"):
        assert word in done.out


def test_a_program_gets_every_wall_and_limit(shell: Shell) -> None:
    document = shell("doctor", "host", "--json").document
    names = {(entry["kind"], entry["name"]) for entry in document["entries"]}
    assert {("wall", name) for name in WALLS} | {("limit", name) for name in LIMITS} <= names
    for entry in document["entries"]:
        assert (entry["by"] is None) == (not entry["enforced"])
        assert has_text(f"doctor.name.{entry['name']}"), entry["name"]


def test_the_node_that_runs_is_the_one_whose_group_counts(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_node_pid", os.getpid)
    done = shell("doctor", "host")
    assert f"process {os.getpid()}" in done.out
    assert shell("doctor", "host", "--json").document["node_pid"] == os.getpid()
    monkeypatch.setattr(doctor, "_node_pid", lambda: 999999999)  # it has ended meanwhile
    assert shell("doctor", "host", "--json").document["node_pid"] is None


def test_in_chinese(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THALOOM_LANG", "zh")
    assert "内存带宽" in shell("doctor", "host").out


def test_a_look_that_breaks_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.sys, "executable", "/bin/false")
    with pytest.raises(InternalError, match="could not be looked at"):
        doctor._look(None)
