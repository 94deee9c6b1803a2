import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from thaloom.base import files
from thaloom.base.errors import DiskFull
from thaloom.base.files import PARTIAL, FolderLock, atomic_writer, disk_errors, free_bytes, require_space, write_atomic


def test_a_file_appears_whole(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a", "old")
    write_atomic(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a", "old")
    with pytest.raises(RuntimeError, match="half-way"), atomic_writer(tmp_path / "a") as file:
        file.write(b"half")
        raise RuntimeError("half-way")
    assert (tmp_path / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_writer_killed_half_way_leaves_the_old_file(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a", "old")
    script = (
        "import os, signal, sys; from pathlib import Path; from thaloom.base.files import atomic_writer\n"
        "with atomic_writer(Path(sys.argv[1])) as f:\n"
        "    f.write(b'half'); f.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "a")], check=False)
    assert (tmp_path / "a").read_text() == "old"
    left = [name for name in os.listdir(tmp_path) if name != "a"]
    assert all(name.endswith(PARTIAL) for name in left)


def test_a_full_disk_is_a_typed_error_that_names_the_place(tmp_path: Path) -> None:
    with pytest.raises(DiskFull, match=str(tmp_path)) as caught, disk_errors(tmp_path / "model"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.details["free_bytes"] >= 0


def test_other_errors_of_the_disk_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), disk_errors(tmp_path):
        raise PermissionError(errno.EACCES, "no")


def test_space_is_asked_for_before_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_space(tmp_path / "not" / "there" / "yet", 1)
    monkeypatch.setattr(files, "free_bytes", lambda path: 100)
    with pytest.raises(DiskFull) as caught:
        require_space(tmp_path, 101)
    assert caught.value.details == {"needed_bytes": 101, "free_bytes": 100}


def test_free_space_of_a_path_that_does_not_exist_yet(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "x" / "y") > 0


def test_a_folder_has_one_holder(tmp_path: Path) -> None:
    first = FolderLock.take(tmp_path)
    assert first is not None
    assert FolderLock.take(tmp_path) is None
    assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"
    first.close()
    second = FolderLock.take(tmp_path)
    assert second is not None
    second.close()
