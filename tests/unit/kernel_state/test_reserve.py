from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from thaloom.base.clock import ManualClock
from thaloom.base.errors import DiskFull
from thaloom.base.events import Recorder
from thaloom.kernel.state import reserve as module
from thaloom.kernel.state.reserve import LOW_BYTES, PIECE_BYTES, PLENTY_BYTES, Reserve, ReserveOpened, ReserveWhole
from thaloom.kernel.state.store import StateStore

SIZE = 4 * PIECE_BYTES


class Disk:
    """A disk as full as a test wants it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.free = SIZE + PLENTY_BYTES
        monkeypatch.setattr(module, "free_bytes", lambda path: self.free)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def test_it_is_made_of_blocks_and_not_of_a_promise(tmp_path: Path, disk: Disk) -> None:
    reserve = Reserve(tmp_path / "reserve", num_bytes=SIZE)
    reserve.keep()
    assert reserve.held_bytes == SIZE
    assert (tmp_path / "reserve").stat().st_blocks * 512 >= SIZE
    assert (tmp_path / "reserve").stat().st_mode & 0o777 == 0o600


def test_a_hole_is_not_counted_as_held(tmp_path: Path) -> None:
    (tmp_path / "reserve").touch()
    os.truncate(tmp_path / "reserve", SIZE)
    assert Reserve(tmp_path / "reserve", num_bytes=SIZE).held_bytes == 0


def test_it_gives_up_one_piece_at_a_time_and_comes_back_with_the_room(tmp_path: Path, disk: Disk) -> None:
    events = Recorder()
    reserve = Reserve(tmp_path / "reserve", num_bytes=SIZE, emit=events)
    reserve.keep()
    disk.free = LOW_BYTES - 1
    for left in (3, 2, 1, 0, 0):
        reserve.keep()
        assert reserve.held_bytes == left * PIECE_BYTES
    (opened,) = events.of(ReserveOpened)  # told once
    assert opened.left_bytes == 3 * PIECE_BYTES
    disk.free = PLENTY_BYTES  # some room, but not enough to grow back without going round in circles
    reserve.keep()
    assert (reserve.held_bytes, events.of(ReserveWhole)) == (0, [])
    disk.free = SIZE + PLENTY_BYTES
    reserve.keep()
    assert reserve.held_bytes == SIZE
    assert len(events.of(ReserveWhole)) == 1
    disk.free = LOW_BYTES - 1
    reserve.keep()
    assert len(events.of(ReserveOpened)) == 2


def test_a_disk_without_room_for_it_has_none(tmp_path: Path, disk: Disk) -> None:
    disk.free = SIZE
    Reserve(tmp_path / "reserve", num_bytes=SIZE).keep()
    assert not (tmp_path / "reserve").exists()


def test_it_never_raises(tmp_path: Path) -> None:
    Reserve(tmp_path / "no" / "such" / "folder").keep()


def test_room_is_made_before_a_transaction_and_after_one_that_failed(tmp_path: Path, disk: Disk) -> None:
    reserve = Reserve(tmp_path / "reserve", num_bytes=SIZE)
    store = StateStore(tmp_path / "state.db", ManualClock(), reserve=reserve)
    assert reserve.held_bytes == SIZE
    disk.free = LOW_BYTES - 1
    store.journal.append("x", {})
    assert reserve.held_bytes == 3 * PIECE_BYTES
    store.close()


ON_A_SMALL_DISK = """
import os, subprocess, sys
from pathlib import Path
from thaloom.base.clock import ManualClock
from thaloom.base.errors import DiskFull
from thaloom.kernel.state import reserve as module
from thaloom.kernel.state.reserve import PIECE_BYTES, Reserve
from thaloom.kernel.state.store import StateStore

module.PLENTY_BYTES = PIECE_BYTES
folder = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "none", str(folder)], check=True)
reserve = Reserve(folder / "reserve", num_bytes=8 * PIECE_BYTES)
store = StateStore(folder / "state.db", ManualClock(), reserve=reserve)
try:
    with (folder / "hog").open("wb") as hog:
        while True:
            hog.write(b"x" * 65536)
except OSError as error:
    print(error.strerror)
for i in range(200):
    store.journal.append("x", {"i": i, "text": "y" * 1000})
assert len(store.journal.latest(1000)) == 200
assert 0 < reserve.held_bytes < 8 * PIECE_BYTES, reserve.held_bytes
(folder / "hog").unlink()
store.journal.append("x", {})
assert reserve.held_bytes == 8 * PIECE_BYTES
print("whole")
"""


def test_a_full_disk_still_takes_the_journal(tmp_path: Path) -> None:
    """A real one of 32 MiB, filled to the last byte by somebody else; mounted where nobody but the program sees it."""
    command = ["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-c", ON_A_SMALL_DISK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.split("\n") == ["No space left on device", "whole", ""], done.stderr


def test_what_needs_a_little_room_gets_a_piece_and_another_if_that_is_what_it_lacks(tmp_path: Path, disk: Disk) -> None:
    reserve = Reserve(tmp_path / "reserve", num_bytes=SIZE)
    with contextlib.closing(StateStore(tmp_path / "state.db", ManualClock(), reserve=reserve)) as store:
        disk.free = LOW_BYTES - 1
        tries = []

        def work() -> None:
            tries.append(reserve.held_bytes)
            if len(tries) < 3:
                raise DiskFull("no space left")

        store.with_room(work)
        assert tries == [SIZE, SIZE - PIECE_BYTES, SIZE - 2 * PIECE_BYTES]

        def in_vain() -> None:
            raise DiskFull("no space left")

        with pytest.raises(DiskFull):
            store.with_room(in_vain)
        assert reserve.held_bytes == 0
        disk.free = SIZE + PLENTY_BYTES
        reserve.keep()
        with pytest.raises(DiskFull):
            store.with_room(in_vain)
        assert reserve.held_bytes == SIZE, "what is lacking is something else"
