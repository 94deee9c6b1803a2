"""Jobs of a real node: real programs behind real walls, and whatever is killed meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.system.node import PATIENCE_S, Node, eventually, node
from thaloom.edge.wire.control import Job, JobRequest
from thaloom.init.jobs.files import JobFiles
from thaloom.kernel.sandbox.finding import find_groups
from thaloom.kernel.sandbox.grouping import folder_name

__all__ = ["node"]

pytestmark = pytest.mark.slow
MIB = 1 << 20


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


def log(node: Node, name: str) -> list[str]:
    with node.client() as client, client.job_logs(name, tail=1000) as lines:
        return list(lines)


def said(node: Node, name: str, line: str) -> None:
    eventually(lambda: line in log(node, name))


def files(node: Node, name: str) -> JobFiles:
    return JobFiles(node.home / "jobs" / name)


def groups_left(node: Node) -> list[str]:
    return [group.name for group in find_groups(folder_name(node.home)).list()]


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
