"""A worker that waits, on the real node: it becomes the next that is started, behind the very walls of any other, and
whoever is killed at whatever moment, nothing half is left."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.system.node import PATIENCE_S, TINY, Node, eventually, node
from thaloom.base.procs import identify
from thaloom.edge.wire.control import PullRequest, ServeRequest
from thaloom.kernel.sandbox.finding import find_groups
from thaloom.kernel.sandbox.grouping import folder_name

__all__ = ["node"]

pytestmark = pytest.mark.slow


def waiting(node: Node) -> int | None:
    with node.client() as client:
        return client.status().standby_pid


def worker(node: Node) -> int:
    return node.process("worker", "tiny").pid


def told(node: Node, name: str) -> list[dict[str, Any]]:
    with node.client() as client:
        return [event.fields for event in client.events(limit=1000) if event.name == name]


def groups_left(node: Node) -> list[str]:
    return [group.name for group in find_groups(folder_name(node.home)).list()]


def walls_of(pid: int, daemon: int) -> dict[str, Any]:
    """All that is around a process, without what is one process's alone: ids, inodes, numbers of sockets."""
    proc = Path(f"/proc/{pid}")
    spec = re.search(rb"/(w-[0-9a-f]+)\.json", (proc / "cmdline").read_bytes())
    assert spec is not None

    def plain(text: str) -> str:
        return re.sub(r"\[\d+\]|\d+:\d+ |^\d+ \d+ |(?:master|shared):\d+ ", "", text.replace(spec[1].decode(), "ID"))

    names = ("NoNewPrivs", "Seccomp", "Seccomp_filters", "Uid", "Gid", "Groups", "Umask", "SigBlk", "SigIgn", "SigCgt")
    status = dict(line.split(":\t", 1) for line in (proc / "status").read_text().splitlines() if ":\t" in line)
    threads = [
        tuple(
            line for line in (task / "status").read_text().splitlines() if line.startswith(("Seccomp", "Cap", "NoNew"))
        )
        for task in (proc / "task").iterdir()
    ]
    open_files = Counter[str]()
    for path in (proc / "fd").iterdir():
        with contextlib.suppress(OSError):  # a connection that asks how it is ends meanwhile
            flags = next(line for line in (proc / "fdinfo" / path.name).read_text().splitlines() if "flags" in line)
            place = path.name if int(path.name) <= 2 else ""
            open_files[f"{place} {plain(str(path.readlink()))} {flags}"] += 1
    (group,) = {
        line.rpartition("/")[2] for line in (proc / "cgroup").read_text().splitlines() if spec[1].decode() in line
    }
    return {
        "status": {name: status.get(name) for name in names} | {k: v for k, v in status.items() if k.startswith("Cap")},
        "threads": Counter(threads),
        "own namespaces": {
            path.name
            for path in (proc / "ns").iterdir()
            if path.readlink() != Path(f"/proc/{daemon}/ns/{path.name}").readlink()
        },
        "group": (plain(group), sorted(map(plain, (proc / "cgroup").read_text().splitlines()))),
        "view": sorted(map(plain, (proc / "mountinfo").read_text().splitlines())),
        "places": [plain(str((proc / name).readlink())) for name in ("cwd", "root", "exe")],
        "limits": re.sub(r"(?m)^(Max file size) +\d.*$", r"\1 its log and more", (proc / "limits").read_text()),
        "oom": (proc / "oom_score_adj").read_text(),
        "turns": (os.sched_getscheduler(pid), os.getpriority(os.PRIO_PROCESS, pid), os.sched_getaffinity(pid)),
        "session": (os.getsid(pid) == pid, os.getpgid(pid) == pid),
        "files": {name: num for name, num in open_files.items() if "socket:" not in name},
    }


def limits_of(node: Node, name: str) -> list[tuple[str, str]]:
    (group,) = [group for group in find_groups(folder_name(node.home)).list() if group.name == name]
    files = ("memory.limit_in_bytes", "memory.max", "memory.swap.max", "memory.memsw.limit_in_bytes", "pids.max",
             "cpu.shares", "cpu.weight")  # fmt: skip
    return sorted(
        (file, (place / file).read_text())
        for place in group.places.values()
        for file in files
        if (place / file).exists()
    )


def test_who_waited_is_behind_the_very_walls_of_one_that_was_started(node: Node) -> None:
    node.start()
    node.serve_tiny()
    node.wait_for_door()
    wanted = node.answer()
    first, first_id = worker(node), node.process("worker", "tiny").id
    fresh, fresh_limits = walls_of(first, node.daemon.pid), limits_of(node, first_id)
    standby = eventually(lambda: waiting(node))
    assert node.heal() == standby
    assert node.answer() == wanted
    eventually(lambda: walls_of(standby, node.daemon.pid) == fresh)
    assert limits_of(node, node.process("worker", "tiny").id) == fresh_limits
    assert not told(node, "StandbyUnused")


def test_a_key_reaches_it_as_it_reaches_any_other(node: Node) -> None:
    node.home.mkdir(parents=True, exist_ok=True)
    key = node.home / "master.key"
    key.write_bytes(os.urandom(32))
    key.chmod(0o600)
    node.start()
    with node.client() as client:
        client.pull(PullRequest(source=str(TINY), name="tiny", encrypt=True))
        client.serve("tiny", ServeRequest(model="tiny", num_threads=1))
        client.wait_ready("tiny", timeout_s=PATIENCE_S)
    node.wait_for_door()
    wanted = node.answer()
    standby = eventually(lambda: waiting(node))
    assert node.heal() == standby
    assert node.answer() == wanted


def test_one_that_is_killed_while_it_waits_is_told_and_another_comes(node: Node) -> None:
    node.start()
    node.serve_tiny()
    first = eventually(lambda: waiting(node))
    node.kill(first)
    eventually(lambda: waiting(node) not in (None, first))
    assert [event["reason"] for event in told(node, "StandbyLost")] == ["it ended"]
    assert len(groups_left(node)) == 3, "the door's, the worker's, and that of the one that waits"
    assert worker(node) != waiting(node)


def test_one_that_is_stopped_is_given_up_and_a_process_started_instead(node: Node) -> None:
    """In the hand-over: it has its orders and does not carry them out."""
    node.start()
    node.serve_tiny()
    node.wait_for_door()
    wanted = node.answer()
    standby = eventually(lambda: waiting(node))
    os.kill(standby, signal.SIGSTOP)
    healed = node.heal()
    assert healed != standby
    assert identify(standby) is None
    assert len(told(node, "StandbyUnused")) == 1
    assert node.answer() == wanted


def test_one_that_is_killed_in_the_hand_over_is_not_missed(node: Node) -> None:
    node.start()
    node.serve_tiny()
    node.wait_for_door()
    standby = eventually(lambda: waiting(node))
    identity = identify(standby)
    assert identity is not None
    os.kill(standby, signal.SIGSTOP)  # it is asked, and killed before it can answer
    before = identify(worker(node))
    assert before is not None
    before.send(signal.SIGKILL)
    eventually(lambda: not before.alive() and waiting(node) is None)
    identity.send(signal.SIGKILL)
    with node.client() as client:
        client.wait_ready("tiny", timeout_s=PATIENCE_S)
        eventually(lambda: node.process("worker", "tiny").pid not in (standby, before.pid))
    assert [event["reason"] for event in told(node, "StandbyUnused")]


def test_a_daemon_that_is_killed_takes_the_one_that_waits_with_it(node: Node) -> None:
    node.start()
    node.serve_tiny()
    kept, standby = worker(node), eventually(lambda: waiting(node))
    shown = node.process("standby")
    assert (shown.pid, shown.service) == (standby, None)
    assert shown.resident_bytes
    node.kill(node.daemon.pid)
    eventually(lambda: (left := identify(standby)) is None or not left.alive())
    node.start()
    assert worker(node) == kept
    eventually(lambda: waiting(node) not in (None, standby))
    assert len(groups_left(node)) == 3


@pytest.mark.parametrize("resumed_first", [True, False])
def test_a_daemon_that_is_killed_in_the_hand_over_leaves_a_worker_or_nothing(node: Node, resumed_first: bool) -> None:
    """Orders that were sent whole are carried out, and the next daemon adopts that worker; one that is gone is not
    missed."""
    node.start()
    node.serve_tiny()
    node.wait_for_door()
    wanted = node.answer()
    standby = identify(eventually(lambda: waiting(node)))  # type: ignore[arg-type]
    before = identify(worker(node))
    assert standby is not None
    assert before is not None
    os.kill(standby.pid, signal.SIGSTOP)
    before.send(signal.SIGKILL)
    eventually(lambda: waiting(node) is None)  # it has its orders now
    node.kill(node.daemon.pid)
    standby.send(signal.SIGCONT if resumed_first else signal.SIGKILL)
    node.start()
    with node.client() as client:
        client.wait_ready("tiny", timeout_s=PATIENCE_S)
    assert (worker(node) == standby.pid) == resumed_first
    node.wait_for_door()
    assert node.answer() == wanted
    eventually(lambda: waiting(node))
    assert node.process_pids("thaloom.worker") == [worker(node)]
    assert len(groups_left(node)) == 3


def test_code_that_was_changed_meanwhile_is_not_used(node: Node, tmp_path: Path) -> None:
    """As after an upgrade: what it imported is no longer what a process started now would import."""
    package = tmp_path / "later"
    package.mkdir()
    (package / "sitecustomize.py").write_text("import thaloom_later_plugin\n")
    (package / "thaloom_later_plugin.py").write_text("")
    paths = [str(package), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    node.environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    node.start()
    node.serve_tiny()
    standby = eventually(lambda: waiting(node))
    (package / "thaloom_later_plugin.py").write_text("CHANGED = True\n")
    assert node.heal() != standby
    (reason,) = [event["reason"] for event in told(node, "StandbyUnused")]
    assert "thaloom_later_plugin" in reason
    eventually(lambda: waiting(node))
    assert node.heal()
    assert len(told(node, "StandbyUnused")) == 1


def test_a_node_that_is_told_so_keeps_none_waiting(node: Node) -> None:
    node.start()
    node.serve_tiny()
    standby = identify(eventually(lambda: waiting(node)))  # type: ignore[arg-type]
    assert standby is not None
    (node.home / "config.toml").write_text("standby = false\n")
    os.kill(node.daemon.pid, signal.SIGHUP)
    eventually(lambda: waiting(node) is None)
    eventually(lambda: not standby.alive())
    eventually(lambda: len(groups_left(node)) == 2)
    with node.client() as client:
        assert client.status().standby_bytes == 0


def test_a_node_that_goes_down_leaves_none(node: Node) -> None:
    node.start()
    node.serve_tiny()
    eventually(lambda: waiting(node))
    with node.client() as client:
        assert client.status().standby_bytes > 0
        client.down()
    node.daemon.wait(PATIENCE_S)
    assert node.processes_of_home() == []
    assert groups_left(node) == []


def test_a_service_that_was_idle_is_woken_by_it(node: Node) -> None:
    node.start()
    node.serve_tiny()
    node.wait_for_door()
    wanted = node.answer()
    eventually(lambda: waiting(node))
    with node.client() as client:
        client.serve("tiny", ServeRequest(model="tiny", num_threads=1, keep_alive_s=0.0))
        eventually(lambda: client.service("tiny").phase == "idle")
        standby = eventually(lambda: waiting(node))
        assert node.answer() == wanted
    assert any(event["pid"] == standby for event in told(node, "ProcessStarted"))
