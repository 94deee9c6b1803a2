"""A worker that waits for what it is promised: it ends when it is told to, and leaves no seat taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from thaloom.base.errors import OutOfMemory
from thaloom.base.events import ignore
from thaloom.base.ids import ServiceName, WorkerId
from thaloom.kernel.memory.board import PAGE_BYTES, Board
from thaloom.work.runtime.kv import pool as kv_pool
from thaloom.work.runtime.spec import WorkerSpec
from thaloom.work.runtime.worker.loading import LoadingStopped


def spec(pages: Path) -> WorkerSpec:
    return WorkerSpec(
        worker=WorkerId("w-1"), service=ServiceName("s"), model="m", store="/s", socket="/s/s", pages=str(pages)
    )


def test_it_ends_when_it_is_told_to_while_it_waits_for_its_floor(tmp_path: Path) -> None:
    path, asked = tmp_path / "pages", 0
    board = Board.create(path, 10)
    other = board.join("other", floor=0)
    assert other.take(10) == 10

    def go_on() -> None:
        nonlocal asked
        asked += 1
        if asked == 2:
            raise LoadingStopped

    with pytest.raises(LoadingStopped):
        kv_pool._sit_down(spec(path), 5 * PAGE_BYTES, 5 * PAGE_BYTES, ignore, go_on)
    assert [share.owner for share in board.look().shares] == ["other"]
    board.close()


def test_a_floor_that_does_not_come_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_pool, "FLOOR_PATIENCE_S", 0.0)
    path = tmp_path / "pages"
    board = Board.create(path, 10)
    assert board.join("other", floor=0).take(10) == 10
    with pytest.raises(OutOfMemory, match="w-1 is promised 5 pages"):
        kv_pool._sit_down(spec(path), 5 * PAGE_BYTES, 5 * PAGE_BYTES, ignore, lambda: None)
    assert [share.owner for share in board.look().shares] == ["other"]
    board.close()
