"""A real node whose workers live behind walls: what they meet is named, and nothing of them is left behind."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.node import PATIENCE_S, Node, eventually, node
from thaloom.base.ids import WorkerId
from thaloom.edge.client.control import ControlClient
from thaloom.edge.wire.control import JobRequest, ServeRequest
from thaloom.init.layout import Layout
from thaloom.kernel.sandbox.finding import find_groups
from thaloom.kernel.sandbox.group import Group
from thaloom.kernel.sandbox.grouping import folder_name
from thaloom.kernel.sandbox.latency import WEIGHTS
from thaloom.kernel.sandbox.walls import Confined

__all__ = ["node"]

pytestmark = pytest.mark.slow


def behind(node: Node, service: str = "tiny") -> Confined:
    worker = WorkerId(str(node.process("worker", service).id))
    return Confined(worker, Layout(node.home).worker_walls(worker))


def groups_left(node: Node) -> list[str]:
    return [group.name for group in find_groups(folder_name(node.home)).list()]


def test_a_worker_that_meets_its_memory_limit_is_named_and_comes_back(node: Node) -> None:
    """Its limit is lowered to what it holds just now: the next answer is too much."""
    node.start()
    node.serve_tiny()
    confined = behind(node)
    if confined.group.memory_limit() is None:
        return  # this host cannot hold memory; `thaloom doctor host` says so
    assert "view" in confined.walls()
    lower(confined.group)
    before = node.process("worker", "tiny").pid
    with node.client() as client:
        ask(node)
        eventually(lambda: restarts(client) >= 1)
        client.wait_ready("tiny", timeout_s=PATIENCE_S)
        assert node.process("worker", "tiny").pid != before
        (lost,) = [event for event in client.events() if event.name == "ProcessLost"]
    assert lost.fields["reason"] == "MemoryLimit"
    assert "it met its memory limit" in node.log()
    eventually(lambda: not confined.group.exists())


def test_who_answers_is_interactive_and_a_job_gives_way(node: Node) -> None:
    """As the kernel has it: the weight of their groups, and the policy of their first threads."""
    node.start()
    node.serve_tiny()
    with node.client() as client:
        (service,) = client.services()
        client.run_job("waits", JobRequest(command=["sleep", "60"]))
        job = eventually(lambda: next((found for found in [client.job("waits")] if found.pid), None))
        groups = {group.name: group for group in find_groups(folder_name(node.home)).list()}
        if service.latency == "normal":
            return  # this host has no weights or no turns; `thaloom doctor host` says so
        assert service.latency == "interactive"
        worker, batch = groups[behind(node).group.name], groups["job-waits-1"]
        for group, weight in ((worker, WEIGHTS["interactive"]), (batch, WEIGHTS["batch"])):
            if "cpu" in group.places:
                assert (group.places["cpu"] / "cpu.shares").read_text().strip() == str(weight * 1024 // 100)
            else:
                assert (group.places["v2"] / "cpu.weight").read_text().strip() == str(weight)
        eventually(lambda: os.sched_getscheduler(job.pid) == os.SCHED_BATCH)  # at first it is its launcher
        assert os.getpriority(os.PRIO_PROCESS, job.pid) == 10
        client.remove_job("waits", stop=True)
        client.serve("tiny", ServeRequest(model="tiny", latency="batch"))
        eventually(lambda: os.SCHED_BATCH in policies(node))
        assert client.service("tiny").latency == "batch"


def policies(node: Node) -> list[int]:
    """Of the workers there are; one that ends meanwhile has none."""
    found = []
    for pid in node.process_pids("thaloom.worker"):
        with contextlib.suppress(ProcessLookupError):
            found.append(os.sched_getscheduler(pid))
    return found


def ask(node: Node) -> None:
    """Requests until the worker is gone; what they are answered is not the point here."""
    body = json.dumps({"model": "tiny", "prompt": "The socket " * 300, "max_tokens": 200, "ignore_eos": True})
    node.wait_for_door()
    for _ in range(20):
        connection = http.client.HTTPConnection("127.0.0.1", node.port, timeout=PATIENCE_S)
        with contextlib.closing(connection):
            connection.request("POST", "/v1/completions", body, {"content-type": "application/json"})
            if connection.getresponse().status != 200:
                return


def restarts(client: ControlClient) -> int:
    return next(service.restarts for service in client.services() if service.spec.name == "tiny")


def test_a_door_that_meets_its_memory_limit_is_named_and_comes_back(node: Node) -> None:
    """Its limit is lowered to what it holds just now: the next request is too much."""
    node.start()
    node.wait_for_door()
    door = node.process("door")
    group = Confined(WorkerId(str(door.id)), Layout(node.home).worker_walls(WorkerId(str(door.id)))).group
    if group.memory_limit() is None:
        return  # this host cannot hold memory; `thaloom doctor host` says so
    assert door.pid in group.members()
    lower(group)
    with node.client() as client:
        eventually(lambda: flooded(node) and [event for event in client.events() if event.name == "ProcessLost"])
        (lost, *_) = [event for event in client.events() if event.name == "ProcessLost"]
    assert (lost.fields["role"], lost.fields["reason"]) == ("door", "MemoryLimit")
    eventually(lambda: [pid for pid in node.process_pids("thaloom.door") if pid != door.pid])
    node.wait_for_door()
    eventually(lambda: not group.exists())


def lower(group: Group) -> None:
    """Its memory limit to what it uses."""
    hierarchy = "memory" if "memory" in group.places else "v2"
    limit = group.places[hierarchy] / ("memory.limit_in_bytes" if hierarchy == "memory" else "memory.max")
    used = str(group.usage().memory_bytes)
    limit.write_text(used)
    if (swap := limit.with_name("memory.memsw.limit_in_bytes")).exists():
        swap.write_text(used)


def flooded(node: Node) -> bool:
    """Asks with a body it has to hold; what is answered is not the point here."""
    body = json.dumps({"model": "tiny", "prompt": "x" * (8 << 20)})
    with contextlib.suppress(OSError, http.client.HTTPException):
        connection = http.client.HTTPConnection("127.0.0.1", node.port, timeout=PATIENCE_S)
        with contextlib.closing(connection):
            connection.request("POST", "/v1/completions", body, {"content-type": "application/json"})
            connection.getresponse().read()
    return True


def test_walls_outlive_the_daemon_and_go_with_the_worker(node: Node) -> None:
    node.start()
    node.serve_tiny()
    confined, pid = behind(node), node.process("worker", "tiny").pid
    node.kill(node.daemon.pid)
    node.start()
    assert node.process("worker", "tiny").pid == pid
    assert not confined.group.places or pid in confined.group.members()
    with node.client() as client:
        client.stop("tiny")
        eventually(lambda: not [process for process in client.processes() if process.role == "worker"])
    eventually(lambda: not confined.group.exists())
    door = Layout(node.home).worker_walls(WorkerId(str(node.process("door").id)))
    eventually(lambda: [path for path in Layout(node.home).workers.iterdir() if path != door] == [])


def test_what_a_dead_daemon_and_a_dead_worker_left_is_cleared_away(node: Node) -> None:
    node.start()
    node.serve_tiny()
    confined, pid = behind(node), node.process("worker", "tiny").pid
    node.kill(node.daemon.pid)
    node.kill(pid)
    assert confined.group.exists() or not confined.group.places
    node.start()
    eventually(lambda: not confined.group.exists())
    with node.client() as client:
        client.wait_ready("tiny", timeout_s=PATIENCE_S)
        client.down()
    node.daemon.wait(PATIENCE_S)
    assert groups_left(node) == []


def test_walls_can_be_switched_off(node: Node) -> None:
    node.home.mkdir(parents=True)
    (node.home / "config.toml").write_text('[sandbox]\nwalls = "off"\n')
    node.start()
    node.serve_tiny()
    assert not behind(node).walled
    assert groups_left(node) == []


def test_a_full_disk_stops_neither_stop_nor_heal_nor_journal(tmp_path_factory: pytest.TempPathFactory) -> None:
    home = tmp_path_factory.mktemp("d")
    namespace = ["unshare", "--user", "--map-root-user", "--mount"]
    command = [*namespace, sys.executable, "-m", "tests.system.full_disk", str(home)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False, cwd=root)
    assert done.stdout.split("\n") == ["free 0", "healed", "stopped", "written", "whole", "begun", ""], done.stderr
