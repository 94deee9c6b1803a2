"""token create, ls, rm."""

from __future__ import annotations

import pytest

from tests.unit.user_cli.conftest import Shell
from tests.unit.user_cli.fake_node import FakePlane
from thaloom.kernel.state.types import KeyLimits


def test_a_key_is_shown_once_alone_on_standard_output(shell: Shell, plane: FakePlane) -> None:
    run = shell("token", "create", "alice", "--requests-per-minute", "60", "--model", "tiny", "--model", "chatty",
                "--priority", "low", "--expires", "30d")  # fmt: skip
    assert run.code == 0
    assert run.out == "sk-th-abcdefghijkl-secret\n", "so that it can be caught in a variable"
    assert "alice" in run.err
    assert "asks every client" in run.err
    key = plane.keys_now["alice"]
    assert key.limits == KeyLimits(requests_per_minute=60, models=("tiny", "chatty"), priority="low")
    assert key.expires_at == 1.0 + 30 * 86400
    assert shell("token", "create", "bob", "--json").document["secret"] == "sk-th-abcdefghijkl-secret"


def test_without_required_keys_it_says_so(shell: Shell, plane: FakePlane) -> None:
    plane.keys_required = False
    assert "require_keys is off" in shell("token", "create", "alice").err
    assert "require_keys is off" in shell("token", "ls").err


def test_ls(shell: Shell, plane: FakePlane) -> None:
    run = shell("token", "ls")
    assert (run.code, run.out) == (0, "")
    assert "thaloom token create" in run.err
    shell("token", "create", "alice", "--tokens-per-minute", "20000")
    run = shell("tokens", "list")
    assert "sk-th-abcdefghijkl-..." in run.out
    assert "20,000" in run.out
    assert [key["name"] for key in shell("token", "ls", "--json").document["keys"]] == ["alice"]


def test_rm(shell: Shell, plane: FakePlane) -> None:
    shell("token", "create", "alice")
    run = shell("token", "rm", "alicia", "alice")
    assert run.code == 3
    assert "alice" in run.out
    assert plane.keys_now == {}


@pytest.mark.parametrize(
    "words", [["--concurrent", "0"], ["--expires", "soon"], ["--expires", "0s"], ["--priority", "urgent"],
              ["--requests-per-minute", "many"]],
)  # fmt: skip
def test_wrong_limits_are_a_usage_error(shell: Shell, plane: FakePlane, words: list[str]) -> None:
    run = shell("token", "create", "alice", *words)
    assert run.code == 2
    assert plane.keys_now == {}


def test_a_taken_name_is_a_conflict(shell: Shell, plane: FakePlane) -> None:
    shell("token", "create", "alice")
    assert shell("token", "create", "alice").code == 4
