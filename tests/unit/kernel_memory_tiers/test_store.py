from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from thaloom.base.clock import ManualClock
from thaloom.base.errors import StateUnusable
from thaloom.base.events import Recorder
from thaloom.kernel.memory.tiers import disk as disk_module
from thaloom.kernel.memory.tiers import moving
from thaloom.kernel.memory.tiers import store as store_module
from thaloom.kernel.memory.tiers.disk import DiskFolder
from thaloom.kernel.memory.tiers.events import DiskTierShort, TierObjectLost
from thaloom.kernel.memory.tiers.moving import RETRY_S
from thaloom.kernel.memory.tiers.store import TieredStore
from thaloom.kernel.memory.tiers.types import UNIT_BYTES, Held, StoredFile

LONG_S = 30.0
Make = Callable[..., TieredStore]


@pytest.fixture(autouse=True)
def room_on_this_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_module, "LEFT_FREE_BYTES", 0)


@pytest.fixture
def told() -> Recorder:
    return Recorder()


class Clock(ManualClock):
    def pass_by(self, seconds: float) -> None:
        self._now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make(tmp_path: Path, told: Recorder, clock: Clock) -> Iterator[Make]:
    made: list[TieredStore] = []

    def store(*, host: int = 8, disk: int = 8) -> TieredStore:
        """Bounds in units; an object of `data` takes one."""
        folder = tmp_path / f"tier{len(made)}"
        bounds = {"host_bytes": host * UNIT_BYTES, "disk_bytes": disk * UNIT_BYTES}
        made.append(TieredStore(disk=folder, emit=told, clock=clock, **bounds))
        return made[-1]

    yield store
    for each in made:
        each.close()


def data(number: int, *, units: int = 1) -> bytes:
    return bytes((number * 7 + i) % 251 for i in range(units * UNIT_BYTES - number))


def read(store: TieredStore, key: bytes, num_bytes: int) -> bytes | None:
    into = bytearray(num_bytes)
    return bytes(into) if store.read(key, memoryview(into)) else None


def fill(store: TieredStore, count: int) -> list[bytes]:
    """Objects 0 ... of one unit each, as they were put; nothing is on its way any more."""
    for number in range(count):
        assert store.put(b"%d" % number, data(number))
        assert store.settle(LONG_S)
        store.check()
    return [data(number) for number in range(count)]


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.tier"))


def test_what_was_put_is_read(make: Make) -> None:
    store = make()
    assert store.put(b"key", data(3))
    assert store.where(b"key") == "host"
    assert read(store, b"key", len(data(3))) == data(3)
    assert read(store, b"other", 1) is None
    assert store.where(b"other") is None


def test_it_is_a_copy(make: Make) -> None:
    store, mine = make(), bytearray(b"before")
    store.put(b"key", mine)
    mine[:] = b"after."
    assert read(store, b"key", 6) == b"before"


def test_what_is_put_again_takes_the_place_of_what_was(make: Make) -> None:
    store = make()
    store.put(b"key", b"one")
    store.put(b"key", b"two!")
    assert read(store, b"key", 4) == b"two!"
    assert store.held().host_objects == 1


def test_the_oldest_lie_on_disk_where_memory_is_short(make: Make) -> None:
    store = make(host=8, disk=20)
    put = fill(store, 20)
    held = store.held()
    assert held.host_bytes <= 8 * UNIT_BYTES
    assert (held.host_objects, held.disk_objects) == (7, 13)
    assert store.where(b"0") == "disk"
    assert store.where(b"19") == "host"
    assert [read(store, b"%d" % i, len(each)) for i, each in enumerate(put)] == put


def test_what_leaves_the_lowest_tier_is_gone(make: Make) -> None:
    store = make(host=8, disk=4)
    put = fill(store, 20)
    found = [read(store, b"%d" % i, len(each)) for i, each in enumerate(put)]
    assert found == [None] * 9 + put[9:]
    assert store.held().disk_objects == 4


def test_what_is_worth_more_stays(make: Make) -> None:
    store = make(host=4, disk=0)
    assert all(store.put(b"dear%d" % i, b"x", worth=2.0) for i in range(4))
    assert not store.put(b"cheap", b"x", worth=1.0)
    assert store.where(b"cheap") is None
    assert store.put(b"dearer", b"x", worth=3.0)
    assert store.where(b"dear0") is None
    assert store.where(b"dear1") == "host"


def test_a_refused_put_leaves_nothing_of_what_the_key_had(make: Make) -> None:
    store = make(host=4, disk=0)
    store.put(b"key", b"old", worth=1.0)
    assert not store.put(b"key", bytes(5 * UNIT_BYTES), worth=9.0)
    assert store.where(b"key") is None
    store.check()


def test_what_is_to_be_kept_is_never_given_up(make: Make) -> None:
    store = make(host=8, disk=4)
    for number in range(12):
        assert store.put(b"%d" % number, b"x", keep=True, wait_s=LONG_S)
    assert not store.put(b"12", b"x", worth=9.0, wait_s=LONG_S)
    store.check()
    assert [read(store, b"%d" % number, 1) for number in range(12)] == [b"x"] * 12


def test_who_may_wait_gets_the_room_that_the_disk_makes(make: Make) -> None:
    store = make(host=8, disk=40)
    for number in range(12):
        assert store.put(b"%d" % number, data(number, units=3), keep=True, wait_s=LONG_S)
        store.check()
    assert [read(store, b"%d" % i, len(data(i, units=3))) for i in range(12)] == [data(i, units=3) for i in range(12)]


def test_an_object_larger_than_host_memory_is_refused(make: Make) -> None:
    store = make(host=2, disk=100)
    assert store.put(b"fits", bytes(UNIT_BYTES))
    assert not store.put(b"large", bytes(3 * UNIT_BYTES), wait_s=LONG_S)
    assert store.settle(LONG_S)
    assert store.where(b"fits") == "host"  # nobody was moved for it
    assert store.put(b"fits", bytes(2 * UNIT_BYTES))


def test_an_object_larger_than_the_disk_tier_stays_in_memory(make: Make) -> None:
    store = make(host=8, disk=2)
    store.put(b"large", data(0, units=3))
    store.put(b"more", data(1, units=5))
    assert store.settle(LONG_S)
    assert store.where(b"large") == "host"
    assert store.held().disk_objects == 0


def test_prefetch_brings_up_what_lies_on_disk(make: Make) -> None:
    store = make(host=8, disk=20)
    put = fill(store, 20)
    store.prefetch([b"0", b"1", b"unknown", b"19"])
    assert store.settle(LONG_S)
    assert [store.where(b"%d" % i) for i in (0, 1, 2, 19)] == ["host", "host", "disk", "host"]
    assert [read(store, b"%d" % i, len(each)) for i, each in enumerate(put)] == put
    store.check()


def test_prefetch_without_room_costs_nobody_his(make: Make) -> None:
    store = make(host=4, disk=4)
    fill(store, 7)
    for number in range(7):
        store.prefetch([b"%d" % number])
    assert store.settle(LONG_S)
    assert all(store.where(b"%d" % number) for number in range(7))
    store.check()


def test_a_read_waits_for_what_is_on_its_way(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slowly(folder: DiskFolder, stored: StoredFile, into: memoryview) -> None:
        begun.set()
        assert go_on.wait(LONG_S)
        as_ever(folder, stored, into)

    as_ever = DiskFolder.read
    store = make(host=8, disk=20)
    put = fill(store, 20)
    monkeypatch.setattr(DiskFolder, "read", slowly)
    store.prefetch([b"0"])
    assert begun.wait(LONG_S)
    store.check()
    got: list[bytes | None] = []
    reader = threading.Thread(target=lambda: got.append(read(store, b"0", len(put[0]))))
    reader.start()
    go_on.set()
    reader.join(LONG_S)
    assert got == [put[0]]


class HangingDisk:
    """Reads and writes hang from now on, until `go_on` is set."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.num_read = 0
        read, write = DiskFolder.read, DiskFolder.write

        def read_slowly(folder: DiskFolder, stored: StoredFile, into: memoryview) -> None:
            self.num_read += 1
            self._hang()
            read(folder, stored, into)

        def write_slowly(folder: DiskFolder, room: memoryview, num_bytes: int) -> StoredFile:
            self._hang()
            return write(folder, room, num_bytes)

        patch.setattr(DiskFolder, "read", read_slowly)
        patch.setattr(DiskFolder, "write", write_slowly)

    def heal(self) -> None:
        """Nobody hangs there any more."""
        self.go_on.set()
        for thread in threading.enumerate():
            if thread.name.startswith("tiers: read"):
                thread.join(LONG_S)

    def _hang(self) -> None:
        self.begun.set()
        assert self.go_on.wait(LONG_S)


@pytest.mark.parametrize("is_on_its_way", [False, True])
def test_nobody_waits_for_ever_for_a_disk_that_hangs(
    make: Make, monkeypatch: pytest.MonkeyPatch, is_on_its_way: bool
) -> None:
    store = make(host=8, disk=20)
    put = fill(store, 20)
    hanging = HangingDisk(monkeypatch)
    if is_on_its_way:
        store.prefetch([b"0"])
        assert hanging.begun.wait(LONG_S)
    into = memoryview(bytearray(len(put[0])))
    assert not store.read(b"0", into, wait_s=0.01)
    assert store.where(b"0") == "disk", "it is not lost"
    store.check()
    hanging.heal()
    assert store.settle(LONG_S)
    assert read(store, b"0", len(put[0])) == put[0]


def test_while_one_hangs_at_the_disk_nobody_follows_him(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make(host=8, disk=20)
    put = fill(store, 20)
    hanging = HangingDisk(monkeypatch)
    assert not store.read(b"0", memoryview(bytearray(len(put[0]))), wait_s=0.01)
    assert read(store, b"1", len(put[1])) is None
    assert hanging.num_read == 1
    hanging.heal()


def test_a_store_on_a_disk_that_hangs_can_be_closed(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(moving, "END_WAIT_S", 0.01)
    store = make(host=2, disk=20)
    hanging = HangingDisk(monkeypatch)
    store.put(b"0", data(0, units=2))
    assert hanging.begun.wait(LONG_S)
    thread = next(each for each in threading.enumerate() if each.name == "tiers")
    store.close()
    with pytest.raises(StateUnusable, match="in use"):
        DiskFolder(tmp_path / "tier0")
    hanging.heal()
    thread.join(LONG_S)
    DiskFolder(tmp_path / "tier0").close()


def test_dropping_gives_back_memory_and_disk(make: Make, tmp_path: Path) -> None:
    store = make(host=8, disk=20)
    fill(store, 20)
    for number in range(20):
        store.drop(b"%d" % number)
    store.drop(b"unknown")
    assert store.settle(LONG_S)
    store.check()
    assert store.held() == Held(host_bytes=0, host_objects=0, disk_bytes=0, disk_objects=0)
    assert files(tmp_path / "tier0") == []


def test_what_is_dropped_while_it_is_written_takes_nothing(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make(host=2, disk=20)

    def dropped_meanwhile(folder: DiskFolder, room: memoryview, num_bytes: int) -> StoredFile:
        store.drop(b"0")
        store.check()
        return as_ever(folder, room, num_bytes)

    as_ever = DiskFolder.write
    monkeypatch.setattr(DiskFolder, "write", dropped_meanwhile)
    store.put(b"0", data(0, units=2))
    assert store.settle(LONG_S)
    store.check()
    assert store.held().host_bytes == store.held().disk_bytes == 0


def test_any_address_can_be_read_to(make: Make) -> None:
    store = make(host=8, disk=20)
    put = fill(store, 20)
    into = memoryview(bytearray(2 * UNIT_BYTES))
    for shift in (1, 8, 64):
        assert store.read(b"0", into[shift : shift + len(put[0])])
        assert into[shift : shift + len(put[0])] == put[0]


def test_a_file_system_that_does_not_read_past_the_cache(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(path: Path, flags: int, mode: int = 0) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "no")
        return as_ever(path, flags, mode)

    as_ever = os.open
    monkeypatch.setattr(disk_module.os, "open", refusing)
    store = make(host=8, disk=20)
    put = fill(store, 20)
    assert [read(store, b"%d" % i, len(each)) for i, each in enumerate(put)] == put


@pytest.mark.parametrize("half_way", [False, True])
def test_a_full_disk_is_told_once_and_the_tier_goes_on_with_less(
    make: Make, told: Recorder, clock: Clock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, half_way: bool
) -> None:
    def full(file: int, piece: memoryview, offset: int) -> int:
        if not half_way or offset:
            raise OSError(errno.ENOSPC, "no space")
        return as_ever(file, piece[: UNIT_BYTES // 2], offset)

    as_ever = os.pwrite
    store = make(host=8, disk=20)
    put = fill(store, 10)
    with monkeypatch.context() as patch:
        patch.setattr(disk_module.os, "pwrite", full)
        for number in range(10, 20):
            assert store.put(b"%d" % number, data(number))
            assert store.settle(LONG_S)
            store.check()
            clock.pass_by(RETRY_S / 2)
        assert len(told.of(DiskTierShort)) == 1
        assert len(files(tmp_path / "tier0")) == store.held().disk_objects == 3
    found = [read(store, b"%d" % i, len(data(i))) for i in range(20)]
    assert found[:3] == put[:3]
    assert found[12:] == [data(i) for i in range(12, 20)]
    clock.pass_by(RETRY_S)
    store.put(b"20", data(20))
    assert store.settle(LONG_S)
    assert store.held().disk_objects > 3  # there is room again


def test_a_disk_that_has_room_again_is_tried_though_nobody_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = threading.Event()

    def write(folder: DiskFolder, room: memoryview, num_bytes: int) -> StoredFile:
        if not tried.is_set():
            tried.set()
            raise OSError(errno.ENOSPC, "no space")
        written.set()
        return as_ever(folder, room, num_bytes)

    as_ever, written = DiskFolder.write, threading.Event()
    monkeypatch.setattr(DiskFolder, "write", write)
    monkeypatch.setattr(moving, "RETRY_S", 0.01)
    store = TieredStore(host_bytes=UNIT_BYTES, disk=tmp_path, disk_bytes=8 * UNIT_BYTES)
    assert store.put(b"0", data(0))
    assert written.wait(LONG_S)
    assert store.settle(LONG_S)
    assert store.short is None
    assert store.held().disk_objects == 1
    store.close()


def test_the_disk_is_not_filled_to_its_end(make: Make, told: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_module, "LEFT_FREE_BYTES", 1 << 60)
    store = make(host=8, disk=20)
    fill(store, 10)
    assert store.held().disk_objects == 0
    assert len(told.of(DiskTierShort)) == 1


def spoil_bit(path: Path) -> None:
    spoiled = bytearray(path.read_bytes())
    spoiled[17] ^= 4
    path.write_bytes(spoiled)


def shorten(path: Path) -> None:
    os.truncate(path, 100)


def exchange(path: Path) -> None:
    path.write_bytes(path.with_name("1.tier").read_bytes())


@pytest.mark.parametrize("spoil", [spoil_bit, shorten, exchange, Path.unlink])
@pytest.mark.parametrize("prefetched", [False, True])
def test_what_was_damaged_on_disk_is_told_and_never_read(
    make: Make, told: Recorder, tmp_path: Path, spoil: Callable[[Path], None], prefetched: bool
) -> None:
    store = make(host=8, disk=20)
    put = fill(store, 20)
    spoil(tmp_path / "tier0" / "0.tier")
    if prefetched:
        store.prefetch([b"0"])
        assert store.settle(LONG_S)
    assert read(store, b"0", len(put[0])) is None
    assert store.where(b"0") is None
    assert [event.file for event in told.of(TierObjectLost)] == [str(tmp_path / "tier0" / "0.tier")]
    assert store.settle(LONG_S)
    store.check()
    assert [read(store, b"%d" % i, len(put[i])) for i in range(1, 20)] == put[1:]


def test_a_disk_that_fails_to_read_is_told(make: Make, told: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(file: int, views: list[memoryview], offset: int) -> int:
        raise OSError(errno.EIO, "I/O error")

    store = make(host=8, disk=20)
    put = fill(store, 20)
    monkeypatch.setattr(disk_module.os, "preadv", failing)
    assert read(store, b"0", len(put[0])) is None
    assert len(told.of(TierObjectLost)) == 1


def test_a_file_that_cannot_be_removed_still_counts(
    make: Make, told: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(folder: DiskFolder, stored: StoredFile) -> None:
        raise OSError(errno.EROFS, "read-only")

    store = make(host=8, disk=4)
    fill(store, 11)
    monkeypatch.setattr(DiskFolder, "remove", refusing)
    store.drop(b"0")
    assert store.settle(LONG_S)
    store.check()
    assert store.held().disk_bytes == 4 * UNIT_BYTES
    assert store.held().disk_objects == 3
    assert len(told.of(DiskTierShort)) == 1


def test_memory_that_the_system_does_not_have(make: Make, told: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(num_bytes: int) -> memoryview:
        raise OSError(errno.ENOMEM, "none left")

    store = make(host=8, disk=20)
    put = fill(store, 20)
    monkeypatch.setattr(store_module, "new_room", none_left)
    monkeypatch.setattr(moving, "new_room", none_left)
    assert not store.put(b"key", b"x")
    store.prefetch([b"0"])
    assert store.settle(LONG_S)
    store.check()
    assert [read(store, b"%d" % i, len(put[i])) for i in (0, 1)] == put[:2]
    assert told.of(TierObjectLost) == []


def test_a_length_that_is_not_the_objects_is_an_error_of_ours(make: Make) -> None:
    store = make()
    store.put(b"key", b"four")
    with pytest.raises(ValueError, match="4 bytes"):
        read(store, b"key", 5)


def test_a_closed_store_has_nothing_and_says_so(make: Make, tmp_path: Path) -> None:
    store = make(host=8, disk=20)
    fill(store, 20)
    store.close()
    store.close()
    assert files(tmp_path / "tier0") == []
    assert store.where(b"19") is None
    store.drop(b"19")
    assert store.settle(0.0)
    for use in (lambda: store.put(b"a", b"b"), lambda: read(store, b"19", 1), lambda: store.prefetch([b"a"])):
        with pytest.raises(ValueError, match="closed"):
            use()


def test_without_a_disk_there_is_host_memory_alone() -> None:
    store = TieredStore(host_bytes=2 * UNIT_BYTES)
    assert store.put(b"a", b"1")
    assert store.put(b"b", b"2")
    assert store.put(b"c", b"3")
    store.prefetch([b"a", b"b"])
    assert store.settle(0.0)
    assert [read(store, key, 1) for key in (b"a", b"b", b"c")] == [None, b"2", b"3"]
    store.close()


def test_a_folder_has_one_store_at_a_time(tmp_path: Path) -> None:
    first = TieredStore(host_bytes=UNIT_BYTES, disk=tmp_path / "tier", disk_bytes=UNIT_BYTES)
    with pytest.raises(StateUnusable, match="in use"):
        TieredStore(host_bytes=UNIT_BYTES, disk=tmp_path / "tier", disk_bytes=UNIT_BYTES)
    first.close()
    TieredStore(host_bytes=UNIT_BYTES, disk=tmp_path / "tier", disk_bytes=UNIT_BYTES).close()


def test_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateUnusable, match="cannot be used"):
        TieredStore(host_bytes=1, disk=tmp_path / "file", disk_bytes=1)


def test_bounds_below_nothing_are_an_error_of_ours() -> None:
    with pytest.raises(ValueError, match="-1"):
        TieredStore(host_bytes=-1)


def test_several_threads_read_what_they_put(make: Make) -> None:
    def use(store: TieredStore, mine: int) -> None:
        choose = random.Random(mine)
        put: dict[bytes, bytes] = {}
        for number in range(300):
            key = b"%d/%d" % (mine, choose.randrange(12))
            doing = choose.randrange(5)
            if doing < 2:
                put[key] = data(number % 100, units=choose.randrange(1, 4))
                store.put(key, put[key])
            elif doing < 4 and key in put:
                assert read(store, key, len(put[key])) in (put[key], None)
            elif doing == 4:
                store.prefetch(list(put)[:3])
            store.check()
        finished.append(mine)

    store = make(host=24, disk=48)
    finished: list[int] = []
    threads = [threading.Thread(target=use, args=(store, mine)) for mine in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG_S)
    assert sorted(finished) == [0, 1, 2, 3]


KILLED = """
import sys
from pathlib import Path
from thaloom.kernel.memory.tiers.store import TieredStore
store = TieredStore(host_bytes=4 << 20, disk=Path(sys.argv[1]), disk_bytes=64 << 20)
for number in range(10_000):
    store.put(str(number).encode(), bytes(1 << 20))
    if number == 40:
        print("on its way", flush=True)
"""


def test_what_a_killed_process_left_is_gone_with_the_next_start(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", KILLED, tmp_path], stdout=subprocess.PIPE)
    assert child.stdout is not None
    with child, child.stdout:
        assert child.stdout.readline() == b"on its way\n"
        child.send_signal(signal.SIGKILL)
    (tmp_path / "of somebody else").touch()
    TieredStore(host_bytes=UNIT_BYTES, disk=tmp_path, disk_bytes=UNIT_BYTES).close()
    assert {path.name for path in tmp_path.iterdir()} == {"lock", "of somebody else"}
