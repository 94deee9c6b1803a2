"""A group of version 2 as a service manager gives one to a service, with this process in the place of the node's."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.system.test_groups import PATIENCE_S, eventually, start_in
from thaloom.kernel.sandbox.finding import find_groups
from thaloom.kernel.sandbox.group import Group
from thaloom.kernel.sandbox.v2 import V2Groups

TREE = Path("/sys/fs/cgroup")
CONTROLLERS = "cpuset cpu io memory hugetlb pids"
Start = Callable[[Path, str], subprocess.Popen[bytes]]


@pytest.fixture
def given() -> Iterator[Path]:
    """A group as a service manager gives one to a service; this process is its only member."""
    hand_on(TREE, CONTROLLERS)
    folder = TREE / "service"
    folder.mkdir()
    join(folder)
    yield folder
    join(TREE)
    clear(folder)


@pytest.fixture
def start(given: Path) -> Iterator[Start]:
    started: list[subprocess.Popen[bytes]] = []

    def begin(place: Path, program: str) -> subprocess.Popen[bytes]:
        started.append(start_in([place], program))
        return started[-1]

    yield begin
    if (given / "thaloom-x").exists():  # who was forked there holds on to what we read from
        (given / "thaloom-x" / "cgroup.kill").write_text("1")
    for process in started:
        process.kill()
        process.communicate(timeout=PATIENCE_S)


def hand_on(folder: Path, controllers: str) -> None:
    (folder / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in controllers.split()))


def join(folder: Path) -> None:
    (folder / "cgroup.procs").write_text(str(os.getpid()))


def clear(folder: Path) -> None:
    """As a service manager does it once a service has ended."""
    (folder / "cgroup.kill").write_text("1")
    eventually(Group("service", {"v2": folder}).delete)


def our_groups() -> V2Groups:
    groups = find_groups("thaloom-x")
    assert isinstance(groups, V2Groups)
    groups.settle()
    return groups


def place(group: Group) -> Path:
    return group.places["v2"]


def entries(file: Path) -> Mapping[str, str]:
    return dict(line.split(maxsplit=1) for line in file.read_text().splitlines())


def held(start: Start, group: Group, program: str) -> tuple[int, str]:
    """How a program in the group ended, and what it said."""
    process = start(place(group), program)
    said, _ = process.communicate(timeout=PATIENCE_S)
    return process.returncode, said.decode()
