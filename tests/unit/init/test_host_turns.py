"""The daemon's part of turns at the host's cores."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from thaloom.init.memory.host_turns import HostTurns
from thaloom.work.runtime.turns.file import NAME, WIDTH_AT, base_of
from thaloom.work.runtime.turns.turnstile import Turnstile


def test_the_file_is_made_and_stays_with_those_who_sit_there(tmp_path: Path) -> None:
    path = tmp_path / "turns"
    HostTurns(path, 2)
    with closing(Turnstile.open(path)) as worker:
        place = worker.join("w-1", weight=300, width=2)
        again = HostTurns(path, 4)
        assert again.seated()["w-1"].weight == 300
        assert worker.words[WIDTH_AT] == 4, "cores may have come"
        place.leave()
        assert again.seated() == {}


def test_a_damaged_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "turns"
    path.write_bytes(b"no turnstile")
    assert HostTurns(path, 2).seated() == {}
    with closing(Turnstile.open(path)) as worker:
        worker.join("w-1", weight=300, width=2).leave()


def test_nonsense_is_nobody(tmp_path: Path) -> None:
    path = tmp_path / "turns"
    turns = HostTurns(path, 2)
    with closing(Turnstile.open(path)) as worker:
        place = worker.join("w-1", weight=300, width=2)
        worker.words[base_of(0) + NAME] = -1
        assert turns.seated() == {}
        place.leave()
