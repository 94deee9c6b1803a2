"""Jobs of a real node: real programs behind real walls, and whatever is killed meanwhile."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.system.cli import thaloom
from tests.system.node import PATIENCE_S, Node, eventually, node
from thaloom.base.actions import Terms
from thaloom.base.clock import SystemClock
from thaloom.base.errors import (
    DeviceNotFound,
    DiskFull,
    JobNotFound,
    NameTaken,
    NotEnforceable,
    OutOfMemory,
    ThaloomError,
    WrongState,
)
from thaloom.base.ids import JobName
from thaloom.edge.client.control import ControlClient
from thaloom.edge.wire.control import Job, JobDependency, JobRequest, JobResources
from thaloom.init.jobs.confining import GROUP
from thaloom.init.jobs.files import JobFiles
from thaloom.kernel.sandbox.disk import is_mounted
from thaloom.kernel.sandbox.finding import find_groups
from thaloom.kernel.sandbox.grouping import folder_name
from thaloom.kernel.state.store import StateStore
from thaloom.kernel.trust.seals import node_key, sealing

__all__ = ["node"]

pytestmark = pytest.mark.slow
MIB = 1 << 20
HELD = "until test -e go; do sleep 0.05; done"
"""For the shell: go on only when the test says so (`let_go`), however long that takes it."""


def run(node: Node, name: str, command: str | Sequence[str], **wish: Any) -> Job:
    """A line for the shell, or words."""
    words = ["sh", "-c", command] if isinstance(command, str) else list(command)
    with node.client() as client:
        return client.run_job(name, JobRequest(command=words, **wish))


def over(node: Node, name: str) -> Job:
    with node.client() as client:
        return client.wait_job(name, timeout_s=PATIENCE_S)


def job(node: Node, name: str) -> Job:
    with node.client() as client:
        return client.job(name)


def running(node: Node, name: str) -> Job:
    """Once its program is there and has become itself."""
    eventually(lambda: job(node, name).pid is not None)
    return job(node, name)


def let_go(node: Node, name: str) -> None:
    """One that is HELD in a folder of its own."""
    running(node, name)
    (files(node, name).work / "go").touch()


def log(node: Node, name: str) -> list[str]:
    with node.client() as client, client.job_logs(name, tail=1000) as lines:
        return list(lines)


def said(node: Node, name: str, line: str) -> None:
    eventually(lambda: line in log(node, name))


def files(node: Node, name: str) -> JobFiles:
    return JobFiles(node.home / "jobs" / name)


def groups_left(node: Node) -> list[str]:
    """Of jobs: the door has one too."""
    names = [group.name for group in find_groups(folder_name(node.home)).list()]
    return [name for name in names if name.startswith(GROUP)]


def ready(job: Job) -> str:
    return next(condition.reason for condition in job.conditions if condition.kind == "Ready")


def test_a_program_runs_to_its_end_and_tells_its_exit_code(node: Node) -> None:
    node.start()
    run(node, "hello", "echo out; echo err >&2; pwd; exit 3", env={"X": "1"})
    done = over(node, "hello")
    assert (done.phase, done.ended_by, done.attempts[-1].exit_code, done.num_attempts) == ("failed", "exit", 3, 1)
    assert log(node, "hello") == ["out", "err", str(files(node, "hello").work)]
    run(node, "good", "true")
    assert (over(node, "good").phase, ready(job(node, "good"))) == ("succeeded", "Succeeded")
    eventually(lambda: not groups_left(node))
    assert node.process_pids("thaloom.daemon")
    assert not [path for path in files(node, "hello").folder.iterdir() if path.name[0].isdigit()]


# -- tried again, in time, in order -----------------------------------------------------------------------------------


def test_what_fails_is_tried_again_with_a_back_off_until_it_succeeds(node: Node) -> None:
    node.start()
    run(node, "third", 'echo again; test "$THALOOM_JOB_ATTEMPT" -ge 3', retries=5, backoff_s=0.1)
    done = over(node, "third")
    assert (done.phase, done.num_attempts, done.failures) == ("succeeded", 3, 2)
    assert log(node, "third") == ["again"] * 3
    waits = [
        later.started_at - (earlier.ended_at or 0.0)
        for earlier, later in zip(done.attempts, done.attempts[1:], strict=False)
    ]
    assert waits[0] >= 0.1
    assert waits[1] >= 0.2
    with node.client() as client:
        names = [event.name for event in client.events() if event.fields.get("job") == "third"]
    assert names == [
        "JobWished", *["JobStarted", "JobAttemptFailed"] * 2, "JobStarted", "JobEnded"
    ]  # fmt: skip


def test_a_crash_loop_backs_off_and_is_reported_with_the_last_lines_of_its_log(node: Node) -> None:
    node.start()
    run(node, "loop", "echo fine; echo it broke; exit 9", retries=100, backoff_s=0.05, max_backoff_s=60)

    def degraded() -> str | None:
        found = job(node, "loop")
        return next((each.message for each in found.conditions if each.kind == "Degraded"), None)

    assert "attempts failed: fine\nit broke" in eventually(degraded)
    eventually(lambda: job(node, "loop").failures >= 3)
    assert ready(job(node, "loop")) in ("BackOff", "Running", "Starting")
    with node.client() as client:
        client.stop_job("loop")
    assert over(node, "loop").phase == "stopped"


def test_it_is_tried_again_after_the_given_exit_codes_alone(node: Node) -> None:
    node.start()
    run(node, "again", 'test "$THALOOM_JOB_ATTEMPT" = 1 && exit 75; exit 1', retries=9, backoff_s=0, retry_codes=[75])
    done = over(node, "again")
    assert (done.phase, done.num_attempts, done.attempts[-1].exit_code) == ("failed", 2, 1)


def test_a_deadline_holds_over_all_attempts_and_is_named(node: Node) -> None:
    node.start()
    run(node, "slow", "sleep 60", deadline_s=0.5)
    done = over(node, "slow")
    assert (done.phase, done.ended_by, done.num_attempts) == ("failed", "deadline", 1)
    assert "0.5 s" in done.message
    for deadline_s in (1.0, 10.0):  # on a busy machine the first attempt alone may take the second
        wish = {"retries": 1000, "backoff_s": 0.3, "max_backoff_s": 0.3, "deadline_s": deadline_s}
        run(node, f"never-{deadline_s:g}", "exit 1", **wish)
        done = over(node, f"never-{deadline_s:g}")
        assert (done.phase, done.ended_by) == ("failed", "deadline")
        if done.num_attempts > 1:
            return
    raise AssertionError("it was tried only once")


def test_a_job_waits_for_others_and_their_endings(node: Node, tmp_path: Path) -> None:
    node.start()
    run(node, "first", f"{HELD}; echo made > made", directory=str(tmp_path))
    run(
        node,
        "second",
        "cat made",
        directory=str(tmp_path),
        depends_on=[JobDependency(job="first")],
    )
    assert ready(job(node, "second")) == "WaitsForJob"
    (tmp_path / "go").touch()
    assert over(node, "second").phase == "succeeded"
    assert log(node, "second") == ["made"]
    run(node, "bad", "exit 1")
    run(node, "needs", "true", depends_on=[JobDependency(job="bad")])
    run(node, "anyway", "true", depends_on=[JobDependency(job="bad", ending="ended")])
    run(node, "further", "true", depends_on=[JobDependency(job="needs")])
    assert over(node, "anyway").phase == "succeeded"
    for name in ("needs", "further"):
        done = over(node, name)
        assert (done.phase, done.ended_by, done.num_attempts) == ("failed", "dependency", 0)
    with node.client() as client, pytest.raises(JobNotFound):
        client.run_job("x", JobRequest(command=["true"], depends_on=[JobDependency(job="nobody")]))


def test_it_is_forgotten_some_time_after_its_end_but_not_while_others_wait_for_it(node: Node) -> None:
    node.start()
    run(node, "short", "true", ttl_s=0.0)
    eventually(lambda: not _there(node, "short"))
    eventually(lambda: not files(node, "short").folder.exists())
    run(node, "base", HELD, ttl_s=0.0)
    run(node, "upon", HELD, depends_on=[JobDependency(job="base")])
    let_go(node, "base")
    running(node, "upon")
    with node.client() as client:
        with pytest.raises(WrongState):
            client.remove_job("base", stop=True)
    assert job(node, "base").phase == "succeeded"
    let_go(node, "upon")
    assert over(node, "upon").phase == "succeeded"
    eventually(lambda: not _there(node, "base"))


def _there(node: Node, name: str) -> bool:
    with contextlib.suppress(JobNotFound):
        return bool(job(node, name))
    return False


# -- stopped and removed ----------------------------------------------------------------------------------------------


def test_it_is_asked_to_end_and_killed_after_its_grace_with_all_it_started(node: Node) -> None:
    node.start()
    run(node, "polite", "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.1; done")
    said(node, "polite", "up")
    with node.client() as client:
        client.stop_job("polite")
    done = over(node, "polite")
    assert (done.phase, done.ended_by, log(node, "polite")[-1]) == ("stopped", "stopped", "bye")
    run(node, "deaf", "trap '' TERM; setsid sleep 1000 & echo up; while :; do sleep 0.1; done", grace_s=0.5)
    said(node, "deaf", "up")
    before = time.monotonic()
    with node.client() as client:
        client.stop_job("deaf")
    assert over(node, "deaf").phase == "stopped"
    assert time.monotonic() - before >= 0.4
    eventually(lambda: not groups_left(node))
    assert not _command_lines(node, "sleep\x001000")


def test_what_it_left_running_ends_with_it(node: Node) -> None:
    node.start()
    run(node, "leaves", "setsid sh -c 'exec sleep 1001' & echo done")
    assert over(node, "leaves").phase == "succeeded"
    assert not _command_lines(node, "sleep\x001001")


def _command_lines(node: Node, wanted: str) -> list[str]:
    """Of processes of this node: others of this machine may run the same."""
    found = []
    for process in node.processes_of_home():
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{process.pid}/cmdline").read_bytes().decode(errors="replace")
            if wanted in text:
                found.append(text)
    return found


def test_it_is_removed_with_its_logs_once_it_is_over_or_stopped_for_that(node: Node) -> None:
    node.start()
    run(node, "long", "sleep 1000")
    running(node, "long")
    with node.client() as client:
        with pytest.raises(WrongState, match="not over"):
            client.remove_job("long")
        client.remove_job("long", stop=True)
        with pytest.raises(JobNotFound):
            client.job("long")
        with pytest.raises(JobNotFound):
            client.stop_job("long")
        assert client.jobs().counts == {}
    assert not files(node, "long").folder.exists()
    assert not groups_left(node)


def test_a_name_is_taken_until_it_is_replaced(node: Node) -> None:
    node.start()
    run(node, "one", "echo a")
    over(node, "one")
    for command in ("echo a", "echo b"):
        with pytest.raises(NameTaken):
            run(node, "one", command)
    run(node, "one", "echo b", replace=True)
    assert (over(node, "one").num_attempts, log(node, "one")) == (2, ["a", "b"])
    run(node, "one", "echo b", replace=True)
    assert over(node, "one").num_attempts == 3


# -- behind walls -----------------------------------------------------------------------------------------------------

GREEDY = "import time\nkept = []\nwhile True: kept.append(bytearray(8 << 20)); time.sleep(0.01)\n"


def test_the_memory_wall_ends_it_and_is_named(node: Node) -> None:
    node.start()
    run(node, "greedy", [sys.executable, "-c", GREEDY], resources=JobResources(memory_bytes=64 * MIB))
    done = over(node, "greedy")
    assert (done.phase, done.ended_by, ready(done)) == ("failed", "memory", "MemoryLimit")
    assert "64.0 MiB" in done.message


def test_a_fork_bomb_ends_at_its_wall_and_nothing_of_it_is_left(node: Node) -> None:
    node.start()
    bomb = "b() { b | b & }; b; sleep 1; exit 7"
    run(node, "bomb", ["bash", "-c", bomb], resources=JobResources(num_pids=40, memory_bytes=128 * MIB))
    done = over(node, "bomb")
    assert (done.phase, done.ended_by, ready(done)) == ("failed", "pids", "ProcessLimit")
    assert "40" in done.message
    eventually(lambda: not groups_left(node))
    run(node, "after", "true")
    assert over(node, "after").phase == "succeeded"


FILL = "import os\nwith open('big', 'wb') as file:\n    while True: file.write(os.urandom(1 << 20))\n"
DISK_BYTES = 32 * MIB


def disk_refused(node: Node) -> bool:
    """Whether this host has no disk for a job; then it is the refusal that is tested."""
    with contextlib.suppress(ThaloomError):
        run(node, "probe", "true", resources=JobResources(disk_bytes=DISK_BYTES))
        assert over(node, "probe").phase == "succeeded"
        return False
    with pytest.raises(NotEnforceable, match="limit 'disk' cannot be enforced") as caught:
        run(node, "probe", "true", resources=JobResources(disk_bytes=DISK_BYTES))
    assert caught.value.param == "disk_bytes"
    return True


def test_a_disk_that_is_filled_is_a_wall_that_is_named_and_its_bytes_come_back(node: Node) -> None:
    node.start()
    if disk_refused(node):
        return
    run(node, "fills", [sys.executable, "-c", FILL], resources=JobResources(disk_bytes=DISK_BYTES))
    done = over(node, "fills")
    assert (done.phase, done.ended_by, ready(done)) == ("failed", "disk", "DiskLimit")
    assert "32.0 MiB" in done.message
    assert "No space left" in done.message
    image = files(node, "fills").disk
    assert image.stat().st_blocks * 512 >= DISK_BYTES * 0.98  # all of it was taken before, save a few holes
    assert list(files(node, "fills").work.iterdir()) == []  # and nothing was written beside it
    eventually(lambda: not is_mounted(image))
    with node.client() as client:
        client.remove_job("fills")
    assert not image.exists()


def test_a_disk_keeps_what_is_on_it_over_attempts_and_kills_and_is_never_mounted_twice(node: Node) -> None:
    node.start()
    if disk_refused(node):
        return
    line = 'echo "$THALOOM_JOB_ATTEMPT" >> tries; test "$THALOOM_JOB_ATTEMPT" -ge 3 && cat tries; sleep "$1"; exit 1'
    words = ["sh", "-c", line.replace('"$1"', "$(test $THALOOM_JOB_ATTEMPT = 1 && echo 60 || echo 0)")]
    run(node, "kept", words, retries=2, backoff_s=0, resources=JobResources(disk_bytes=DISK_BYTES))
    running(node, "kept")
    image = files(node, "kept").disk
    eventually(lambda: is_mounted(image))
    reaper = files(node, "kept").keeper()
    assert reaper is not None
    eventually(lambda: "tries" in _shown_to(job(node, "kept").pid, files(node, "kept").work))
    assert reaper.send(signal.SIGKILL)
    done = over(node, "kept")
    assert [attempt.ended_by for attempt in done.attempts] == ["lost", "exit", "exit"]
    assert log(node, "kept") == ["1", "2", "3"]
    eventually(lambda: not is_mounted(image))  # nothing is left to be unmounted by anybody
    assert str(image) not in Path("/proc/self/mountinfo").read_text()


def _shown_to(pid: int | None, folder: Path) -> list[str]:
    """What a process has there, in its own mount namespace."""
    with contextlib.suppress(OSError):
        return [path.name for path in Path(f"/proc/{pid}/root{folder}").iterdir()]
    return []


def test_it_sees_neither_the_network_nor_the_node_unless_it_asks(node: Node, tmp_path: Path) -> None:
    node.start()
    outside = tmp_path / "outside"
    outside.write_text("secret\n")
    connect = f"import socket; socket.create_connection(('127.0.0.1', {node.port}), 2)"
    node.wait_for_door()
    run(node, "alone", [sys.executable, "-c", connect])
    assert over(node, "alone").phase == "failed"
    run(node, "joined", [sys.executable, "-c", connect], network="host")
    assert over(node, "joined").phase == "succeeded", job(node, "joined")
    run(node, "peeks", f"cat {outside}")
    assert over(node, "peeks").phase == "failed"
    run(node, "peeks-too", f"ls {node.home}/models; test ! -e {node.home}/models && test ! -e {node.home}/state.db")
    assert over(node, "peeks-too").phase == "succeeded"
    run(node, "reads", f"cat {outside} && ! echo x >> {outside}", read=[str(outside)])
    assert (over(node, "reads").phase, log(node, "reads")[0]) == ("succeeded", "secret")
    run(node, "writes", f"echo more >> {outside}", write=[str(outside)])
    assert (over(node, "writes").phase, outside.read_text()) == ("succeeded", "secret\nmore\n")
    run(node, "sees-all", f"ls /var && test ! -e {node.home}/state.db", whole_host=True)
    assert over(node, "sees-all").phase == "succeeded"


def test_variables_and_secrets_reach_the_program_and_nobody_else(node: Node, tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("s3cret-value\n")
    node.environment["NODE_SIDE"] = "from-the-node"
    node.start()
    wish = {
        "env": {"PLAIN": "a b", "LD_PRELOAD": "/nowhere.so"},
        "secrets": {"TOKEN": f"file:{secret}", "OTHER": "env:NODE_SIDE"},
    }
    run(node, "env", f'echo "$PLAIN|$TOKEN|$OTHER|$NODE_SIDE|$HOME"; {HELD}', **wish)
    said(node, "env", f"a b|s3cret-value|from-the-node||{files(node, 'env').work}")
    reaper = eventually(lambda: files(node, "env").keeper())
    assert b"s3cret" not in Path(f"/proc/{reaper.pid}/environ").read_bytes()
    assert b"LD_PRELOAD" not in Path(f"/proc/{reaper.pid}/environ").read_bytes()
    let_go(node, "env")
    over(node, "env")
    with node.client() as client:
        assert "s3cret-value" not in repr(client.job("env")) + repr(client.actions())
    kept = [path for path in node.home.rglob("*") if path.is_file() and path.name != "log"]
    assert not [path for path in kept if b"s3cret-value" in path.read_bytes()]
    secret.unlink()
    with node.client() as client, pytest.raises(ThaloomError) as caught:
        client.run_job("again", JobRequest(command=["true"], secrets={"TOKEN": f"file:{secret}"}))
    assert caught.value.param == "secrets"


def test_what_cannot_be_is_refused_with_the_figures(node: Node) -> None:
    node.start()
    with pytest.raises(OutOfMemory) as short:
        run(node, "huge", "true", resources=JobResources(memory_bytes=1 << 50))
    assert short.value.details["needed_bytes"] == 1 << 50
    assert short.value.details["free_bytes"] > 0
    with pytest.raises(DeviceNotFound, match="needs 999 devices"):
        run(node, "devices", "true", resources=JobResources(num_devices=999))
    with pytest.raises((DiskFull, NotEnforceable)):
        run(node, "wide", "true", resources=JobResources(disk_bytes=1 << 50))
    for wish, param in (
        ({"directory": str(node.home)}, "directory"),
        ({"read": ["/no/such/place"]}, "read"),
        ({"retry_codes": [0]}, "retry_codes"),
    ):
        with pytest.raises(ThaloomError) as caught:
            run(node, "wrong", "true", **wish)
        assert caught.value.param == param
    with pytest.raises(ThaloomError, match="no program"):
        run(node, "wrong", ["no-such-program-at-all"])
    run(node, "late", ["./not-there-yet"])
    done = over(node, "late")
    assert (done.phase, done.ended_by) == ("failed", "not_started")
    assert "not-there-yet" in done.message


def test_without_walls_a_limit_that_is_asked_for_is_refused_and_the_rest_runs(node: Node) -> None:
    node.home.mkdir()
    (node.home / "config.toml").write_text('[sandbox]\nwalls = "off"\n')
    node.start()
    with pytest.raises(ThaloomError) as caught:
        run(node, "limited", "true", resources=JobResources(memory_bytes=64 * MIB))
    assert caught.value.code == "not_enforceable"
    with pytest.raises(NotEnforceable):
        run(node, "limited", "true", resources=JobResources(disk_bytes=DISK_BYTES))
    run(node, "plain", "setsid sleep 1002 & pwd; exit 4")
    done = over(node, "plain")
    assert (done.phase, done.attempts[-1].exit_code) == ("failed", 4)
    assert log(node, "plain") == [str(files(node, "plain").work)]
    assert not _command_lines(node, "sleep\x001002")


def test_a_job_waits_for_memory_that_others_hold_and_begins_when_they_end(node: Node) -> None:
    node.home.mkdir()
    (node.home / "config.toml").write_text("[jobs]\nmax_running = 2\n")
    node.start()
    for name in ("a", "b", "c"):
        run(node, name, HELD)
    assert ready(job(node, "c")) == "WaitsForTurn"
    for name in ("a", "b", "c"):
        let_go(node, name)
    with node.client() as client:
        capacity = max(memory.capacity_bytes for memory in client.status().memory)
    assert over(node, "c").phase == "succeeded"
    half = JobResources(memory_bytes=int(capacity * 0.45))
    run(node, "big", HELD, resources=half)
    running(node, "big")
    run(node, "big2", "true", resources=JobResources(memory_bytes=int(capacity * 0.6)))
    waiting = job(node, "big2")
    assert (waiting.phase, ready(waiting)) == ("pending", "OutOfMemory")
    with node.client() as client:
        (host,) = [each for each in client.status().memory if each.device == "cpu"]
        assert host.reserved_bytes >= half.memory_bytes  # type: ignore[operator]
        client.remove_job("big2", stop=True)
    let_go(node, "big")
    assert over(node, "big").phase == "succeeded"


# -- logs -------------------------------------------------------------------------------------------------------------


def test_a_flood_of_output_is_kept_within_its_bound_and_ends_with_the_last_line(node: Node) -> None:
    node.home.mkdir()
    (node.home / "config.toml").write_text("[jobs]\nlog_bytes = 1048576\n")
    node.start()
    run(node, "flood", "yes abcdefghijklmnopqrstuvwxyz | head -n 1000000; echo the end")
    assert over(node, "flood").phase == "succeeded"
    kept = files(node, "flood")
    assert kept.log.stat().st_size + kept.earlier_log.stat().st_size <= MIB
    lines = log(node, "flood")
    assert (len(lines), lines[-1]) == (1000, "the end")


def test_logs_are_followed_to_the_end_of_the_job(node: Node) -> None:
    node.start()
    run(node, "talks", "for i in 1 2 3 4 5; do echo line $i; sleep 0.1; done")
    with node.client() as client, client.job_logs("talks", follow=True, tail=100) as lines:
        assert list(lines) == [f"line {i}" for i in range(1, 6)]


# -- whatever is killed -----------------------------------------------------------------------------------------------


def test_a_daemon_that_is_killed_loses_neither_the_exit_code_nor_the_log(node: Node) -> None:
    node.start()
    run(node, "goes-on", f"echo begun; {HELD}; echo ended; exit 5")
    run(node, "ends-meanwhile", f"echo begun; {HELD}; echo ended; exit 6")
    said(node, "goes-on", "begun")
    said(node, "ends-meanwhile", "begun")
    before = files(node, "goes-on").keeper()
    node.kill(node.daemon.pid)
    (files(node, "ends-meanwhile").work / "go").touch()
    eventually(lambda: files(node, "ends-meanwhile").ended(1) is not None)
    node.start()
    assert files(node, "goes-on").keeper() == before
    let_go(node, "goes-on")
    for name, code in (("goes-on", 5), ("ends-meanwhile", 6)):
        done = over(node, name)
        assert (done.phase, done.num_attempts, done.attempts[-1].exit_code) == ("failed", 1, code)
        assert log(node, name) == ["begun", "ended"]
    with node.client() as client:
        adopted = [event.fields["job"] for event in client.events() if event.name == "JobAdopted"]
    assert adopted == ["goes-on"]
    assert not groups_left(node)


def test_deadline_and_stop_hold_over_the_end_of_the_daemon(node: Node) -> None:
    node.start()
    run(node, "stopping", "trap '' TERM; echo up; while :; do sleep 0.1; done", grace_s=4.0, retries=3)
    said(node, "stopping", "up")
    run(node, "late", "echo up; sleep 1000", deadline_s=4.0)
    said(node, "late", "up")
    with node.client() as client:
        client.stop_job("stopping")
    node.kill(node.daemon.pid)  # before either time is over, which is far above what this takes
    eventually(lambda: files(node, "late").ended(1) and files(node, "stopping").ended(1))
    node.start()
    assert over(node, "late").ended_by == "deadline"
    assert (over(node, "stopping").phase, job(node, "stopping").num_attempts) == ("stopped", 1)


def test_a_reaper_that_is_killed_takes_its_program_with_it_and_the_job_is_tried_again(node: Node) -> None:
    node.start()
    run(node, "orphan", "setsid sleep 1003 & echo up; sleep 1004", retries=1, backoff_s=0.1)
    said(node, "orphan", "up")
    reaper = files(node, "orphan").keeper()
    assert reaper is not None
    reaper.send(signal.SIGKILL)
    eventually(lambda: job(node, "orphan").num_attempts == 2)
    eventually(lambda: log(node, "orphan").count("up") == 2)
    eventually(lambda: len(_command_lines(node, "sleep\x001004")) == 1)
    assert job(node, "orphan").attempts[0].ended_by == "lost"
    again = files(node, "orphan").keeper()
    assert again is not None
    node.kill(node.daemon.pid)
    again.send(signal.SIGKILL)
    eventually(lambda: not again.alive())
    node.start()
    done = over(node, "orphan")
    assert (done.phase, done.ended_by, done.num_attempts) == ("failed", "lost", 2)
    assert not _command_lines(node, "sleep\x001003")
    assert not _command_lines(node, "sleep\x001004")
    assert not groups_left(node)


def test_a_node_that_goes_down_stops_its_jobs_and_runs_them_anew_when_it_is_back(node: Node) -> None:
    node.start()
    run(node, "task", 'echo attempt; test "$THALOOM_JOB_ATTEMPT" -ge 2 || sleep 1000')
    said(node, "task", "attempt")
    with node.client() as client:
        client.down()
    node.daemon.wait(PATIENCE_S)
    assert not node.processes_of_home()
    node.start()
    done = over(node, "task")
    assert (done.phase, done.num_attempts, done.failures) == ("succeeded", 2, 0)
    assert done.attempts[0].ended_by == "down"


def test_a_daemon_that_leaves_hands_its_jobs_over(node: Node) -> None:
    node.start()
    run(node, "task", "echo up; sleep 2; echo done")
    said(node, "task", "up")
    node.daemon.send_signal(signal.SIGUSR2)
    node.daemon.wait(PATIENCE_S)
    node.start()
    assert (over(node, "task").num_attempts, log(node, "task")) == (1, ["up", "done"])


def test_what_belongs_to_no_job_any_more_is_swept_at_the_start(node: Node) -> None:
    node.start()
    run(node, "gone", "echo up; sleep 1005")
    said(node, "gone", "up")
    node.kill(node.daemon.pid)

    store = StateStore(
        node.home / "state.db", SystemClock(), seal=sealing(node_key(node.home / "node.key")), is_new=False
    )
    store.jobs.delete(JobName("gone"))
    store.close()
    node.start()
    eventually(lambda: not _command_lines(node, "sleep\x001005"))
    eventually(lambda: not groups_left(node))


# -- on the command line ----------------------------------------------------------------------------------------------


def test_the_command_line_runs_follows_waits_and_ends_as_the_program_did(node: Node) -> None:
    node.start()
    followed = thaloom(node, "job", "run", "--follow", "--name", "f", "sh", "-c", "echo hello; exit 3")
    assert (followed.code, followed.out.splitlines()[0]) == (3, "hello")
    dry = thaloom(node, "job", "run", "--dry-run", "--name", "d", "--", "true")
    assert (dry.code, "job.run" in dry.out) == (0, True)
    assert thaloom(node, "job", "show", "d").code == 3
    wish = ("--retries", "1", "--backoff", "1s", "--memory", "64MiB", "--cpus", "0.5")
    made_up = thaloom(node, "job", "run", *wish, "true")
    name = made_up.out.strip()
    assert name.startswith("true-")
    waited = thaloom(node, "job", "wait", name, "f")
    assert waited.code == 3
    assert "succeeded" in waited.out
    listed = thaloom(node, "job", "ls", "--json").document
    assert {job["name"] for job in listed["jobs"]} == {"f", name}
    assert listed["counts"] == {"failed": 1, "succeeded": 1}
    assert "cpu_permille" in json.dumps(listed)
    assert thaloom(node, "job", "logs", "f").out == "hello\n"
    assert "EXIT" in thaloom(node, "job", "show", "f").out
    thaloom(node, "job", "run", "--name", "l", "sleep", "1006")
    assert thaloom(node, "job", "rm", "l").code != 0
    assert thaloom(node, "job", "rm", "--stop", "l", "f").code == 0
    with node.client() as client:
        (action,) = [each for each in client.actions() if each.kind == "job.run" and f"job/{name}" in each.subjects]
        client.undo(action.id)
        assert client.jobs().counts == {}


def test_asked_again_by_one_id_it_is_run_once(node: Node) -> None:
    node.start()
    with ControlClient(node.home, terms=Terms(action="my-run")) as client:
        for _ in range(2):
            assert client.run_job("once", JobRequest(command=["true"])).name == "once"
            assert over(node, "once").num_attempts == 1
    assert over(node, "once").num_attempts == 1
