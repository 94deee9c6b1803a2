"""Clearing away after a process: all of it, and beside the event loop."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from thaloom.base.ids import WorkerId
from thaloom.init.layout import Layout
from thaloom.init.walls import leftovers
from thaloom.init.walls.confining import Confiner
from thaloom.init.walls.leftovers import clear_away

W = WorkerId("w-1")


@pytest.mark.parametrize("refusals", [0, 3, 1000])
def test_what_is_left_is_removed_by_another_thread_once_the_group_is_gone_or_was_tried_long(
    short_path: Path, monkeypatch: pytest.MonkeyPatch, refusals: int
) -> None:
    layout = Layout(short_path / "h")
    layout.create()
    tier = layout.worker_tier(W)
    tier.mkdir(parents=True)
    (tier / "block").write_bytes(b"x")
    layout.worker_spec(W).write_text("{}")
    threads: list[int] = []
    answers = iter([False] * refusals + [True])
    removed = leftovers.remove_leftovers

    def remove(layout: Layout, process: WorkerId) -> None:
        threads.append(threading.get_ident())
        removed(layout, process)

    monkeypatch.setattr(leftovers, "remove_leftovers", remove)
    monkeypatch.setattr(leftovers, "_CLEARING_S", 0.0)
    confiner = cast(Confiner, SimpleNamespace(release=lambda _: next(answers)))
    asyncio.run(clear_away(layout, confiner, W))
    assert threads
    assert threading.get_ident() not in threads
    assert list(layout.workers.iterdir()) == []
