from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thaloom.base.errors import CorruptObject, DeadlineExceeded, OutOfMemory
from thaloom.base.events import Recorder
from thaloom.hal.host import HostBuffer
from thaloom.kernel.memory.states import states as module
from thaloom.kernel.memory.states.planning import Array, Use
from thaloom.kernel.memory.states.states import States
from thaloom.kernel.memory.tiers.disk import DiskFolder
from thaloom.kernel.memory.tiers.events import DiskTierShort, TierObjectLost
from thaloom.kernel.memory.tiers.store import TieredStore
from thaloom.kernel.memory.tiers.types import UNIT_BYTES

LONG_S = 30.0
ROW = UNIT_BYTES // 4
ARRAYS = {name: Array((ROW,)) for name in "abcdef"}
ROUND = [
    Use(name="first", reads=("a",), updates=("b",), writes=("e",)),
    Use(name="second", updates=("b", "c"), writes=("f",)),
    Use(name="third", reads=("d",), takes=("f", "e")),
]


class Job:
    def __init__(self, folder: Path, *, slice_units: int = 6, host_units: int = 4, arrays: int = 20) -> None:
        self.told = Recorder()
        self.memory = HostBuffer(slice_units * UNIT_BYTES, lambda _: None)
        self.store = TieredStore(
            host_bytes=host_units * UNIT_BYTES, disk=folder, disk_bytes=arrays * UNIT_BYTES, emit=self.told
        )
        self.states = States(ARRAYS, ROUND, memory=self.memory, store=self.store)

    def close(self) -> None:
        self.states.close()
        self.store.close()


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    made = Job(tmp_path)
    yield made
    made.close()


def row(value: float) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.full(ROW, value, np.float32)


def test_an_array_is_zeros_until_it_is_written(job: Job) -> None:
    with job.states.using("first") as at:
        assert set(at) == {"a", "b", "e"}
        assert not at["a"].any()
        assert not at["b"].any()
    assert not job.states.get("d").any()


def test_what_is_updated_is_kept_and_what_is_only_read_is_not(job: Job) -> None:
    job.states.put("a", row(1))
    with job.states.using("first") as at:
        at["a"][:] = 9
        at["b"][:] = 2
    assert (job.states.get("a") == 1).all()
    assert (job.states.get("b") == 2).all()


def test_the_next_use_sees_what_this_one_changed(job: Job) -> None:
    for number in range(20):
        with job.states.using("first") as at:
            assert (at["b"] == 2 * number).all()
            at["b"] += 1
            at["e"][:] = number
        with job.states.using("second") as at:
            assert (at["b"] == 2 * number + 1).all()
            at["b"] += 1
            at["f"][:] = -number
        with job.states.using("third") as at:
            assert (at["e"] == number).all()
            assert (at["f"] == -number).all()
    job.store.check()


def test_what_was_taken_takes_nothing_and_cannot_be_read_again(job: Job) -> None:
    for name in ("first", "second", "third"):
        with job.states.using(name) as at:
            at.get("e", at.get("f"))  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="'f' was taken"):
        job.states.get("f")
    assert job.store.where(b"f") is None
    with pytest.raises(ValueError, match="was taken"), job.states.using("third"):
        pass
    with job.states.using("first"), pytest.raises(ValueError, match="still in use"), job.states.using("second"):
        pass


def test_any_order_of_uses_is_right(job: Job) -> None:
    for number in range(6):
        with job.states.using("second") as at:
            assert (at["c"] == number).all()
            at["c"] += 1
        job.states.put("d", row(number))
        with job.states.using("first") as at:
            at["b"] += 1
    assert (job.states.get("b") == 6).all()


def test_a_use_that_ends_in_an_error_changes_nothing(job: Job) -> None:
    with pytest.raises(ZeroDivisionError), job.states.using("first") as at:
        at["b"][:] = 7
        raise ZeroDivisionError
    with job.states.using("second") as at:
        assert not at["b"].any()


def test_what_does_not_fit_beside_this_use_comes_after_it(tmp_path: Path) -> None:
    narrow = Job(tmp_path, slice_units=3)
    test_the_next_use_sees_what_this_one_changed(narrow)
    narrow.close()


def test_other_shapes_and_types_are_refused(job: Job) -> None:
    with pytest.raises(ValueError, match="'a'"):
        job.states.put("a", np.zeros(3, np.float32))
    with pytest.raises(ValueError, match="float64"):
        job.states.put("a", np.zeros(ROW))


def test_a_slice_that_is_too_small_is_refused(tmp_path: Path) -> None:
    with TieredClosing(tmp_path) as store, pytest.raises(OutOfMemory, match="the slice"):
        States(ARRAYS, ROUND, memory=HostBuffer(2 * UNIT_BYTES, lambda _: None), store=store)


class TieredClosing:
    def __init__(self, folder: Path) -> None:
        self._store = TieredStore(host_bytes=1 << 20, disk=folder, disk_bytes=1 << 20)

    def __enter__(self) -> TieredStore:
        return self._store

    def __exit__(self, *_: object) -> None:
        self._store.close()


def test_a_disk_that_spoils_an_array_ends_the_job_by_name(job: Job, tmp_path: Path) -> None:
    for name in ARRAYS:
        job.states.put(name, row(1))
    assert job.store.settle(LONG_S)
    for path in tmp_path.glob("*.tier"):
        path.write_bytes(bytes(UNIT_BYTES))
    names = [name for name in ARRAYS if job.store.where(name.encode()) == "disk"]
    assert names
    for name in names:
        with pytest.raises(CorruptObject, match=f"'{name}'"):
            job.states.get(name)
    assert len(job.told.of(TierObjectLost)) == len(names)


def test_a_disk_that_hangs_ends_the_job_by_name(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def hanging(store: TieredStore, key: bytes, into: memoryview) -> bool:
        return False  # as if that had taken too long

    job.states.put("a", row(1))
    monkeypatch.setattr(TieredStore, "read", hanging)
    with pytest.raises(DeadlineExceeded, match="'a'"):
        job.states.get("a")


def test_a_disk_that_takes_nothing_ends_the_job_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(folder: DiskFolder, room: memoryview, num_bytes: int) -> None:
        raise OSError("broken")

    job = Job(tmp_path, host_units=3)
    monkeypatch.setattr(DiskFolder, "write", failing)
    monkeypatch.setattr(module, "WAIT_S", 0.1)
    with pytest.raises(OutOfMemory, match="took no more"):
        for number in range(100):
            for name in ("first", "second", "third"):
                with job.states.using(name) as at:
                    for array in at.values():
                        array[:] = number
    with pytest.raises(OutOfMemory, match="took no more"):
        job.states.get("a")
    assert len(job.told.of(DiskTierShort)) == 1
    job.close()


def test_closing_gives_the_tiers_back(job: Job) -> None:
    for name in ARRAYS:
        job.states.put(name, row(1))
    job.states.close()
    job.states.close()
    assert job.store.settle(LONG_S)
    assert job.store.held().host_bytes == job.store.held().disk_bytes == 0


NAMES = [f"x{i}" for i in range(6)]
USES = st.lists(
    st.permutations(NAMES).flatmap(
        lambda names: st.tuples(st.just(names), st.integers(0, 2), st.integers(0, 2), st.integers(0, 2))
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=60, deadline=None)
@given(drawn=USES, sizes=st.lists(st.integers(1, 3000), min_size=6, max_size=6), more=st.integers(0, 6), data=st.data())
def test_any_schedule_in_any_order_sees_what_was_written_last(
    tmp_path_factory: pytest.TempPathFactory,
    drawn: list[tuple[list[str], int, int, int]],
    sizes: list[int],
    more: int,
    data: st.DataObject,
) -> None:
    arrays = {name: Array((size,), "i4") for name, size in zip(NAMES, sizes, strict=True)}
    schedule = [
        Use(name=str(i), reads=tuple(names[:r]), updates=tuple(names[2 : 2 + u]), writes=tuple(names[4 : 4 + w]))
        for i, (names, r, u, w) in enumerate(drawn)
    ]
    need = max(sum(arrays[name].taken_bytes for name in use.names) for use in schedule)
    store = TieredStore(host_bytes=8 * 3 * UNIT_BYTES, disk=tmp_path_factory.mktemp("tier"), disk_bytes=1 << 20)
    memory = HostBuffer(need + more * UNIT_BYTES, lambda _: None)
    states = States(arrays, schedule, memory=memory, store=store)
    wanted = dict.fromkeys(NAMES, 0)
    order = data.draw(st.lists(st.sampled_from(schedule), max_size=8)) + schedule
    for number, use in enumerate(order, start=1):
        with states.using(use.name) as at:
            for name in use.reads + use.updates:
                assert (at[name] == wanted[name]).all()
            for name in use.kept:
                at[name][:] = wanted[name] = number
        store.check()
    for name in NAMES:
        assert (states.get(name) == wanted[name]).all()
    states.close()
    store.close()
