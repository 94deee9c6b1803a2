"""The runner goes on without whoever fails, one engine computing at a time, and the record tells all of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from benchmarks.engine.cells import Cell, WeightClass, decode, prefill
from benchmarks.engine.engines import CHILDREN, Child, Session, Unavailable, open_child, run_to_end
from benchmarks.engine.interleave import Measured, Plan, measure
from benchmarks.engine.pairs import Pair, Run
from benchmarks.engine.record import best_peer, crowded, table, to_record

NOWHERE = Path("model")


@dataclass
class FakeEngine:
    name: str
    weight_class: WeightClass = "8 bit"
    tokens_per_s: float = 100.0
    story: list[str] = field(default_factory=list)
    version: str = "1"
    wrong: str = ""
    """Where it fails: `prepare`, or the name of a cell."""

    def prepare(self, model: Path) -> None:
        if self.wrong == "prepare":
            raise Unavailable("no compiler\nand a long log")

    @contextmanager
    def open(self, model: Path) -> Iterator[Session]:
        yield self
        self.story.append(f"{self.name} closed")

    def rate(self, cell: Cell) -> float:
        if self.wrong == cell.name:
            raise Unavailable("it ended")
        self.story.append(f"{self.name} {cell.name}")
        return self.tokens_per_s


def run(ours: FakeEngine, *peers: FakeEngine, num_pairs: int = 2, cells: tuple[Cell, ...] = (decode(1),)) -> Measured:
    def probe() -> float:
        ours.story.append("probe")
        return 4e10

    plan = Plan(model=NOWHERE, ours={ours.weight_class: ours}, peers=peers, cells=cells, num_pairs=num_pairs)
    return measure(plan, probe, tell=lambda line: None)


def test_a_b_b_a_with_a_probe_before_each_run_and_everything_closed() -> None:
    story: list[str] = []
    run(FakeEngine("a", story=story), FakeEngine("b", story=story))
    runs = ["probe", "a decode 1", "probe", "b decode 1", "probe", "b decode 1", "probe", "a decode 1"]
    assert story == [*runs, "b closed", "a closed"]


def test_one_run_of_ours_stands_between_two_peers_and_makes_a_pair_with_each() -> None:
    story: list[str] = []
    measured = run(*(FakeEngine(name, story=story) for name in "abcd"))
    assert [line[0] for line in story if line.endswith("decode 1")] == list("bacad" + "cabda")
    assert [len(pairs) for pairs in measured.pairs.values()] == [2, 2, 2]


def test_costly_cells_come_every_other_round_and_only_with_whom_they_are_for() -> None:
    long = Cell(kind="decode", batch=1, prompt=2016, only="b", costly=True)
    measured = run(FakeEngine("a"), FakeEngine("b"), FakeEngine("c"), cells=(decode(1), long), num_pairs=5)
    assert {(cell.name, peer): len(pairs) for (_, cell, peer), pairs in measured.pairs.items()} == {
        ("decode 1", "b"): 5,
        ("decode 1", "c"): 5,
        ("decode 1 at 2016", "b"): 3,
    }


def test_peers_are_compared_within_their_class_only() -> None:
    measured = run(FakeEngine("a"), FakeEngine("b"), FakeEngine("c", weight_class="4 bit"))
    assert {peer for _, _, peer in measured.pairs} == {"b"}


def test_who_cannot_be_installed_is_left_out_and_told() -> None:
    measured = run(FakeEngine("a"), FakeEngine("b", wrong="prepare"), FakeEngine("c"))
    assert measured.left_out == {"b": "no compiler\nand a long log"}
    assert {peer for _, _, peer in measured.pairs} == {"c"}
    assert "* b: no compiler" in table(to_record(measured, {}))


def test_who_fails_in_a_cell_is_left_out_of_that_cell_only() -> None:
    cells = (decode(1), prefill(512))
    measured = run(FakeEngine("a"), FakeEngine("b", wrong="prefill 512"), cells=cells, num_pairs=3)
    assert list(measured.failed.values()) == ["it ended"]
    assert [len(pairs) for pairs in measured.pairs.values()] == [3]
    assert "* b, prefill 512: it ended" in table(to_record(measured, {}))


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit])
def test_who_is_ended_keeps_the_pairs_there_are_and_says_so(end: type[BaseException]) -> None:
    probes = iter([1e10] * 5)

    def probe() -> float:
        for read in probes:
            return read
        raise end

    engines = FakeEngine("a"), FakeEngine("b")
    plan = Plan(model=NOWHERE, ours={"8 bit": engines[0]}, peers=engines[1:], cells=[decode(1)], num_pairs=5)
    measured = measure(plan, probe, tell=lambda line: None)
    assert to_record(measured, {})["ended_early"]
    assert [len(pairs) for pairs in measured.pairs.values()] == [2]
    assert engines[1].story[-1] == "b closed"
    assert not to_record(run(FakeEngine("a"), FakeEngine("b")), {})["ended_early"]


def test_alone_we_are_measured_alone() -> None:
    measured = run(FakeEngine("a"))
    record = to_record(measured, {})
    assert record["classes"]["8 bit"]["decode 1"]["ours"] == 100
    assert "| decode 1 | 100 |  | none | | |" in table(record)


def test_a_run_out_of_time_begins_no_other_pair() -> None:
    plan = Plan(
        model=NOWHERE, ours={"8 bit": FakeEngine("a")}, peers=[FakeEngine("b")], cells=(decode(1),), num_pairs=9,
        deadline=0.0,
    )  # fmt: skip
    assert measure(plan, lambda: 1.0, tell=lambda line: None).pairs == {}


def test_the_best_peer_is_the_one_we_lead_least() -> None:
    peers = {"fast": {"ratio": 1.2, "ours": 1, "peer": 9}, "slow": {"ratio": 7.0, "ours": 9, "peer": 1}}
    assert best_peer(peers) == "fast"
    assert best_peer({"refused": {"ratio": None, "ours": 2, "peer": 2}, **peers}) == "refused"
    assert best_peer({}) is None


def test_the_record_holds_every_pair_and_the_table_says_what_was_refused() -> None:
    moved = Pair(ours=Run(rate=30, probe=6e10), peer=Run(rate=10, probe=3e10))
    steady = Pair(ours=Run(rate=30, probe=3e10), peer=Run(rate=20, probe=3e10))
    measured = Measured(pairs={("8 bit", decode(1), "b"): [moved, steady, steady, steady]})
    record = to_record(measured, {})
    assert json.loads(json.dumps(record)) == record
    told = record["classes"]["8 bit"]["decode 1"]["peers"]["b"]
    assert (told["ratio"], told["num_pairs"], told["num_refused"], len(told["pairs"])) == (1.5, 3, 1, 4)
    assert "**1.50** (1.50 to 1.50, 3, 1 refused)" in table(record)
    only_moved = to_record(Measured(pairs={("8 bit", decode(1), "b"): [moved, moved, moved]}), {})
    assert "refused: memory moved in 3 of 3 pairs" in table(only_moved)


def test_a_table_of_crowded_pairs_says_that_it_is_no_result() -> None:
    busy = Pair(ours=Run(rate=30, probe=1, waited=0.9), peer=Run(rate=10, probe=1, waited=0.9))
    quiet = Pair(ours=Run(rate=30, probe=1, waited=0.0), peer=Run(rate=10, probe=1, waited=0.0))
    both = to_record(Measured(pairs={("8 bit", decode(4), "b"): [busy, quiet]}), {})
    assert "1 of 2 pairs were crowded" in crowded(both)
    assert crowded(to_record(Measured(pairs={("8 bit", decode(4), "b"): [quiet]}), {})) == ""


ECHO = """
import os, sys, json
sys.path.insert(0, os.environ["CHILDREN"])
import child
settings = child.settings()
print("noise of a library")
os.system("echo noise of a program")
def generate(prompts, new_tokens):
    if len(prompts) == settings["too_many"]:
        raise RuntimeError("out of memory")
    if len(prompts) == settings["deadly"]:
        os._exit(3)
    return (64, 0.5) if len(prompts) == 2 else None
child.serve(f"v{os.getpgid(0) == os.getpid()}", 100, generate)
"""


@pytest.fixture
def echo(tmp_path: Path) -> Child:
    script = tmp_path / "echo.py"
    script.write_text(ECHO)
    return Child(
        python=Path(sys.executable),
        script=str(script),
        settings={"too_many": 3, "deadly": 4},
        environment={"CHILDREN": str(CHILDREN)},
        log=tmp_path / "log",
    )


def state_of(process_id: int) -> str:
    """One letter (proc(5)); Z if it is gone."""
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def is_stopped(process_id: int) -> bool:
    """Soon, if not at once: a signal takes its time."""
    deadline = time.monotonic() + 30
    while state_of(process_id) != "T":
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True


def test_a_child_answers_is_stopped_between_its_runs_and_gone_at_the_end(echo: Child) -> None:
    with open_child(echo) as session:
        process_id = session.process_id
        assert session.version == "vTrue"
        assert is_stopped(process_id)
        assert session.rate(prefill(512)) > 0
        assert is_stopped(process_id)
    assert "noise of a program" in echo.log.read_text()
    with pytest.raises(ProcessLookupError):
        os.kill(process_id, 0)


KILLED = """
import os, signal, sys
from pathlib import Path
from benchmarks.engine.engines import Child, end_in_order, open_child
end_in_order()
child = Child(python=Path(sys.executable), script=sys.argv[1], settings={"too_many": 3, "deadly": 4},
              environment={"CHILDREN": sys.argv[2]}, log=Path(sys.argv[1] + ".log"))
with open_child(child) as session:
    print(session.process_id, flush=True)
    os.kill(os.getpid(), getattr(signal, sys.argv[3]))
    signal.pause()
"""


@pytest.mark.parametrize("number", ["SIGTERM", "SIGKILL"])
def test_a_harness_that_is_killed_leaves_no_stopped_engine_behind(echo: Child, number: str) -> None:
    command = [sys.executable, "-c", KILLED, echo.script, str(CHILDREN), number]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=CHILDREN.parents[2])
    process_id = int(done.stdout)
    deadline = time.monotonic() + 30
    while Path(f"/proc/{process_id}").exists() and state_of(process_id) != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_child_that_raises_or_dies_is_unavailable_and_says_why(echo: Child) -> None:
    with open_child(echo) as session:
        with pytest.raises(Unavailable, match="RuntimeError: out of memory"):
            session.rate(decode(3))
        with pytest.raises(Unavailable, match="it ended"):
            session.rate(decode(4))
        with pytest.raises(Unavailable, match="it ended"):
            session.rate(decode(2))


def test_behind_long_prompts_a_child_tells_the_time_of_decoding_alone(echo: Child) -> None:
    with open_child(echo) as session:
        assert session.rate(decode(2, 2016)) == 128
        with pytest.raises(Unavailable, match="does not tell"):
            session.rate(decode(1, 2016))


def test_a_program_that_fails_is_unavailable_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="ended with 1: bad model"):
        run_to_end([sys.executable, "-c", "import sys; sys.exit('bad model')"], timeout_s=30, folder=tmp_path)
    with pytest.raises(Unavailable):
        run_to_end(["/nonexistent/program"], timeout_s=30, folder=tmp_path)
    with pytest.raises(Unavailable, match="timed out"):
        run_to_end([sys.executable, "-c", "import time; time.sleep(30)"], timeout_s=0.2, folder=tmp_path)
