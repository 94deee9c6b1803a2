"""Whatever is changed in the journal by other hands is found; and it goes on all the same."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from thaloom.base.clock import ManualClock
from thaloom.kernel.state import store as store_module
from thaloom.kernel.state.store import StateStore
from thaloom.kernel.state.types import Checkpoint, JournalReport
from thaloom.kernel.trust.seals import sealing

SEAL = sealing(b"k" * 32)
COUNT = 12


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "state.db"
    with opened(path) as store:
        for number in range(COUNT):
            store.journal.append("X", {"number": number}, by="person:0")
    return path


@contextlib.contextmanager
def opened(path: Path, seal: Callable[[bytes], str] = SEAL, *, is_new: bool = True) -> Iterator[StateStore]:
    store = StateStore(path, ManualClock(5.0), seal=seal, is_new=is_new)
    with contextlib.closing(store):
        yield store


def change(path: Path, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            assert connection.execute(statement).rowcount, f"{statement} changes nothing"


def verified(path: Path, through: Checkpoint | None = None) -> JournalReport:
    with opened(path) as store:
        return store.journal.verify(through)


def faults(path: Path) -> list[tuple[int, str]]:
    return [(fault.entry, fault.problem) for fault in verified(path).faults]


def test_what_was_written_is_sound(path: Path) -> None:
    assert verified(path) == JournalReport(first=1, last=COUNT, num_checked=COUNT, num_unsealed=0)


@pytest.mark.parametrize("entry", [1, 2, COUNT - 1, COUNT])
@pytest.mark.parametrize(
    "altered",
    ["time = 6.0", "action = 'a-other'", "kind = 'Y'", "phase = 'intent'", "data = '{}'", "data = 'x'", "by = ''",
     "seal = 'x'", "time = 'late'"],
)  # fmt: skip
def test_an_altered_entry_is_found_where_it_is(path: Path, entry: int, altered: str) -> None:
    change(path, f"UPDATE journal SET {altered} WHERE id = {entry}")
    assert (entry, "altered") in faults(path)
    assert {number for number, _ in faults(path)} <= {entry, entry + 1}, "the others are as they were"


@pytest.mark.parametrize("entry", range(1, COUNT + 1))
def test_a_removed_entry_is_found(path: Path, entry: int) -> None:
    change(path, f"DELETE FROM journal WHERE id = {entry}")
    assert faults(path) == [(entry, "missing")]


@pytest.mark.parametrize(("first", "second"), [(1, 2), (3, 9), (COUNT - 1, COUNT)])
def test_entries_in_another_order_are_found(path: Path, first: int, second: int) -> None:
    change(
        path,
        f"UPDATE journal SET id = 1000 WHERE id = {first}",
        f"UPDATE journal SET id = {first} WHERE id = {second}",
        f"UPDATE journal SET id = {second} WHERE id = 1000",
    )
    assert {(first, "altered"), (second, "altered")} <= set(faults(path))


def test_an_end_that_was_cut_off_is_found_even_with_its_mark(path: Path) -> None:
    change(path, f"DELETE FROM journal WHERE id > {COUNT - 3}")
    assert faults(path) == [(COUNT - 2, "missing")]
    change(path, f"UPDATE journal_marks SET entry = {COUNT - 3} WHERE name = 'head'")
    assert (COUNT - 3, "mark") in faults(path)


def test_a_beginning_that_was_cut_off_is_found_even_with_its_mark(path: Path) -> None:
    change(path, "DELETE FROM journal WHERE id <= 4")
    assert faults(path) == [(1, "missing")]
    change(
        path, "UPDATE journal_marks SET entry = 4, link = (SELECT seal FROM journal WHERE id = 5) WHERE name = 'start'"
    )
    assert (4, "mark") in faults(path)


def test_an_entry_put_in_is_found(path: Path) -> None:
    change(
        path,
        f"INSERT INTO journal SELECT {COUNT + 1}, time, action, kind, phase, data, by, seal FROM journal WHERE id = 1",
    )
    assert {problem for _, problem in faults(path)} == {"altered", "added"}


def test_the_whole_chain_made_again_without_the_key_is_found(tmp_path: Path, path: Path) -> None:
    checkpoint = verified_checkpoint(path)
    forged = tmp_path / "forged.db"
    with opened(forged, sealing(b"guessed")) as store:
        for number in range(COUNT):
            store.journal.append("X", {"number": number + 1}, by="person:0")
    assert {problem for _, problem in faults(forged)} == {"mark", "altered"}
    assert [fault.problem for fault in verified(forged, checkpoint).faults][-1] == "not_through"


def test_a_database_put_back_is_found_by_a_checkpoint_kept_elsewhere(path: Path) -> None:
    earlier = path.read_bytes()
    with opened(path) as store:
        store.journal.append("X", {}, by="")
        checkpoint = store.journal.checkpoint()
    assert verified(path, checkpoint).faults == ()
    path.write_bytes(earlier)
    for name in ("state.db-wal", "state.db-shm"):
        path.with_name(name).unlink(missing_ok=True)
    assert verified(path).faults == (), "no chain can show this by itself"
    assert [fault.problem for fault in verified(path, checkpoint).faults] == ["not_through"]


def test_a_node_whose_journal_was_tampered_with_can_still_act_and_still_tells(path: Path) -> None:
    change(path, "UPDATE journal_marks SET seal = 'x' WHERE name = 'head'")
    with opened(path) as store:
        for number in range(3):
            store.journal.append("X", {"number": number}, by="")
        assert len(store.journal.latest(100)) == COUNT + 3
        report = store.journal.verify()
    assert [fault.problem for fault in report.faults] == ["mark"]
    assert (report.num_unsealed, report.num_checked) == (COUNT, 3), "of the old ones nothing is claimed"


def test_marks_that_are_gone_do_not_look_like_a_journal_from_before_there_were_any(path: Path) -> None:
    change(path, "DELETE FROM journal_marks")
    report = verified(path)
    assert report.num_unsealed == COUNT
    assert report.faults, "entries with seals and no chain"


def test_what_is_older_than_the_bound_is_dropped_behind_a_mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "JOURNAL_ENTRIES", 5)
    with opened(tmp_path / "state.db") as store:
        early = store.journal.append("X", {}, by="")
        checkpoint = store.journal.checkpoint()
        for number in range(50):
            store.journal.append("X", {"number": number}, by="")
            assert store.journal.verify().faults == ()
        report = store.journal.verify()
        assert 5 <= report.num_checked <= 10
        assert store.journal.latest(1, action=early.action) == []
        assert [fault.problem for fault in store.journal.verify(checkpoint).faults] == ["dropped"]


def test_intents_without_an_outcome_are_told_oldest_first(path: Path) -> None:
    with opened(path) as store:
        first, second, third = (store.journal.append("X", {}, phase="intent", by="") for _ in range(3))
        store.journal.append("X", {}, action=second.action, by="")
        assert store.journal.unfinished() == [first, third]


def verified_checkpoint(path: Path) -> Checkpoint:
    with opened(path) as store:
        return store.journal.checkpoint()


@pytest.mark.parametrize("stripped", ["UPDATE journal SET seal = ''", "DELETE FROM journal"])
def test_a_journal_without_any_seal_is_old_only_where_the_key_is_new(path: Path, stripped: str) -> None:
    change(path, stripped, "DELETE FROM journal_marks")
    with opened(path, is_new=False) as store:
        assert bool(store.journal.verify().faults) == ("UPDATE" in stripped)
    change(path, "DELETE FROM journal_marks")
    with opened(path, is_new=True) as store:
        assert store.journal.verify().faults == ()


def test_no_row_that_others_put_in_or_take_away_stops_the_journal(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied = f"SELECT {COUNT + 1}, time, action, kind, phase, data, by, seal FROM journal WHERE id = 1"
    with opened(path) as store:
        change(path, f"INSERT INTO journal {copied}")
        store.journal.append("X", {}, by="")
        assert "mark" in [fault.problem for fault in store.journal.verify().faults]
    monkeypatch.setattr(store_module, "JOURNAL_ENTRIES", 5)
    with opened(path) as store:
        change(path, f"DELETE FROM journal WHERE id BETWEEN 1 AND {COUNT + 1}")
        for number in range(30):
            store.journal.append("X", {"number": number}, by="")
        assert store.journal.latest(1)[0].data == {"number": 29}
