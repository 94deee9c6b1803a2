"""What the door keeps, cut off at every point of every write, and by several processes at once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from thaloom.base.clock import ManualClock
from thaloom.kernel.state.kept import Kept, open_kept
from thaloom.kernel.state.types import KeptBatch

LIFE = """
import json, os, sys
from pathlib import Path
import thaloom.kernel.state.kept.files as files
from thaloom.base.clock import SystemClock
from thaloom.kernel.state import database
from thaloom.kernel.state.kept import open_kept
from thaloom.kernel.state.types import BatchLine, KeptBatch, KeptResponse

folder, end = Path(sys.argv[1]), int(sys.argv[2])
points = 0

def point():
    global points
    points += 1
    if points == end:
        os._exit(9)

def cut(kind, name):
    plain = getattr(kind, name)
    def method(*args, **options):
        point()
        try:
            return plain(*args, **options)
        finally:
            point()
    setattr(kind, name, method)

class Cut:
    "A connection that may be cut off before and after every statement that changes something."
    def __init__(self, connection):
        self.real = connection
    def __getattr__(self, name):
        return getattr(self.real, name)
    def execute(self, statement, *values):
        if statement.split()[0] in ("SELECT", "PRAGMA"):
            return self.real.execute(statement, *values)
        point()
        try:
            return self.real.execute(statement, *values)
        finally:
            point()

def tell(kind, **facts):
    print(json.dumps({"kind": kind, **facts}), flush=True)

connect = database._connect
database._connect = lambda path, mode: Cut(connect(path, mode))
cut(os, "fsync"), cut(Path, "replace"), cut(Path, "unlink")

kept = open_kept(folder, SystemClock())
kept.responses.put(KeptResponse(id="r", previous=None, created_at=1.0, input=[], body={"id": "r"}))
tell("response")
kept.responses.put(KeptResponse(id="s", previous=None, created_at=1.0, input=[], body={"status": "queued"}), request={},
    events=[{"n": 0}, {"n": 1}])
tell("stream", num=2)
assert kept.responses.claim().id == "s"
for number in (2, 3):
    assert kept.responses.tell("s", [{"n": number}], after=number, body={"status": "in_progress"})
    tell("stream", num=number + 1)
assert kept.responses.finish("s", {"status": "completed"}, events=[{"n": 4}, {"n": 5}], after=4)
tell("stream", num=6)
incoming = kept.files.begin()
incoming.write(b"input")
file = incoming.finish(filename="f", purpose="batch")
tell("file", id=file.id)
kept.batches.create(KeptBatch(id="b", endpoint="e", input_file=file.id, created_at=1.0, expires_at=9e9))
tell("batch")
assert kept.batches.claim().id == "b"
for line in (1, 2):
    kept.batches.put_line("b", BatchLine(line=line, failed=False, text=str(line)))
    tell("line", line=line)
output = kept.files.begin(in_stead_of_lines="b")
for line in kept.batches.lines("b", failed=False):
    output.write(line.text.encode())
kept.batches.finish("b", "completed", when=("validating",), output=output, errors=None)
tell("over")
kept.files.delete(file.id)
tell("deleted", id=file.id)
kept.close()
tell("end")
"""


def check_after(folder: Path, told: list[dict[str, object]]) -> None:
    """Whoever opens it next finds all that was acknowledged, nothing half done, and every byte accounted for."""
    kept = open_kept(folder, ManualClock(2e9 - 1.7e9))
    try:
        kept.files.sweep()
        kept.ledger.check()
        kinds = [fact["kind"] for fact in told]
        ready = {file.id: file for file in kept.files.page(limit=10)[0]}
        assert {path.name for path in kept.ledger.files.iterdir()} == set(ready)
        for file in ready.values():
            assert (kept.ledger.files / file.id).stat().st_size == file.num_bytes
        if "response" in kinds:
            assert kept.responses.get("r").body == {"id": "r"}
        check_stream(kept, max((int(str(fact["num"])) for fact in told if fact["kind"] == "stream"), default=0))
        file_ids = [fact["id"] for fact in told if fact["kind"] == "file"]
        if "deleted" in kinds:
            assert file_ids[0] not in ready
        elif "over" not in kinds:
            assert set(file_ids) <= set(ready)
        if "batch" in kinds:
            check_batch(kept, told, ready)
    finally:
        kept.close()


def check_stream(kept: Kept, num_told: int) -> None:
    """Every event that was acknowledged, in order, and its end and the response's are one."""
    if not num_told:
        return
    told = kept.responses.told("s")
    assert [event["n"] for event in told.events] == list(range(len(told.events)))
    assert len(told.events) >= num_told
    over = kept.responses.get("s").body["status"] == "completed"
    assert (told.is_all, len(told.events) == 6) == (over, over)
    claimed = kept.responses.claim()
    assert (claimed is None) == over, "who made it is dead"


def check_batch(kept: Kept, told: list[dict[str, object]], ready: dict[str, object]) -> None:
    batch = kept.batches.get("b")
    if any(fact["kind"] == "over" for fact in told):
        assert batch.status == "completed"
    if batch.status == "completed":
        assert batch.output_file in ready
        with kept.files.open(str(batch.output_file))[1] as handle:
            assert handle.read() == b"12"
        assert kept.batches.answered("b") == set()
        return
    assert [name for name in ready if name != batch.input_file] == [], "an output of a batch that is not over"
    assert {fact["line"] for fact in told if fact["kind"] == "line"} <= kept.batches.answered("b")
    claimed = kept.batches.claim()
    assert claimed is not None, "who worked on it is dead"


def live(folder: Path, end: int) -> tuple[int, list[dict[str, object]]]:
    done = subprocess.run(
        [sys.executable, "-c", LIFE, str(folder), str(end)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode in (0, 9), done.stderr
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_cut_off_at_any_point_nothing_acknowledged_is_lost_and_nothing_lies_about(tmp_path: Path) -> None:
    code, told = live(tmp_path / "whole", 0)
    assert (code, told[-1]["kind"]) == (0, "end")
    check_after(tmp_path / "whole", told)
    end, code = 1, 9
    while code == 9:
        folder = tmp_path / str(end)
        code, told = live(folder, end)
        check_after(folder, told)
        end += 3 if end > 6 else 1  # each statement has a point before and one after it, and so has each write
    assert end > 90, "the points were not met"


CROWD = """
import sys
from pathlib import Path
from thaloom.base.clock import SystemClock
from thaloom.kernel.state.kept import KeepLimits, open_kept
from thaloom.kernel.state.types import BatchLine, KeptResponse

kept = open_kept(Path(sys.argv[1]), SystemClock(), KeepLimits(max_responses=20))
me = sys.argv[2]
for turn in range(25):
    kept.responses.put(KeptResponse(id=f"{me}-{turn}", previous=None, created_at=1.0, input=[], body={}))
    incoming = kept.files.begin()
    incoming.write(me.encode() * 1000)
    file = incoming.finish(filename=me, purpose="batch")
    if turn % 2:
        kept.files.delete(file.id)
    kept.batches.put_line("b", BatchLine(line=turn + 1, failed=False, text=me))
claimed = kept.batches.claim()
print("claimed" if claimed else "not", flush=True)
sys.stdin.read()
"""


@pytest.mark.timeout(120)
def test_several_processes_share_a_store_and_one_of_them_has_a_batch(tmp_path: Path) -> None:
    kept = open_kept(tmp_path, ManualClock(1e6))
    incoming = kept.files.begin()
    incoming.write(b"input")
    file = incoming.finish(filename="f", purpose="batch")
    kept.batches.create(KeptBatch(id="b", endpoint="e", input_file=file.id, created_at=1.0, expires_at=9e9))
    command = [sys.executable, "-c", CROWD, str(tmp_path)]
    children = [
        subprocess.Popen([*command, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for name in "xyz"
    ]
    try:
        words = [child.stdout.readline().strip() for child in children if child.stdout is not None]
        assert sorted(words) == ["claimed", "not", "not"]
        assert kept.batches.claim() is None
    finally:
        for child in children:
            child.communicate("", timeout=60)
    assert [child.returncode for child in children] == [0, 0, 0]
    claimed = kept.batches.claim()
    assert claimed is not None, "its process is gone"
    assert kept.batches.answered("b") == set(range(1, 26))
    assert len(kept.files.page(limit=1000)[0]) == 1 + 3 * 13
    (counted,) = kept.ledger.database.read("SELECT num_rows FROM totals WHERE name = 'responses'")
    assert counted["num_rows"] == 20
    kept.ledger.check()
    kept.close()
