"""The parts of the guest that need no guest: what is missing, its archive, and what is read of one that fails."""

from __future__ import annotations

import json
import os
import platform
import stat
import subprocess
from pathlib import Path

import pytest

from tests.hardware.guest.image import Archive
from tests.hardware.guest.kernel import EMULATOR, Parts, find_parts
from tests.hardware.guest.machine import boot, read_told


def program(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def on_x86(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")


@pytest.mark.usefixtures("on_x86")
def test_what_is_missing_is_told_with_the_command_that_installs_it(tmp_path: Path) -> None:
    assert find_parts((tmp_path,), path=str(tmp_path)) == f"{EMULATOR} is not here; please run: make deps-system"
    emulator = program(tmp_path / EMULATOR, "true")
    told = find_parts((tmp_path,), path=str(tmp_path))
    assert told == "no kernel vmlinuz-*-cloud-amd64 is here; please run: make deps-system"
    for age, name in enumerate(("vmlinuz-6.1-cloud-amd64", "vmlinuz-5.10-cloud-amd64")):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    assert find_parts((tmp_path,), path=str(tmp_path)) == Parts(str(emulator), tmp_path / "vmlinuz-6.1-cloud-amd64")


def test_another_architecture_has_no_guest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert find_parts() == "the guest needs the interpreter of an x86-64 host, and this one is aarch64"


def test_a_guest_that_hangs_is_ended_and_what_it_told_is_kept(tmp_path: Path) -> None:
    case = json.dumps({"case": "a", "outcome": "passed", "words": ""})
    (tmp_path / "telling").write_text(case + "\n")
    (tmp_path / "console").write_text("half")
    parts = Parts(str(program(tmp_path / "emulator", "exec sleep 1000")), tmp_path / "kernel")
    told = boot(parts, tmp_path / "image", first="/init", arguments="", folder=tmp_path, timeout_s=0.2)
    assert (told.status, told.failures()) == (None, [])
    assert list(told.cases) == ["a"]
    assert told.console == "half\nended after 0.2 s\n"


def test_a_guest_ends_with_who_waits_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    communicate = subprocess.Popen.communicate

    def interrupted(process: subprocess.Popen[bytes], timeout: float | None = None) -> tuple[bytes, bytes]:
        started.append(process)
        if timeout is not None:
            raise KeyboardInterrupt
        return communicate(process)

    monkeypatch.setattr(subprocess.Popen, "communicate", interrupted)
    parts = Parts(str(program(tmp_path / "emulator", "exec sleep 1000")), tmp_path / "kernel")
    with pytest.raises(KeyboardInterrupt):
        boot(parts, tmp_path / "image", first="/init", arguments="", folder=tmp_path, timeout_s=60.0)
    assert started[0].returncode is not None


def test_a_guest_that_never_was_tells_in_the_emulators_words(tmp_path: Path) -> None:
    parts = Parts(str(program(tmp_path / "emulator", "echo no such processor >&2; exit 1")), tmp_path / "kernel")
    told = boot(parts, tmp_path / "image", first="/init", arguments="", folder=tmp_path, timeout_s=60.0)
    assert (told.status, told.cases, told.console) == (None, {}, "no such processor\n")


def test_what_did_not_pass_is_a_failure_whatever_its_other_parts_did() -> None:
    facts = [
        {"case": "a", "outcome": "failed", "words": "why"},
        {"case": "a", "outcome": "passed", "words": ""},
        {"case": "b", "outcome": "passed", "words": ""},
        {"case": "b", "outcome": "failed", "words": "afterwards"},
        {"case": "c", "outcome": "skipped", "words": "not here"},
        {"case": "d", "outcome": "passed", "words": ""},
        {"ended": 1},
    ]
    told = read_told("".join(json.dumps(fact) + "\r\n" for fact in facts) + '{"case": "e", "outc', "")
    assert told.status == 1
    assert told.failures() == ["a: failed\nwhy", "b: failed\nafterwards", "c: skipped\nnot here"]
    assert list(told.cases) == ["a", "b", "c", "d"]


def entries(archive: bytes) -> dict[str, tuple[int, bytes]]:
    """Name -> mode and content, as a kernel unpacks them."""
    found: dict[str, tuple[int, bytes]] = {}
    at = 0
    while True:
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        mode, size, length = fields[1], fields[6], fields[11]
        name = archive[at + 110 : at + 110 + length - 1].decode()
        at = -(-(at + 110 + length) // 4) * 4
        if name == "TRAILER!!!":
            return found
        assert name not in found
        assert os.path.dirname(name) in {"", *found}, "a folder comes before what lies in it"  # noqa: PTH120
        found[name] = (mode, archive[at : at + size])
        at = -(-(at + size) // 4) * 4


def test_the_archive_holds_files_under_every_name_they_are_asked_for(tmp_path: Path) -> None:
    real = tmp_path / "usr" / "lib"
    real.mkdir(parents=True)
    (real / "library.so.1").write_bytes(b"odd")
    (real / "library.so").symlink_to("library.so.1")
    program(real / "tool", "true")
    (tmp_path / "lib").symlink_to("usr/lib")
    with (tmp_path / "archive").open("wb") as file:
        archive = Archive(file)
        for path in (tmp_path / "lib" / "library.so", real / "library.so.1", real / "tool", real / "tool"):
            archive.add(path)
        archive.end()
    root = str(tmp_path.relative_to("/"))
    found = entries((tmp_path / "archive").read_bytes())
    assert found[f"{root}/lib"] == (stat.S_IFLNK | 0o777, b"usr/lib")
    assert found[f"{root}/usr/lib/library.so"] == (stat.S_IFLNK | 0o777, b"library.so.1")
    assert found[f"{root}/usr/lib/library.so.1"][1] == b"odd"
    assert found[f"{root}/usr/lib/tool"][0] & 0o111 == 0o111
    assert stat.S_ISDIR(found[f"{root}/usr/lib"][0])
