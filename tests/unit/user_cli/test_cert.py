"""cert make|show|renew|import, and commands that are asked of a node far away."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.user_cli.conftest import Shell
from tests.unit.user_cli.fake_node import FakePlane

PIN = "ab" * 32


def test_a_certificate_is_made_renewed_and_shown(shell: Shell, plane: FakePlane) -> None:
    run = shell("cert", "make", "--name", "gpu", "--name", "10.0.0.1", "--days", "7")
    assert (run.code, run.out.splitlines()[0]) == (0, PIN), "for a script: the fingerprint first"
    assert "THALOOM_FINGERPRINT" in run.err
    assert shell("cert", "renew").code == 0
    assert plane.asked_for == [("make", ["gpu", "10.0.0.1"], 7), ("renew", None, 365)]
    shown = shell("cert", "show")
    assert PIN in shown.out
    assert "node, 10.0.0.1" in shown.out
    assert shell("cert", "show", "--pem").out.startswith("-----BEGIN CERTIFICATE")
    assert shell("cert", "show", "--json").document["fingerprint"] == PIN


def test_files_are_given_by_absolute_paths(shell: Shell, plane: FakePlane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/tmp")
    assert shell("cert", "import", "node.crt", "/etc/node.key").code == 0
    assert shell("cert", "import", "both.pem").code == 0
    assert plane.asked_for == [("import", "/tmp/node.crt", "/etc/node.key"), ("import", "/tmp/both.pem", None)]


def test_a_wrong_lifetime_is_refused(shell: Shell, plane: FakePlane) -> None:
    assert shell("cert", "make", "--days", "0").code == 2
    assert plane.asked_for == []


@pytest.mark.parametrize(
    "words",
    [
        ("up",),
        ("down",),
        ("backup", "somewhere"),
        ("restore", "somewhere"),
        ("doctor", "host"),
        ("logs", "door"),
        ("logs", "daemon"),
        ("cert", "import", "a.pem"),
        ("pull", "/"),
        ("quantize", "tiny", "--to", "int8", "--text", "/etc/passwd"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_done_from_afar_says_so(
    words: tuple[str, ...], shell: Shell, plane: FakePlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THALOOM_URL", "https://gpu.example.org:7411")
    run = shell(*words, "--json")
    assert (run.code, run.error["code"]) == (2, "not_from_afar"), run.err
    assert words[0] in run.error["message"]
    assert "https://gpu.example.org:7411" in run.error["message"]


def test_a_node_that_is_not_there_is_not_started(shell: Shell, plane: FakePlane, tmp_path: Path) -> None:
    for words in (("ps",), ("run", "tiny", "hello"), ("status",)):
        run = shell(*words, "--node", "https://127.0.0.1:9", "--json")
        assert (run.code, run.error["code"]) == (5, "node_not_running"), words
        assert "https://127.0.0.1:9" in run.error["message"]


def test_a_wrong_place_is_refused(shell: Shell, plane: FakePlane, monkeypatch: pytest.MonkeyPatch) -> None:
    for url in ("gpu", "http:/gpu", "https://"):
        run = shell("ps", "--node", url, "--json")
        assert (run.code, run.error["code"]) == (2, "bad_parameter"), url
    monkeypatch.setenv("THALOOM_TOKEN", "sk-secret")
    run = shell("ps", "--node", "http://gpu.example.org:7411", "--json")
    assert (run.code, run.error["param"]) == (2, "THALOOM_URL")
    assert "everybody" in run.error["message"]
