"""A disk of a program's own. Where this host cannot mount one, that is what is told."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from thaloom.base.errors import BadParameter, DiskFull, NotEnforceable
from thaloom.kernel.sandbox import disk
from thaloom.kernel.sandbox.disk import LEAST_BYTES, find_disk, is_full, is_mounted, make_disk
from thaloom.kernel.sandbox.host import NO_WALLS, find_walls


def made(folder: Path, num_bytes: int = LEAST_BYTES) -> Path:
    image = folder / "disk.img"
    make_disk(image, num_bytes)
    return image


@pytest.fixture
def image(tmp_path: Path) -> Path:
    if disk._maker() is None:
        pytest.skip("there is no mkfs.ext4 here; that this is told is tested below")
    return made(tmp_path)


def test_its_bytes_are_taken_when_it_is_made(image: Path) -> None:
    assert image.stat().st_size == LEAST_BYTES
    assert image.stat().st_blocks * 512 >= LEAST_BYTES
    assert image.stat().st_mode & 0o777 == 0o600
    assert not is_full(image)
    assert not is_mounted(image)


def test_one_of_that_size_stays_and_another_size_is_another_disk(image: Path) -> None:
    before = image.stat().st_ino
    made(image.parent, LEAST_BYTES + 1)  # as many whole blocks
    assert image.stat().st_ino == before
    made(image.parent, 2 * LEAST_BYTES)
    assert (image.stat().st_ino, image.stat().st_size) != (before, LEAST_BYTES)
    assert list(image.parent.iterdir()) == [image]


def test_what_cannot_be_made_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadParameter):
        made(tmp_path, LEAST_BYTES - 1)
    with pytest.raises(DiskFull) as caught:
        made(tmp_path, 1 << 50)
    assert caught.value.details["needed_bytes"] > 1 << 50  # the host keeps some
    monkeypatch.setattr(disk, "_MAKER", "no-such-program")
    with pytest.raises(NotEnforceable, match="no-such-program"):
        made(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_who_has_it_open_holds_its_lock(image: Path) -> None:
    with image.open("rb+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert is_mounted(image)
    assert not is_mounted(image)
    assert not is_mounted(image.parent / "gone")


@pytest.mark.parametrize(("free", "files", "full"), [(400, 5, False), (337, 5, True), (0, 5, True), (3000, 0, True)])
def test_it_is_full_when_blocks_or_files_run_out(image: Path, free: int, files: int, full: bool) -> None:
    """4096 blocks: the kernel keeps back 81, and some more never fit."""
    with image.open("rb+") as file:
        for place, value in ((0x0C, free), (0x10, files)):
            file.seek(1024 + place)
            file.write(value.to_bytes(4, "little"))
    assert is_full(image) is full


def test_what_is_no_file_system_is_not_full(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(4096))
    assert not is_full(tmp_path / "x")
    assert not is_full(tmp_path / "gone")


def test_it_is_looked_for_by_doing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = find_disk(tmp_path, find_walls())
    assert found.name == "disk"
    assert list(tmp_path.iterdir()) == []
    if found.enforced:
        monkeypatch.setattr(disk, "_MAKER", "no-such-program")
        found = find_disk(tmp_path, find_walls())
    assert found.why_not


def test_without_root_or_a_view_there_is_none(tmp_path: Path) -> None:
    assert "root" in (find_disk(tmp_path, find_walls(as_user=True)).why_not or "")
    assert "view" in (find_disk(tmp_path, NO_WALLS).why_not or "")
