"""encrypt, decrypt, key make|rotate|show, pull --encrypt, and passphrases that are no word of a command line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.unit.user_cli.conftest import Shell
from tests.unit.user_cli.fake_node import FakePlane
from thaloom.base.errors import BadParameter
from thaloom.user.cli.node import daemon_command
from thaloom.user.cli.secret import given_passphrase


def a_descriptor(words: bytes) -> int:
    reading, writing = os.pipe()
    os.write(writing, words)
    os.close(writing)
    return reading


def test_a_model_is_encrypted_and_decrypted(shell: Shell, plane: FakePlane) -> None:
    plane.add_model("tiny")
    run = shell("encrypt", "tiny", "--name", "sealed")
    assert (run.code, "sealed is encrypted" in run.out) == (0, True)
    assert shell("decrypt", "tiny", "--json").document["encrypted"] is False
    assert plane.converted == [("tiny", "sealed", True, False), ("tiny", None, False, False)]
    plane.has_key = False
    run = shell("encrypt", "tiny")
    assert run.code == 7
    assert "thaloom key make" in run.err


def test_the_key(shell: Shell, plane: FakePlane) -> None:
    run = shell("key", "make")
    assert "/home/master.key" in run.out
    assert "Keep a copy" in run.out
    assert "memfd_secret, locked" in shell("key", "show").out
    plane.has_key = False
    assert "no master key" in shell("key").out + shell("key", "show").out
    assert shell("key", "show", "--json").document["ready"] is False


def test_a_key_is_changed_for_a_file_a_passphrase_or_a_new_one(shell: Shell, plane: FakePlane, tmp_path: Path) -> None:
    descriptor = a_descriptor(b"words\n")
    assert shell("key", "rotate", "--passphrase-fd", str(descriptor)).code == 0
    assert shell("key", "rotate", "--key-file", str(tmp_path / "key")).code == 0
    assert shell("key", "rotate").code == 0
    assert plane.rotated == [("words", None), (None, str(tmp_path / "key")), (None, None)]


def test_without_a_terminal_nobody_is_asked(shell: Shell, plane: FakePlane) -> None:
    run = shell("key", "rotate", "--passphrase", "--json")
    assert run.code == 2
    assert "--passphrase-fd" in run.error["message"]
    assert plane.rotated == []


@pytest.mark.parametrize(("words", "wish"), [((), None), (("--encrypt",), True), (("--plain",), False)])
def test_a_pull_says_whether_to_encrypt(
    words: tuple[str, ...], wish: bool | None, shell: Shell, plane: FakePlane, tmp_path: Path
) -> None:
    assert shell("pull", str(tmp_path), "--name", "mine", *words).code == 0
    assert plane.asked_to_encrypt == [wish]


def test_the_daemon_is_given_a_descriptor_and_no_words(home: Path) -> None:
    assert "--passphrase-fd" not in daemon_command()
    descriptor = a_descriptor(b"words")
    assert given_passphrase(ask=False, descriptor=descriptor) == descriptor
    assert daemon_command(descriptor)[-2:] == ["--passphrase-fd", str(descriptor)]
    assert os.get_inheritable(descriptor)
    os.close(descriptor)
    assert given_passphrase(ask=False, descriptor=None) is None
    with pytest.raises(BadParameter, match="not open"):
        given_passphrase(ask=False, descriptor=999)
    with pytest.raises(BadParameter):
        given_passphrase(ask=True, descriptor=None)
