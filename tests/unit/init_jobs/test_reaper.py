"""The parent of a job's program, as a process, without walls: what it claims, keeps, bounds and writes down."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from thaloom.init.jobs.files import JobFiles, Written
from thaloom.init.jobs.reaper.plan import ReaperPlan
from thaloom.init.jobs.reaper.reaping import NOT_OURS
from thaloom.init.jobs.runs import reaper_command
from thaloom.kernel.sandbox.inside.words import encode

PATIENCE_S = 30.0


@pytest.fixture
def files(tmp_path: Path) -> JobFiles:
    found = JobFiles(tmp_path / "job")
    found.create()
    return found


class Reapers:
    def __init__(self, files: JobFiles) -> None:
        self._files = files
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, program: str, *, variables: dict[str, str] | None = None, **wish: Any) -> subprocess.Popen[bytes]:
        files, attempt = self._files, wish.pop("attempt", 1)
        facts: dict[str, Any] = {"log_bytes": 1 << 20, "grace_s": 5.0} | wish
        plan = ReaperPlan(
            attempt=attempt,
            claim=str(files.claim_file(attempt)),
            ended=str(files.ended_file(attempt)),
            lock=str(files.lock),
            log=str(files.log),
            command=["/bin/sh", "-c", program],
            walled=False,
            folder=str(files.work),
            **facts,
        )
        files.plan(attempt).write_bytes(plan.encode())
        environment = os.memfd_create("variables")
        os.write(environment, encode(list((variables or {"PATH": "/usr/bin:/bin"}).items())))
        os.lseek(environment, 0, os.SEEK_SET)
        process = subprocess.Popen(
            reaper_command(files.plan(attempt), environment),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=(environment,),
            env={},
            start_new_session=True,
        )
        os.close(environment)
        self.started.append(process)
        return process

    def run(self, program: str, **wish: Any) -> Written:
        process = self.start(program, **wish)
        _, said = process.communicate(timeout=PATIENCE_S)
        assert (process.returncode, said) == (0, b"")
        written = self._files.ended(wish.get("attempt", 1))
        assert written is not None
        return written


@pytest.fixture
def reapers(files: JobFiles) -> Iterator[Reapers]:
    made = Reapers(files)
    yield made
    for process in made.started:
        process.kill()
        process.communicate()


def eventually(what: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("program", "by", "code", "signum"),
    [
        ("exit 0", "exit", 0, None),
        ("exit 7", "exit", 7, None),
        ("kill -9 $$", "signal", None, 9),
        ("kill -SEGV $$", "signal", None, 11),
    ],
)
def test_how_it_ended_is_written_down(
    program: str, by: str, code: int | None, signum: int | None, reapers: Reapers, files: JobFiles
) -> None:
    before = time.time()
    written = reapers.run(program)
    assert (written.by, written.exit_code, written.signal) == (by, code, signum)
    assert before <= written.ended_at <= time.time()
    claim = files.claim(1)
    assert claim is not None
    assert claim.program is not None
    assert not files.ended_file(1).with_name("1.ended.partial").exists()
    assert files.keeper() is None


def test_its_output_folder_and_variables_are_its_own(reapers: Reapers, files: JobFiles) -> None:
    reapers.run("echo out; echo err >&2; pwd; echo $X; echo $HOME", variables={"X": "a\tb\nc", "PATH": "/bin:/usr/bin"})
    assert files.log.read_text() == f"out\nerr\n{files.work}\na b c\n\n"


def test_a_variable_cannot_reach_what_keeps_it(reapers: Reapers, files: JobFiles) -> None:
    process = reapers.start("sleep 0.3", variables={"LD_PRELOAD": "/nowhere.so", "PATH": "/bin:/usr/bin"})
    eventually(lambda: files.claim(1))
    assert Path(f"/proc/{process.pid}/environ").read_bytes() == b""


def test_an_attempt_is_made_once_whoever_asks_again(reapers: Reapers, files: JobFiles) -> None:
    first = reapers.start("echo ran; sleep 1")
    eventually(lambda: (claim := files.claim(1)) is not None and claim.program)
    second = reapers.start("echo ran")
    assert second.wait(PATIENCE_S) == NOT_OURS
    third = reapers.start("echo ran", attempt=2)
    assert third.wait(PATIENCE_S) == NOT_OURS, "another attempt neither, as long as one is kept"
    assert first.wait(PATIENCE_S) == 0
    fourth = reapers.start("echo ran")
    assert fourth.wait(PATIENCE_S) == NOT_OURS, "nor the same again when it is over"
    assert files.log.read_text() == "ran\n"


def test_a_keeper_is_known_by_the_lock_it_holds(reapers: Reapers, files: JobFiles) -> None:
    assert files.keeper() is None
    process = reapers.start("sleep 30")
    eventually(files.keeper)
    keeper = files.keeper()
    assert keeper is not None
    assert keeper.pid == process.pid
    process.kill()
    process.wait()
    assert files.keeper() is None


def test_a_program_ends_with_its_reaper(reapers: Reapers, files: JobFiles) -> None:
    process = reapers.start("sleep 30")
    eventually(lambda: (claim := files.claim(1)) is not None and claim.program)
    claim = files.claim(1)
    assert claim is not None
    program = claim.program
    assert program is not None
    eventually(lambda: b"sleep" in Path(f"/proc/{program.pid}/cmdline").read_bytes())
    process.kill()
    eventually(lambda: not program.alive())
    assert files.ended(1) is None


def test_asked_to_end_it_asks_all_and_kills_after_the_grace(reapers: Reapers, files: JobFiles) -> None:
    polite = reapers.start("trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.05; done")
    eventually(lambda: files.log.exists() and "up" in files.log.read_text())
    polite.send_signal(signal.SIGTERM)
    assert polite.wait(PATIENCE_S) == 0
    written = files.ended(1)
    assert written is not None
    assert (written.by, written.exit_code) == ("stopped", 3)
    deaf = reapers.start(
        "trap '' TERM; setsid sleep 60 & echo deaf; while :; do sleep 0.05; done", attempt=2, grace_s=0.3
    )
    eventually(lambda: "deaf" in files.log.read_text())
    deaf.send_signal(signal.SIGTERM)
    deaf.send_signal(signal.SIGTERM)
    assert deaf.wait(PATIENCE_S) == 0
    written = files.ended(2)
    assert written is not None
    assert (written.by, written.signal) == ("stopped", 9)


def test_a_deadline_is_kept_with_nobody_else_there(reapers: Reapers) -> None:
    written = reapers.run("sleep 60", deadline_s=1.0)
    assert (written.by, written.signal) == ("deadline", 15)


def test_orphans_come_to_it_and_end_with_the_program(reapers: Reapers, files: JobFiles) -> None:
    reapers.run("setsid sh -c 'echo $$; exec sleep 60' & sleep 0.2; exit 0")
    pid = int(files.log.read_text())
    assert not Path(f"/proc/{pid}").exists()


def test_output_that_is_closed_before_the_end_is_no_end(reapers: Reapers) -> None:
    assert reapers.run("exec >&- 2>&-; sleep 0.3; exit 4").exit_code == 4


def test_a_flood_stays_within_its_bound(reapers: Reapers, files: JobFiles) -> None:
    reapers.run("yes 0123456789 | head -n 500000; echo end", log_bytes=200_000)
    assert files.log.stat().st_size + files.earlier_log.stat().st_size <= 200_000
    assert (files.earlier_log.read_text() + files.log.read_text()).endswith("0123456789\nend\n")


def test_a_program_that_is_not_there_says_so(reapers: Reapers, files: JobFiles) -> None:
    written = reapers.run("exec /no/such/program")
    assert written.exit_code == 127
    assert "/no/such/program" in files.log.read_text()


def test_a_reaper_is_small(reapers: Reapers, files: JobFiles) -> None:
    """Not more than 8 MB of its own: there may be many."""
    process = reapers.start("sleep 30")
    eventually(lambda: (claim := files.claim(1)) is not None and claim.program)
    lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
    private_kb = sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
    assert private_kb < 8 << 10


def test_a_plan_comes_back_as_it_was_written() -> None:
    plan = ReaperPlan(
        attempt=3, claim="/c", ended="/e", lock="/l", log="/a b\tc", log_bytes=9, grace_s=0.5,
        command=["x", "", "a\nb"], walled=True, deadline_s=1.25, folder="/f", groups=["/g1", "/g2"],
    )  # fmt: skip
    assert vars(ReaperPlan.decode(plan.encode())) == vars(plan)


def test_a_claim_that_was_cut_short_is_none(files: JobFiles) -> None:
    files.claim_file(1).write_text("reaper\t12\t34\nprogram\t5")
    claim = files.claim(1)
    assert claim is not None
    assert claim.program is None
    files.claim_file(1).write_text("rea")
    assert files.claim(1) is None
    files.ended_file(1).write_text('{"by": "exit"}')
    assert files.ended(1) is None
