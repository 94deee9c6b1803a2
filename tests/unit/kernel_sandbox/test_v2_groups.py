"""The v2 back end on a tree of plain files: what is written where, and what is refused with which words."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.kernel_sandbox.trees import fill, v2_host
from thaloom.base.errors import NotEnforceable
from thaloom.kernel.sandbox.finding import find_groups
from thaloom.kernel.sandbox.group import Group
from thaloom.kernel.sandbox.types import IoLimit, LimitName, Limits, Strikes
from thaloom.kernel.sandbox.v2 import V2Groups


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let every new folder below a control group get the files a kernel would put there, and take them away again."""
    make, take = Path.mkdir, Path.rmdir

    def mkdir(path: Path, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        make(path, mode, parents=parents, exist_ok=exist_ok)
        if "cgroup" in path.parts:
            fill(path)

    def rmdir(path: Path) -> None:
        if "cgroup" in path.parts and not [child for child in path.iterdir() if child.is_dir()]:
            if (path / "cgroup.procs").read_text().strip():
                raise OSError(16, "Device or resource busy")
            for child in path.iterdir():
                child.unlink()
        take(path)

    def start() -> None:
        monkeypatch.setattr(Path, "mkdir", mkdir)
        monkeypatch.setattr(Path, "rmdir", rmdir)

    return start


def test_every_limit_is_written_where_the_kernel_looks_for_it(tmp_path: Path, kernel: Callable[[], None]) -> None:
    own = v2_host(tmp_path, procs=f"{os.getpid()}\n")
    kernel()
    groups = find_groups("thaloom-x", root=tmp_path)
    limits = Limits(
        cpu_permille=1500, cpu_weight=50, cpus=(0, 1), memory_bytes=1 << 30, swap_bytes=0, num_pids=64,
        io=(IoLimit(device="8:0", read_bytes_s=1000, write_bytes_s=2000),), huge_page_bytes=((2 << 20, 4 << 20),),
    )  # fmt: skip
    group = groups.create("w-1", limits)
    place = own / "thaloom-x" / "w-1"
    assert group == Group("w-1", {"v2": place})
    written = {
        "cpu.max": "150000 100000", "cpu.weight": "50", "cpuset.cpus": "0,1", "memory.max": str(1 << 30),
        "memory.swap.max": "0", "memory.oom.group": "1", "pids.max": "64", "io.max": "8:0 rbps=1000 wbps=2000",
        "hugetlb.2MB.max": str(4 << 20),
    }  # fmt: skip
    assert {name: (place / name).read_text() for name in written} == written
    assert [group.name for group in groups.list()] == ["w-1"]
    assert group.delete()
    assert groups.list() == []


def test_the_node_moves_out_of_the_group_whose_controllers_it_hands_on(
    tmp_path: Path, kernel: Callable[[], None]
) -> None:
    own = v2_host(tmp_path, controllers="memory pids", procs=f"{os.getpid()}\n")
    kernel()
    find_groups("thaloom-x", root=tmp_path).create("w-1", Limits(num_pids=5))
    assert (own / "thaloom-node" / "cgroup.procs").read_text() == str(os.getpid())
    assert (own / "cgroup.subtree_control").read_text() == "+pids"  # a file keeps what was written last
    assert (own / "thaloom-x" / "cgroup.subtree_control").read_text() == "+pids"


def test_the_node_settles_before_it_starts_others(tmp_path: Path, kernel: Callable[[], None]) -> None:
    """A door that is born beside it would keep it from handing on anything, ever after."""
    own = v2_host(tmp_path, procs=f"{os.getpid()}\n")
    kernel()
    find_groups("thaloom-x", root=tmp_path).settle()
    assert (own / "thaloom-node" / "cgroup.procs").read_text() == str(os.getpid())
    assert (own / "cgroup.subtree_control").read_text() == ""  # nothing else is touched before a group is asked for


def test_a_node_that_shares_its_group_stays_where_it_is(tmp_path: Path, kernel: Callable[[], None]) -> None:
    own = v2_host(tmp_path, procs=f"{os.getpid()}\n1\n")
    kernel()
    find_groups("thaloom-x", root=tmp_path).settle()
    assert not (own / "thaloom-node").exists()


def test_a_node_started_in_its_own_place_finds_what_was_given_to_it(tmp_path: Path, kernel: Callable[[], None]) -> None:
    """By a service manager (DelegateSubgroup=), or asked about by somebody else once it is there."""
    v2_host(tmp_path, own="/system.slice/thaloom.service/thaloom-node", procs=f"{os.getpid()}\n")
    given = tmp_path / "sys/fs/cgroup/system.slice/thaloom.service"
    kernel()
    fill(given)
    (given / "cgroup.controllers").write_text("memory pids")
    (given / "cgroup.type").write_text("domain")
    group = find_groups("thaloom-x", root=tmp_path).create("w-1", Limits(num_pids=5))
    assert group.places == {"v2": given / "thaloom-x" / "w-1"}


def test_processors_that_are_not_ours_are_refused_though_the_kernel_takes_them(
    tmp_path: Path, kernel: Callable[[], None]
) -> None:
    own = v2_host(tmp_path, procs=f"{os.getpid()}\n")
    kernel()
    with pytest.raises(NotEnforceable, match="processors 7 are not there, or not this node's") as caught:
        find_groups("thaloom-x", root=tmp_path).create("w-1", Limits(cpus=(1, 7)))
    assert caught.value.details == {"limit": "cpus"}
    assert not (own / "thaloom-x" / "w-1").exists()


@pytest.mark.parametrize(("file", "limit"), [("memory.swap.max", "swap"), ("io.max", "io")])
def test_what_a_kernel_was_built_without_is_told_before_it_is_asked_for(
    tmp_path: Path, file: str, limit: LimitName
) -> None:
    own = v2_host(tmp_path, procs=f"{os.getpid()}\n")
    groups = find_groups("thaloom-x", root=tmp_path)
    assert groups.abilities()[limit].enforced
    (own / file).unlink()
    assert groups.abilities()[limit].why_not == f"this kernel has no {file}"


def test_a_controller_that_was_not_handed_to_us_is_refused_by_name(tmp_path: Path, kernel: Callable[[], None]) -> None:
    v2_host(tmp_path, controllers="pids", procs=f"{os.getpid()}\n")
    kernel()
    groups = find_groups("thaloom-x", root=tmp_path)
    assert groups.abilities()["pids"].enforced
    with pytest.raises(NotEnforceable) as caught:
        groups.create("w-1", Limits(memory_bytes=1 << 20))
    assert caught.value.details == {"limit": "memory"}
    assert "controller memory (v2) is not handed on" in caught.value.message
    assert groups.list() == []


def test_a_group_shared_with_others_enforces_nothing_and_says_how_to_mend_it(tmp_path: Path) -> None:
    v2_host(tmp_path, procs=f"{os.getpid()}\n1\n2\n")
    ability = find_groups("thaloom-x", root=tmp_path).abilities()["memory"]
    assert ability.why_not is not None
    assert "2 other processes" in ability.why_not
    assert "Delegate=yes" in ability.why_not


def test_where_nothing_can_be_limited_a_program_still_has_a_group(tmp_path: Path, kernel: Callable[[], None]) -> None:
    """A node that a shell starts shares the shell's group. Its workers are killed together all the same."""
    own = v2_host(tmp_path, procs=f"{os.getpid()}\n1\n")
    kernel()
    group = find_groups("thaloom-x", root=tmp_path).create("w-1", Limits())
    assert group.places == {"v2": own / "thaloom-x" / "w-1"}
    assert (own / "cgroup.subtree_control").read_text() == ""
    assert not (own / "thaloom-node").exists()


def test_where_no_group_can_be_made_a_program_starts_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ordinary user's session belongs to the system."""
    v2_host(tmp_path, procs=f"{os.getpid()}\n")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    groups = find_groups("thaloom-x", root=tmp_path)
    assert groups.create("w-1", Limits()) == Group("w-1", {})
    with pytest.raises(NotEnforceable, match="cannot be written by this user"):
        groups.create("w-1", Limits(num_pids=5))


def test_only_what_can_be_held_is_handed_on(tmp_path: Path, kernel: Callable[[], None]) -> None:
    """Some were handed on before others came into the group: those hold, and nobody asks for the rest."""
    own = v2_host(tmp_path, controllers="memory pids", procs=f"{os.getpid()}\n1\n")
    (own / "cgroup.subtree_control").write_text("pids")
    kernel()
    find_groups("thaloom-x", root=tmp_path).create("w-1", Limits(num_pids=5))
    assert (own / "cgroup.subtree_control").read_text() == "pids"
    assert (own / "thaloom-x" / "cgroup.subtree_control").read_text() == "+pids"


def test_the_root_may_keep_its_processes(tmp_path: Path, kernel: Callable[[], None]) -> None:
    own = v2_host(tmp_path, own="/", procs="1\n2\n")
    kernel()
    groups = find_groups("thaloom-x", root=tmp_path)
    groups.create("w-1", Limits(num_pids=5))
    assert not (own / "thaloom-node").exists()


def test_memory_bandwidth_is_never_promised(tmp_path: Path) -> None:
    v2_host(tmp_path)
    assert "resctrl" in (find_groups("x", root=tmp_path).abilities()["memory_bandwidth"].why_not or "")


def test_a_value_the_kernel_refuses_leaves_nothing_behind(
    tmp_path: Path, kernel: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = v2_host(tmp_path, procs=f"{os.getpid()}\n")
    kernel()
    write = Path.write_text

    def refuse(path: Path, text: str, *rest: object) -> int:
        if (path.name, text) == ("cpuset.cpus", "99"):
            raise OSError(22, "Invalid argument")
        return write(path, text)

    monkeypatch.setattr(Path, "write_text", refuse)
    groups = find_groups("thaloom-x", root=tmp_path)
    with pytest.raises(NotEnforceable, match="Invalid argument"):
        groups.create("w-1", Limits(cpus=(99,)))
    assert not (own / "thaloom-x" / "w-1").exists()


def test_what_a_group_tells_of_itself(tmp_path: Path) -> None:
    fill(tmp_path)
    group = Group("w-1", {"v2": tmp_path})
    usage, pressure = group.usage(), group.pressure()
    assert (usage.memory_bytes, usage.memory_peak_bytes, usage.cpu_s, usage.num_pids) == (4096, 8192, 1.5, 3)
    assert group.strikes() == Strikes(oom_kills=2, forks_refused=7)
    assert (pressure.scope, pressure.cpu, pressure.memory, pressure.io) == ("group", 1.5, 0.25, 0.0)
    assert group.memory_limit() is None
    assert group.freeze(frozen=True)
    assert (tmp_path / "cgroup.freeze").read_text() == "1"


def test_a_group_that_is_gone_uses_nothing(tmp_path: Path) -> None:
    group = Group("w-1", {"v2": tmp_path / "gone"})
    assert group.members() == set()
    assert group.usage().memory_bytes is None
    assert group.strikes() == Strikes()
    assert group.kill()
    assert group.delete()


def test_a_group_with_a_member_cannot_be_removed_yet(tmp_path: Path, kernel: Callable[[], None]) -> None:
    own = v2_host(tmp_path, procs=f"{os.getpid()}\n")
    kernel()
    group = V2Groups(own, "thaloom-x").create("w-1", Limits())
    (group.places["v2"] / "cgroup.procs").write_text("999999999\n")
    assert not group.delete()
    assert group.exists()
