"""Where the master key is looked for, and that changing it leaves the old one or the new one, wherever it is killed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.killing import killed_at
from thaloom.base.errors import (
    CorruptObject,
    EncryptionKeyMissing,
    EncryptionKeyWrong,
    Forbidden,
    NameTaken,
    WrongState,
)
from thaloom.base.events import Degraded, Recorder
from thaloom.init.access import vault as module
from thaloom.init.access.vault import Vault, secret_from
from thaloom.init.layout import Layout
from thaloom.kernel.trust import key_ring
from thaloom.kernel.trust.master_key import MasterSecret, make_key_file


@pytest.fixture(autouse=True)
def in_a_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_ring, "SCRYPT_N", 16)
    monkeypatch.setattr(module, "shield_process", lambda: None)  # pytest is not to be shielded


@pytest.fixture
def layout(short_path: Path) -> Layout:
    made = Layout(short_path / "home")
    made.create()
    return made


def a_vault(
    layout: Layout,
    *,
    key_file: str = "",
    passphrase: MasterSecret | None = None,
    encrypted: bool = False,
    credentials: Path | None = None,
    emit: Recorder | None = None,
    step: Callable[[str], None] = lambda _: None,
) -> Vault:
    made = Vault(
        layout,
        key_file=key_file,
        passphrase=passphrase,
        has_encrypted=lambda: encrypted,
        environment={} if credentials is None else {"CREDENTIALS_DIRECTORY": str(credentials)},
        emit=emit or Recorder(),
        step=step,
    )
    made.open()
    return made


def secret(vault: Vault) -> bytes:
    return bytes(vault().secret)


def test_without_a_key_it_says_where_one_may_be_and_makes_no_ring(layout: Layout) -> None:
    vault = a_vault(layout)
    with pytest.raises(EncryptionKeyMissing, match="thaloom key make"):
        vault()
    assert vault.for_child() == ({}, ())
    assert not vault.status().ready
    assert not layout.key_ring.exists()


def test_a_key_that_is_made_opens_from_then_on(layout: Layout) -> None:
    vault = a_vault(layout)
    assert vault.make() == str(layout.master_key)
    assert vault.status().ready
    assert vault.status().origin == str(layout.master_key)
    assert secret(a_vault(layout)) == secret(vault)
    variables, descriptors = vault.for_child()
    assert list(variables.values()) == [str(descriptors[0])]
    with pytest.raises(NameTaken):
        vault.make()


def test_the_first_place_that_is_there_decides(layout: Layout, tmp_path: Path) -> None:
    own = tmp_path / "own.key"
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    for path in (own, layout.master_key, credentials / "thaloom.master-key"):
        make_key_file(path)
    words = secret_from("words", None)
    for options, origin in (
        ({"key_file": str(own), "credentials": credentials, "passphrase": words}, str(own)),
        ({"credentials": credentials, "passphrase": words}, str(credentials / "thaloom.master-key")),
        ({"passphrase": words}, "a passphrase"),
        ({}, str(layout.master_key)),
    ):
        layout.key_ring.unlink(missing_ok=True)
        assert a_vault(layout, **options).status().origin == origin  # type: ignore[arg-type]


def test_a_passphrase_may_be_a_credential(layout: Layout, tmp_path: Path) -> None:
    (tmp_path / "thaloom.passphrase").write_text("words\n")
    (tmp_path / "thaloom.passphrase").chmod(0o400)
    first = secret(a_vault(layout, credentials=tmp_path))
    assert secret(a_vault(layout, passphrase=secret_from("words", None))) == first


@pytest.mark.parametrize(
    ("harm", "error"),
    [("open to others", Forbidden), ("another key", EncryptionKeyWrong), ("gone", EncryptionKeyMissing)],
)
def test_a_key_that_does_not_open_is_told_and_stops_no_node(
    harm: str, error: type[Exception], layout: Layout, tmp_path: Path
) -> None:
    a_vault(layout).make()
    if harm == "open to others":
        layout.master_key.chmod(0o644)
    else:
        layout.master_key.unlink()
        if harm == "another key":
            make_key_file(layout.master_key)
    events = Recorder()
    vault = a_vault(layout, emit=events)
    with pytest.raises(error):
        vault()
    assert [event.subject for event in events.of(Degraded)] == ["encryption"]
    assert vault.status().problem


def test_a_lost_ring_is_not_made_anew_where_models_need_the_old_one(layout: Layout) -> None:
    make_key_file(layout.master_key)
    with pytest.raises(CorruptObject, match="backup"):
        a_vault(layout, encrypted=True)()
    assert not layout.key_ring.exists()


def test_no_key_is_made_where_there_is_a_ring_or_another_is_told_of(layout: Layout, tmp_path: Path) -> None:
    with pytest.raises(WrongState):
        a_vault(layout, key_file=str(tmp_path / "nowhere")).make()
    a_vault(layout).make()
    layout.master_key.unlink()
    with pytest.raises(EncryptionKeyMissing, match="put its master key back"):
        a_vault(layout).make()


# -- changing it -----------------------------------------------------------------------------------------------------


def test_a_new_key_takes_the_place_of_the_file(layout: Layout) -> None:
    vault = a_vault(layout)
    vault.make()
    before, key = layout.master_key.read_bytes(), secret(vault)
    assert vault.rotate(None) == str(layout.master_key)
    assert layout.master_key.read_bytes() != before
    assert secret(a_vault(layout)) == key, "nothing is sealed anew"
    assert sorted(path.name for path in layout.home.glob("master.key*")) == ["master.key"]


def test_a_key_may_become_a_passphrase_or_another_file(layout: Layout, tmp_path: Path) -> None:
    vault = a_vault(layout)
    vault.make()
    key = secret(vault)
    vault.rotate(secret_from("words", None))
    with pytest.raises(EncryptionKeyWrong):
        a_vault(layout)()
    worded = a_vault(layout, passphrase=secret_from("words", None))
    assert secret(worded) == key
    with pytest.raises(WrongState, match="--key-file"):
        worded.rotate(None)
    make_key_file(tmp_path / "next.key")
    assert worded.rotate(secret_from(None, str(tmp_path / "next.key"))) == str(tmp_path / "next.key")
    assert secret(a_vault(layout, key_file=str(tmp_path / "next.key"))) == key


def test_a_change_needs_the_old_key(layout: Layout) -> None:
    with pytest.raises(EncryptionKeyMissing):
        a_vault(layout).rotate(secret_from("words", None))


def test_a_kill_at_any_point_of_a_change_leaves_a_key_that_opens(layout: Layout) -> None:
    """Every step of it, by name; the next start opens the ring and tidies up."""
    vault = a_vault(layout)
    vault.make()
    key = secret(vault)
    points: list[str] = []
    while (name := killed_at(len(points), lambda step: a_vault(layout, step=step).rotate(None))) is not None:
        assert secret(a_vault(layout)) == key, f"killed at {name!r}"
        assert sorted(path.name for path in layout.home.glob("master.key*")) == ["master.key"]
        points.append(name)
    assert secret(a_vault(layout)) == key
    assert points == ["begin", "made", "wrapped", "end"]
