"""Rows that several doors count in: shared, bounded, and free of the dead."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from thaloom.base.errors import StateUnusable
from thaloom.kernel.state import shared_rows
from thaloom.kernel.state.shared_rows import PLACES, ROWS, SharedRows

NEW = [1.0, 2.0, 3.0, 4.0]


def test_two_doors_see_one_row_and_count_apart(tmp_path: Path) -> None:
    with closing(SharedRows(tmp_path / "rows")) as one, closing(SharedRows(tmp_path / "rows")) as two:
        with one.turn("alice", NEW) as row:
            assert row.numbers == NEW
            row.numbers[0] = 7.0
            row.own = 3
        with two.turn("alice", NEW) as row:
            assert row.numbers[0] == 7.0
            row.own += 2
            assert sum(row.counts) == 5
        with one.turn("alice", NEW) as row:
            assert row.own == 3
            assert sum(row.counts) == 5
        with two.turn("bob", NEW) as row:
            assert row.numbers == NEW


def test_a_door_that_closes_takes_its_counts_along(tmp_path: Path) -> None:
    with closing(SharedRows(tmp_path / "rows")) as one:
        with closing(SharedRows(tmp_path / "rows")) as two, two.turn("alice", NEW) as row:
            row.own = 4
        with one.turn("alice", NEW) as row:
            assert sum(row.counts) == 0


def test_a_door_that_was_killed_is_forgotten_when_somebody_looks(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from thaloom.kernel.state.shared_rows import SharedRows\n"
        "rows = SharedRows(Path(sys.argv[1]))\n"
        "with rows.turn('alice', [1.0, 2.0, 3.0, 4.0]) as row: row.own = 9\n"
        "os.kill(os.getpid(), 9)"
    )
    with closing(SharedRows(tmp_path / "rows")) as rows:
        with rows.turn("alice", NEW) as row:
            row.own = 1
        subprocess.run([sys.executable, "-c", script, str(tmp_path / "rows")], check=False, env=os.environ)
        with rows.turn("alice", NEW) as row:
            assert sum(row.counts) == 10
            rows.forget_the_dead(row)
            assert row.counts == [1, *[0] * (PLACES - 1)]


def test_who_is_alone_begins_anew(tmp_path: Path) -> None:
    with closing(SharedRows(tmp_path / "rows")) as rows, rows.turn("alice", NEW) as row:
        row.numbers[0] = 99.0
    with closing(SharedRows(tmp_path / "rows")) as rows, rows.turn("alice", NEW) as row:
        assert row.numbers == NEW


def test_a_refusal_in_the_middle_changes_nothing(tmp_path: Path) -> None:
    with closing(SharedRows(tmp_path / "rows")) as rows:
        with pytest.raises(KeyError), rows.turn("alice", NEW) as row:
            row.own = 5
            raise KeyError
        with rows.turn("alice", NEW) as row:
            assert row.own == 0


def test_where_all_rows_are_taken_the_oldest_that_nobody_uses_makes_room(tmp_path: Path) -> None:
    with closing(SharedRows(tmp_path / "rows")) as rows:
        for number in range(ROWS):
            with rows.turn(f"key-{number}", [0.0, 0.0, 0.0, 100.0 + number]) as row:
                row.own = number == 0  # the oldest is in use
        with rows.turn("one more", [5.0, 0.0, 0.0, 1e6]) as row:
            assert row.numbers[0] == 5.0
        with rows.turn("key-0", NEW) as row:
            assert row.own == 1
        with rows.turn("key-1", [8.0, 0.0, 0.0, 1e6]) as row:
            assert row.numbers[0] == 8.0, "it was the one that made room"


def test_a_door_too_many_is_refused(tmp_path: Path) -> None:
    doors = [SharedRows(tmp_path / "rows") for _ in range(PLACES)]
    with pytest.raises(StateUnusable, match="16 doors"):
        SharedRows(tmp_path / "rows")
    doors.pop().close()
    SharedRows(tmp_path / "rows").close()
    for door in doors:
        door.close()


def test_a_door_stopped_in_the_middle_of_a_count_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_rows, "PATIENCE_S", 0.001)
    with closing(SharedRows(tmp_path / "rows")) as one, closing(SharedRows(tmp_path / "rows")) as two:
        with one.turn("alice", NEW), two.turn("alice", NEW) as row:
            row.own = 1
