"""The key ring opens to its master key alone, and a change of that leaves the old ring or the new one."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from thaloom.base.errors import (
    BadParameter,
    CorruptObject,
    EncryptionKeyMissing,
    EncryptionKeyWrong,
    Forbidden,
    StateUnusable,
)
from thaloom.kernel.trust import key_ring
from thaloom.kernel.trust.key_ring import make_ring, open_ring, read_ring, write_ring
from thaloom.kernel.trust.master_key import (
    MasterSecret,
    make_key_file,
    read_key_file,
    read_passphrase,
    read_passphrase_file,
)


@pytest.fixture(autouse=True)
def quick_scrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_ring, "SCRYPT_N", 16)


@pytest.fixture
def master(tmp_path: Path) -> MasterSecret:
    make_key_file(tmp_path / "master.key")
    return read_key_file(tmp_path / "master.key")


@pytest.fixture
def ring(tmp_path: Path) -> Path:
    return tmp_path / "models" / "keyring.json"


def passphrase(words: bytes) -> MasterSecret:
    reading, writing = os.pipe()
    os.write(writing, words)
    os.close(writing)
    try:
        return read_passphrase(reading, "a pipe")
    finally:
        os.close(reading)


def opened(ring: Path, master: MasterSecret) -> bytes:
    found = read_ring(ring)
    assert found is not None
    key = open_ring(found, master)
    return bytes(key.secret)


def test_a_ring_opens_with_its_key_and_no_other(ring: Path, master: MasterSecret, tmp_path: Path) -> None:
    made = make_ring(ring, master)
    assert opened(ring, master) == bytes(made.secret)
    assert stat.S_IMODE(ring.stat().st_mode) & 0o022 == 0
    assert bytes(made.secret).hex() not in ring.read_text()
    make_key_file(tmp_path / "other.key")
    with pytest.raises(EncryptionKeyWrong, match=r"other\.key"):
        opened(ring, read_key_file(tmp_path / "other.key"))


def test_a_passphrase_opens_it_too(ring: Path) -> None:
    made = make_ring(ring, passphrase(b"correct horse\n"))
    assert opened(ring, passphrase(b"correct horse")) == bytes(made.secret)
    with pytest.raises(EncryptionKeyWrong):
        opened(ring, passphrase(b"correct Horse"))


def test_the_wrong_kind_of_secret_is_named(ring: Path, master: MasterSecret) -> None:
    make_ring(ring, passphrase(b"words"))
    with pytest.raises(EncryptionKeyWrong, match="passphrase"):
        opened(ring, master)


def test_wrapping_anew_keeps_the_stores_key(ring: Path, master: MasterSecret) -> None:
    made = make_ring(ring, master)
    secret = bytes(made.secret)
    write_ring(ring, made, passphrase(b"words"))
    assert opened(ring, passphrase(b"words")) == secret
    with pytest.raises(EncryptionKeyWrong):
        opened(ring, master)


@pytest.mark.parametrize("field", ["id", "nonce", "wrapped"])
def test_a_changed_ring_is_damaged_and_not_a_wrong_key(field: str, ring: Path, master: MasterSecret) -> None:
    make_ring(ring, master)
    data = json.loads(ring.read_text())
    data[field] = ("0" if data[field][0] != "0" else "1") + data[field][1:]
    ring.write_text(json.dumps(data))
    with pytest.raises(CorruptObject):
        opened(ring, master)


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "not json", '{"version": 1}', '{"version": 1, "id": 5}', "[" * 100_000]
)
def test_what_is_no_ring_is_refused(text: str, ring: Path) -> None:
    ring.parent.mkdir()
    ring.write_text(text)
    with pytest.raises(CorruptObject, match="backup"):
        read_ring(ring)


def test_a_ring_that_asks_for_all_memory_is_refused(ring: Path) -> None:
    make_ring(ring, passphrase(b"words"))
    data = json.loads(ring.read_text())
    data["master"]["n"] = 1 << 30
    ring.write_text(json.dumps(data))
    with pytest.raises(CorruptObject):
        read_ring(ring)


def test_a_newer_ring_is_named(ring: Path, master: MasterSecret) -> None:
    make_ring(ring, master)
    ring.write_text(json.dumps(json.loads(ring.read_text()) | {"version": 2}))
    with pytest.raises(StateUnusable, match="version 2"):
        read_ring(ring)


def test_no_ring_is_none(ring: Path) -> None:
    assert read_ring(ring) is None


# -- the master key --------------------------------------------------------------------------------------------------


def test_a_key_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    make_key_file(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(path.read_bytes()) == 32
    for mode in (0o640, 0o604, 0o660):
        path.chmod(mode)
        with pytest.raises(Forbidden, match="chmod 600"):
            read_key_file(path)


def test_a_key_is_never_made_over_another(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    make_key_file(path)
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        make_key_file(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["master.key"]


@pytest.mark.parametrize("num_bytes", [0, 31, 33, 64])
def test_a_file_of_another_length_is_no_key(num_bytes: int, tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    path.write_bytes(bytes(num_bytes))
    path.chmod(0o600)
    with pytest.raises(BadParameter, match=f"{num_bytes} bytes"):
        read_key_file(path)


def test_what_is_not_there_or_no_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(EncryptionKeyMissing, match="nowhere"):
        read_key_file(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(BadParameter, match="ordinary"):
        read_key_file(tmp_path / "pipe")
    with pytest.raises(BadParameter, match="ordinary"):
        read_key_file(tmp_path)


@pytest.mark.parametrize("words", [b"", b"\n", b"x" * 1025])
def test_what_is_no_passphrase_is_refused(words: bytes) -> None:
    with pytest.raises(BadParameter, match="passphrase"):
        passphrase(words)


def test_a_passphrase_ends_with_its_line(tmp_path: Path) -> None:
    assert bytes(passphrase(b"one two\r\nthree").view) == b"one two"
    assert bytes(passphrase(b"x" * 1024).view) == b"x" * 1024
    (tmp_path / "words").write_bytes(b"from a file\n")
    (tmp_path / "words").chmod(0o400)
    assert bytes(read_passphrase_file(tmp_path / "words").view) == b"from a file"
