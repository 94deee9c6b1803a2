"""What is told of a response: in order, within the bound, gone with it; and a store that knew nothing of it."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.unit.kernel_state.test_kept import Clock, clock, open_it, response
from thaloom.base.clock import ManualClock
from thaloom.base.errors import BadParameter, DiskFull, NotKept, WrongState
from thaloom.kernel.state.kept import Kept, open_kept
from thaloom.kernel.state.kept import events as told_events
from thaloom.kernel.state.kept.events import ROWS_OF_A_PAGE
from thaloom.kernel.state.kept.ledger import DAY_S
from thaloom.kernel.state.kept.migrations import STEPS
from thaloom.kernel.state.types import ToldEvents

DATA = Path(__file__).parent / "kept_data"
__all__ = ["clock", "open_it"]  # fixtures


def events(*numbers: int) -> list[dict[str, Any]]:
    return [{"type": "t", "n": number, "text": "世 \ud800 half\n"} for number in numbers]


def streamed(kept: Kept, name: str = "a", **options: Any) -> None:
    kept.responses.put(response(name), request={"stream": True}, events=events(0, 1), **options)


def numbers(kept: Kept, after: int = -1) -> list[int]:
    told = kept.responses.told("a", after=after)
    assert told.first == after + 1
    return [event["n"] for event in told.events]


def test_what_was_told_is_told_again_from_any_event_on(open_it: Any) -> None:
    kept = open_it()
    streamed(kept)
    assert kept.responses.told("a").events == tuple(events(0, 1))
    assert kept.responses.tell("a", events(2, 3, 4), after=2, body={"status": "in_progress"})
    assert kept.responses.get("a").body == {"status": "in_progress"}
    assert not kept.responses.told("a").is_all
    assert kept.responses.finish("a", {"status": "completed"}, events=events(5), after=5)
    for after in range(-1, 6):
        assert numbers(kept, after) == list(range(after + 1, 6))
        assert kept.responses.told("a", after=after).is_all
    assert kept.responses.told("a", after=10**9).events == ()
    assert not kept.responses.tell("a", events(6), after=6), "nobody wants more of it"
    assert not kept.responses.finish("a", {}, events=events(6), after=6)
    assert numbers(kept) == [0, 1, 2, 3, 4, 5]


def test_a_long_one_is_read_in_pages(open_it: Any) -> None:
    kept = open_it()
    streamed(kept)
    for number in range(2, ROWS_OF_A_PAGE + 10):
        kept.responses.tell("a", events(number), after=number)
    kept.responses.finish("a", {}, events=events(ROWS_OF_A_PAGE + 10), after=ROWS_OF_A_PAGE + 10)
    first = kept.responses.told("a")
    assert (len(first.events), first.is_all) == (ROWS_OF_A_PAGE + 1, False)
    rest = kept.responses.told("a", after=ROWS_OF_A_PAGE)
    assert (rest.events[-1]["n"], rest.is_all) == (ROWS_OF_A_PAGE + 10, True)


def test_two_who_make_it_never_tell_it_in_two_ways(open_it: Any) -> None:
    kept = open_it()
    streamed(kept)
    kept.responses.tell("a", events(2), after=2)
    for telling in (
        lambda: kept.responses.tell("a", events(2), after=2, body={"status": "other"}),
        lambda: kept.responses.finish("a", {"status": "other"}, events=events(2), after=2),
    ):
        with pytest.raises(WrongState, match="another door"):
            telling()
    assert numbers(kept) == [0, 1, 2]
    assert "status" not in kept.responses.get("a").body
    assert kept.responses.is_wanted("a")


def test_a_cancelled_one_ends_with_an_event_and_one_that_is_made_does_not(open_it: Any) -> None:
    kept = open_it()
    streamed(kept)
    for _ in range(2):
        found = kept.responses.cancel("a", ending=lambda body: {"type": "end", "n": 2, "of": body["status"]})
        assert found.body["status"] == "cancelled"
    told = kept.responses.told("a")
    assert (told.events[2:], told.is_all) == (({"type": "end", "n": 2, "of": "cancelled"},), True)
    kept.responses.put(response("b"), request={})
    kept.responses.cancel("b", ending=lambda _: {"type": "end"})
    with pytest.raises(BadParameter):
        kept.responses.told("b")


def test_only_its_holder_hears_it_and_only_of_what_was_told(open_it: Any) -> None:
    kept = open_it()
    streamed(kept, holder="mine")
    assert len(kept.responses.told("a", holder="mine").events) == 2
    for holder in ("other", None):
        with pytest.raises(NotKept):
            kept.responses.told("a", holder=holder)
    kept.responses.put(response("b"))
    for after in (-1, 5):
        with pytest.raises(BadParameter) as refused:
            kept.responses.told("b", after=after)
        assert refused.value.param == "stream"


def test_one_that_is_deleted_while_somebody_looks_is_not_there(open_it: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = open_it()
    streamed(kept)
    page = told_events.page

    def look_too_late(*what: Any, **where: Any) -> ToldEvents:
        kept.responses.delete("a")
        return page(*what, **where)

    monkeypatch.setattr(told_events, "page", look_too_late)
    with pytest.raises(NotKept):
        kept.responses.told("a", after=1)


def test_events_go_with_their_response_and_count_among_all_that_is_kept(open_it: Any) -> None:
    kept = open_it(max_bytes=10_000)
    streamed(kept)
    text = [{"type": "t", "n": 2, "text": "x" * 6_000}]
    kept.responses.tell("a", text, after=2)
    with pytest.raises(DiskFull):
        kept.responses.tell("a", text, after=3)
    assert len(kept.responses.told("a").events) == 3, "nothing is half told"
    kept.responses.finish("a", {}, events=events(3), after=3)
    kept.responses.put(response("b", text="x" * 3_000))  # twice: its input, its body
    with pytest.raises(NotKept):
        kept.responses.told("a")
    assert kept.ledger.database.read("SELECT * FROM events") == []
    streamed(kept, "c")
    kept.responses.delete("c")
    assert kept.ledger.database.read("SELECT * FROM events") == []


def test_one_that_is_still_to_be_made_is_there_however_long_nobody_asked(open_it: Any, clock: Clock) -> None:
    kept = open_it(response_days=1)
    streamed(kept)
    clock.move(3 * DAY_S)
    kept.responses.sweep()
    assert numbers(kept) == [0, 1]
    kept.responses.finish("a", {}, events=events(2), after=2)
    with pytest.raises(NotKept):
        kept.responses.told("a")


# -- stores of earlier versions


def test_a_store_of_every_earlier_version_is_kept() -> None:
    latest = STEPS[-1].version
    assert [step.version for step in STEPS] == list(range(1, latest + 1))
    assert {file.name for file in DATA.iterdir()} == {f"version_{version}.sql" for version in range(1, latest)}


@pytest.mark.parametrize("version", range(1, STEPS[-1].version))
def test_a_store_of_every_earlier_version_opens_with_all_it_held(version: int, tmp_path: Path) -> None:
    """Made by a door of that version: a response and one built upon it, one to be made, a file, a batch of one line."""
    (tmp_path / "kept").mkdir()
    connection = sqlite3.connect(tmp_path / "kept" / "kept.db")
    connection.executescript((DATA / f"version_{version}.sql").read_text())
    connection.close()
    kept = open_kept(tmp_path / "kept", ManualClock(1_000_010.0))
    try:
        kept.ledger.check()
        assert [link.id for link in kept.responses.chain("b")] == ["a", "b"]
        assert kept.responses.get("a") == response("a", text="世 \ud800 half")
        (file,) = kept.files.page(limit=10)[0]
        assert (file.filename, file.num_bytes) == ("f.jsonl", 4)
        assert kept.batches.answered("batch_1") == {1}
        claimed = kept.responses.claim()
        assert claimed is not None
        assert (claimed.id, claimed.request) == ("c", {"model": "tiny"})
        for name in "abc":
            with pytest.raises(BadParameter):
                kept.responses.told(name)
        streamed(kept, "d")
        assert len(kept.responses.told("d").events) == 2
        kept.ledger.check()
    finally:
        kept.close()
