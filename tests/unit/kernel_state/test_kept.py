"""What the door keeps: within its bound, in its order, and each refusal by its name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from thaloom.base.clock import ManualClock
from thaloom.base.errors import BadParameter, DiskFull, FileInUse, NotKept, StateUnusable, TooLarge
from thaloom.kernel.state.kept import KeepLimits, Kept, open_kept
from thaloom.kernel.state.kept.ledger import DAY_S
from thaloom.kernel.state.reserve import GIVEN_UP_BYTES
from thaloom.kernel.state.types import BatchLine, BatchProblem, KeptBatch, KeptFile, KeptResponse


class Clock(ManualClock):
    def move(self, seconds: float) -> None:
        self._now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock(1_000_000.0)


@pytest.fixture
def open_it(tmp_path: Path, clock: Clock) -> Iterator[Any]:
    """Opens a store with these limits, which is checked at the end."""
    opened: list[Kept] = []

    def open_it(**limits: Any) -> Kept:
        opened.append(open_kept(tmp_path / "kept", clock, KeepLimits(**limits)))
        return opened[-1]

    yield open_it
    for kept in opened:
        kept.ledger.check()
        kept.close()


def response(name: str, *, previous: str | None = None, text: str = "x") -> KeptResponse:
    said = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}], "id": f"msg_{name}"}
    return KeptResponse(id=name, previous=previous, created_at=1.0, input=[said], body={"id": name, "output": [text]})


def upload(
    kept: Kept, data: bytes = b"data", *, purpose: str = "batch", expires_after_s: float | None = None
) -> KeptFile:
    incoming = kept.files.begin()
    try:
        incoming.write(data)
        return incoming.finish(filename="f.jsonl", purpose=purpose, expires_after_s=expires_after_s)
    finally:
        incoming.abort()


def batch(kept: Kept, name: str = "batch_1", **facts: Any) -> KeptBatch:
    file = facts.pop("input_file", None) or upload(kept).id
    return kept.batches.create(
        KeptBatch(id=name, endpoint="/v1/completions", input_file=file, created_at=1.0, expires_at=2e9, **facts)
    )


def names_on_disk(kept: Kept) -> list[str]:
    return sorted(path.name for path in kept.ledger.files.iterdir())


# -- responses


def test_a_response_is_there_again_as_it_was(open_it: Any) -> None:
    kept = open_it()
    given = response("resp_1", text="世 \ud800 half")
    kept.responses.put(given)
    assert kept.responses.get("resp_1") == given
    kept.responses.delete("resp_1")
    for asked in (kept.responses.get, kept.responses.delete, kept.responses.chain):
        with pytest.raises(NotKept):
            asked("resp_1")


def test_a_chain_is_told_oldest_first_and_refused_when_a_link_is_gone(open_it: Any) -> None:
    kept = open_it()
    for name, previous in (("a", None), ("b", "a"), ("c", "b")):
        kept.responses.put(response(name, previous=previous))
    assert [link.id for link in kept.responses.chain("c")] == ["a", "b", "c"]
    kept.responses.delete("a")
    with pytest.raises(NotKept, match="'a' is kept here, which 'c' builds upon") as refused:
        kept.responses.chain("c")
    assert refused.value.param == "previous_response_id"


def test_the_longest_unused_response_makes_room_and_a_conversation_keeps_its_beginning(
    open_it: Any, clock: Clock
) -> None:
    kept = open_it(max_responses=3)
    for name, previous in (("a", None), ("b", None), ("c", "a"), ("d", "c"), ("e", "d")):
        clock.move(1)
        kept.responses.put(response(name, previous=previous))
    # "b" went for "d"; nothing is left but one conversation when "e" comes, and its oldest link goes
    with pytest.raises(NotKept):
        kept.responses.get("b")
    assert [kept.responses.get(name).id for name in "cde"] == ["c", "d", "e"]


def test_what_is_unused_for_too_long_is_gone(open_it: Any, clock: Clock) -> None:
    kept = open_it(response_days=2)
    kept.responses.put(response("a"))
    clock.move(2 * DAY_S)
    assert kept.responses.get("a").id == "a"
    clock.move(1)
    with pytest.raises(NotKept):
        kept.responses.get("a")
    kept.responses.sweep()
    assert kept.ledger.database.read("SELECT * FROM responses") == []


def test_responses_make_room_for_responses_and_files_and_files_for_nothing(open_it: Any) -> None:
    kept = open_it(max_bytes=10_000)
    for name in "abcd":
        kept.responses.put(response(name, text="x" * 1000))  # some 2,200 bytes each
    kept.responses.put(response("e", text="x" * 1000))
    with pytest.raises(NotKept):
        kept.responses.get("a")
    upload(kept, b"y" * 6000)
    assert kept.responses.get("e").id == "e"
    with pytest.raises(NotKept):
        kept.responses.get("d")
    with pytest.raises(DiskFull) as refused:
        upload(kept, b"z" * 6000)
    assert refused.value.details["allowed_bytes"] == 10_000
    with pytest.raises(DiskFull):
        kept.responses.put(response("f", text="x" * 3000))
    assert len(kept.files.page(limit=10)[0]) == 1
    assert len(names_on_disk(kept)) == 1


def test_the_share_of_the_disk_is_a_bound(open_it: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thaloom.kernel.state.kept.ledger.free_bytes", lambda _: GIVEN_UP_BYTES + 10_000)
    kept = open_it(disk_share=0.5)
    upload(kept, b"x" * 5000)
    with pytest.raises(DiskFull):
        upload(kept, b"x" * 3000)  # of 15,000 in all, 7,500 may be taken


def test_a_full_disk_keeps_what_there_is_and_takes_nothing_new(open_it: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by tests.chaos: one response more on a disk that somebody else had filled dropped nine of ten others, and
    took what the node's reserve had given up for stopping and healing."""
    kept = open_it()
    ids = [f"r{number}" for number in range(20)]
    for each in ids:
        kept.responses.put(response(each))
    monkeypatch.setattr("thaloom.kernel.state.kept.ledger.free_bytes", lambda _: GIVEN_UP_BYTES - 1)
    with pytest.raises(DiskFull, match="nothing more can be kept"):
        kept.responses.put(response("more"))
    with pytest.raises(DiskFull):
        upload(kept, b"x")
    assert [kept.responses.get(each).id for each in ids] == ids
    assert names_on_disk(kept) == []
    kept.responses.delete("r0")


# -- files


def test_a_file_is_there_again_as_it_was(open_it: Any) -> None:
    kept = open_it()
    file = upload(kept, b"one\ntwo\n")
    assert (file.num_bytes, file.filename, file.purpose) == (8, "f.jsonl", "batch")
    found, handle = kept.files.open(file.id)
    with handle:
        kept.files.delete(file.id)
        assert handle.read() == b"one\ntwo\n", "who reads it when it is deleted goes on reading"
    assert found == file
    for asked in (kept.files.get, kept.files.open, kept.files.delete):
        with pytest.raises(NotKept):
            asked(file.id)
    assert names_on_disk(kept) == []


def test_files_are_listed_page_by_page(open_it: Any) -> None:
    kept = open_it()
    ids = [upload(kept, purpose="batch" if index % 2 else "evals").id for index in range(5)]
    first, more = kept.files.page(limit=2)
    assert ([file.id for file in first], more) == ([ids[4], ids[3]], True)
    rest, more = kept.files.page(limit=10, after=ids[3])
    assert ([file.id for file in rest], more) == (ids[2::-1], False)
    assert [file.id for file in kept.files.page(limit=10, descending=False, after=ids[2])[0]] == ids[3:]
    assert [file.id for file in kept.files.page(limit=10, purpose="batch")[0]] == [ids[3], ids[1]]
    with pytest.raises(NotKept):
        kept.files.page(limit=1, after="file-none")


def test_a_file_expires_when_its_owner_said_but_not_under_a_batch(open_it: Any, clock: Clock) -> None:
    kept = open_it()
    plain, read = upload(kept, expires_after_s=10.0), upload(kept, expires_after_s=10.0)
    batch(kept, input_file=read.id)
    clock.move(10)
    for file in (plain, read):
        with pytest.raises(NotKept):
            kept.files.get(file.id)
    kept.files.sweep()
    assert names_on_disk(kept) == [read.id]
    with kept.files.reopen(read.id) as handle:
        assert handle.read() == b"data"
    assert kept.files.page(limit=10) == ([], False)


def test_the_input_of_a_batch_that_is_not_over_cannot_be_deleted(open_it: Any) -> None:
    kept = open_it()
    file = upload(kept)
    batch(kept, input_file=file.id)
    with pytest.raises(FileInUse):
        kept.files.delete(file.id)
    kept.batches.change("batch_1", when=("validating",), status="failed")
    kept.files.delete(file.id)


def test_a_file_too_large_or_one_too_many_is_refused_and_leaves_nothing(open_it: Any) -> None:
    kept = open_it(max_file_bytes=10, max_files=1)
    with pytest.raises(TooLarge):
        kept.files.begin(expected_bytes=2**40)
    incoming = kept.files.begin()
    incoming.write(b"x" * 10)
    with pytest.raises(TooLarge):
        incoming.write(b"x")
    incoming.abort()
    incoming.abort()
    assert names_on_disk(kept) == []
    upload(kept, b"x" * 10)
    with pytest.raises(DiskFull, match="1 files"):
        kept.files.begin()


def test_what_a_dead_process_left_half_written_is_swept_away_and_no_more(open_it: Any) -> None:
    kept = open_it()
    living, dead = kept.files.begin(), kept.files.begin()
    for incoming in (living, dead):
        incoming.write(b"half")
    with kept.ledger.database.write() as connection:
        connection.execute("UPDATE files SET owner = '999999999:1' WHERE id = ?", (dead.id,))
    kept.files.sweep()
    assert names_on_disk(kept) == [f"{living.id}.partial"]
    dead.abort()
    assert living.finish(filename="f", purpose="batch").num_bytes == 4


# -- batches


def test_a_batch_goes_through_its_life(open_it: Any) -> None:
    kept = open_it()
    made = batch(kept, metadata={"a": "b"})
    assert kept.batches.get(made.id) == made
    claimed = kept.batches.claim()
    assert claimed == made
    assert kept.batches.claim() is None, "this process works on it"
    problem = BatchProblem(code="c", message="m", line=3)
    changed = kept.batches.change(made.id, when=("validating",), status="in_progress", total=3, problems=(problem,))
    assert changed is not None
    assert kept.batches.get(made.id).problems == (problem,)
    assert kept.batches.change(made.id, when=("validating",), status="failed") is None
    for number, failed in ((2, True), (1, False), (3, False), (1, True)):
        kept.batches.put_line(made.id, BatchLine(line=number, failed=failed, text=f'{{"n":{number}}}'))
    assert (kept.batches.get(made.id).completed, kept.batches.get(made.id).failed) == (2, 1)
    assert kept.batches.answered(made.id) == {1, 2, 3}
    output, errors = kept.files.begin(in_stead_of_lines=made.id), None
    for line in kept.batches.lines(made.id, failed=False):
        output.write(line.text.encode() + b"\n")
    wrong = kept.batches.finish(made.id, "completed", when=("finalizing",), output=output, errors=errors)
    assert wrong is None
    output.abort()
    output = kept.files.begin(in_stead_of_lines=made.id)
    for line in kept.batches.lines(made.id, failed=False):
        output.write(line.text.encode() + b"\n")
    over = kept.batches.finish(
        made.id, "completed", when=("in_progress",), output=output, errors=None, completed_at=5.0
    )
    assert over is not None
    assert kept.batches.get(made.id) == over
    assert (over.completed, over.failed, over.completed_at, over.error_file) == (2, 1, 5.0, None)
    assert over.output_file is not None
    with kept.files.open(over.output_file)[1] as handle:
        assert handle.read() == b'{"n":1}\n{"n":3}\n'
    assert kept.ledger.database.read("SELECT * FROM lines") == []
    assert kept.batches.claim() is None


def test_the_batch_of_a_dead_process_is_claimed_and_released_ones_too(open_it: Any) -> None:
    kept = open_it()
    batch(kept, "batch_1")
    batch(kept, "batch_2")
    assert kept.batches.claim(beside=["batch_1"]).id == "batch_2"
    assert kept.batches.claim().id == "batch_1"
    kept.batches.release("batch_2")
    assert kept.batches.claim().id == "batch_2"
    with kept.ledger.database.write() as connection:
        connection.execute("UPDATE batches SET owner = '999999999:1' WHERE id = 'batch_1'")
    assert kept.batches.claim().id == "batch_1"


def test_batches_are_listed_and_the_oldest_that_are_over_make_room(open_it: Any) -> None:
    kept = open_it(max_batches=2)
    batch(kept, "batch_1")
    batch(kept, "batch_2")
    with pytest.raises(DiskFull, match="2 batches"):
        batch(kept, "batch_3")
    kept.batches.change("batch_1", when=("validating",), status="failed")
    batch(kept, "batch_3")
    page, more = kept.batches.page(limit=1)
    assert ([found.id for found in page], more) == (["batch_3"], True)
    page, more = kept.batches.page(limit=5, after="batch_3")
    assert ([found.id for found in page], more) == (["batch_2"], False)
    with pytest.raises(NotKept):
        kept.batches.get("batch_1")
    with pytest.raises(NotKept):
        kept.batches.page(limit=1, after="batch_1")
    with pytest.raises(NotKept):
        batch(kept, "batch_4", input_file="file-none")


def test_answers_that_do_not_fit_are_refused_and_their_output_needs_no_room_of_its_own(open_it: Any) -> None:
    kept = open_it(max_bytes=4000)
    made = batch(kept)
    for number in (1, 2, 3):
        kept.batches.put_line(made.id, BatchLine(line=number, failed=False, text="x" * 1000))
    with pytest.raises(DiskFull):
        kept.batches.put_line(made.id, BatchLine(line=4, failed=False, text="x" * 1000))
    output = kept.files.begin(in_stead_of_lines=made.id)
    for line in kept.batches.lines(made.id, failed=False):
        output.write(line.text.encode())
    kept.batches.finish(made.id, "completed", when=("validating",), output=output, errors=None)
    assert len(names_on_disk(kept)) == 2


# -- the store itself


def test_wrong_limits_are_refused() -> None:
    for wrong in ({"disk_share": 0.0}, {"disk_share": 1.1}, {"max_bytes": 0}, {"response_days": float("nan")}):
        with pytest.raises(BadParameter):
            KeepLimits(**wrong)  # type: ignore[arg-type]


def test_a_store_that_cannot_be_used_says_so_and_is_left_as_it_is(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "kept" / "kept.db"
    path.parent.mkdir()
    path.write_bytes(b"not a database" * 1000)
    kept = open_kept(tmp_path / "kept", clock)
    with pytest.raises(StateUnusable):
        kept.responses.get("a")
    assert path.read_bytes() == b"not a database" * 1000
    path.unlink()
    with pytest.raises(NotKept):  # it can be used again, and nothing had to be told so
        kept.responses.get("a")
    kept.close()
    (tmp_path / "file").write_text("")
    with pytest.raises(StateUnusable):
        open_kept(tmp_path / "file", clock).responses.get("a")


# -- responses still to be made


def test_a_response_still_to_be_made_is_claimed_made_and_gives_way_to_none(open_it: Any, clock: Clock) -> None:
    kept = open_it(max_responses=2, response_days=1)
    kept.responses.put(response("a"), request={"model": "m"})
    kept.responses.put(response("b"), request={"model": "n"})
    clock.move(2 * DAY_S)
    kept.responses.sweep()
    with pytest.raises(DiskFull, match="still to be made"):
        kept.responses.put(response("c"))
    job = kept.responses.claim()
    assert (job.id, job.request) == ("a", {"model": "m"})
    assert kept.responses.claim().id == "b"
    assert kept.responses.claim() is None
    kept.responses.release("b")
    assert kept.responses.claim(beside=["b"]) is None
    assert kept.responses.claim().id == "b"
    assert kept.responses.progress("a", {"status": "in_progress"})
    assert kept.responses.finish("a", {"status": "completed", "text": "x" * 500})
    assert not kept.responses.finish("a", {"status": "failed"})
    assert not kept.responses.is_wanted("a")
    kept.ledger.check()
    kept.responses.delete("b")
    assert not kept.responses.is_wanted("b")
    assert not kept.responses.progress("b", {})


def test_a_cancelled_response_stays_so(open_it: Any) -> None:
    kept = open_it()
    kept.responses.put(response("a"), request={})
    assert kept.responses.cancel("a").body["status"] == "cancelled"
    assert not kept.responses.finish("a", {"status": "completed"})
    assert kept.responses.get("a").body["status"] == "cancelled"
    kept.responses.put(response("b"))
    assert "status" not in kept.responses.cancel("b").body
    with pytest.raises(NotKept):
        kept.responses.cancel("c")
