from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from thaloom.kernel.models import locks


def test_a_lock_file_that_cannot_be_written_can_be_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind its walls a worker sees the store's lock for reading only, and keeps deleters away all the same."""
    path = tmp_path / "lock"
    path.touch()
    opened = os.open

    def read_only(file: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_RDWR:
            raise OSError(errno.EROFS, "Read-only file system")
        return opened(file, flags, mode)

    monkeypatch.setattr(os, "open", read_only)
    lock = locks.share(path)
    monkeypatch.undo()
    assert locks.try_exclude(path) is None
    lock.close()
    alone = locks.try_exclude(path)
    assert alone is not None
    alone.close()


def test_another_reason_is_told(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    with pytest.raises(IsADirectoryError):
        locks.share(tmp_path / "lock")
