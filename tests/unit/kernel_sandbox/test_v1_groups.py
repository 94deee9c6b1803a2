"""The v1 back end on a tree of plain files: which hierarchies it needs, and what is missing by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.kernel_sandbox.trees import V1_FILES, v1_host
from thaloom.base.errors import NotEnforceable
from thaloom.kernel.sandbox.finding import find_groups
from thaloom.kernel.sandbox.group import Group
from thaloom.kernel.sandbox.grouping import folder_name
from thaloom.kernel.sandbox.types import IoLimit, Limits, Strikes


@pytest.fixture(autouse=True)
def kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    make = Path.mkdir

    def mkdir(path: Path, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        make(path, mode, parents=parents, exist_ok=exist_ok)
        controller = next((name for name in V1_FILES if name in path.parts), None)
        for file, text in ({} if controller is None else V1_FILES[controller]).items():
            if not (path / file).exists():
                (path / file).write_text("" if controller == "cpuset" else text)

    monkeypatch.setattr(Path, "mkdir", mkdir)


def test_limits_are_written_below_the_nodes_own_group(tmp_path: Path) -> None:
    places = v1_host(tmp_path)
    groups = find_groups("thaloom-x", root=tmp_path)
    assert groups.version == "v1"
    limits = Limits(
        cpu_permille=500, cpu_weight=50, cpus=(1,), memory_bytes=1 << 30, swap_bytes=1 << 20, num_pids=64,
        io=(IoLimit(device="8:0", write_bytes_s=2000),),
    )  # fmt: skip
    group = groups.create("w-1", limits)
    written = {
        ("cpu", "cpu.cfs_quota_us"): "50000", ("cpu", "cpu.shares"): "512", ("cpuset", "cpuset.cpus"): "1",
        ("cpuset", "cpuset.mems"): "0", ("memory", "memory.limit_in_bytes"): str(1 << 30),
        ("memory", "memory.memsw.limit_in_bytes"): str((1 << 30) + (1 << 20)), ("pids", "pids.max"): "64",
        ("blkio", "blkio.throttle.write_bps_device"): "8:0 2000",
    }  # fmt: skip
    for (controller, file), text in written.items():
        place = places[controller] / "thaloom-x" / "w-1"
        assert group.places[controller] == place
        assert (place / file).read_text() == text, file


def test_a_small_share_of_a_processor_is_still_a_quota_the_kernel_takes(tmp_path: Path) -> None:
    """Less than 1 ms in a period is refused by the kernel: the period gets longer."""
    places = v1_host(tmp_path)
    find_groups("x", root=tmp_path).create("w", Limits(cpu_permille=1))
    assert (places["cpu"] / "x/w/cpu.cfs_quota_us").read_text() == "1000"
    assert (places["cpu"] / "x/w/cpu.cfs_period_us").read_text() == "1000000"


def test_only_what_is_needed_is_joined(tmp_path: Path) -> None:
    v1_host(tmp_path)
    group = find_groups("x", root=tmp_path).create("w", Limits(num_pids=5))
    assert set(group.places) == {"memory", "pids", "cpuacct", "freezer"}


def test_a_controller_that_is_not_mounted_is_refused_by_name(tmp_path: Path) -> None:
    v1_host(tmp_path, controllers=("memory", "pids"))
    groups = find_groups("x", root=tmp_path)
    assert groups.abilities()["memory"].by == "cgroup v1 memory"
    with pytest.raises(NotEnforceable, match="controller cpu \\(v1\\) is not mounted"):
        groups.create("w", Limits(cpu_permille=500))
    assert groups.list() == []


def test_swap_that_is_not_counted_is_refused(tmp_path: Path) -> None:
    places = v1_host(tmp_path)
    (places["memory"] / "memory.memsw.limit_in_bytes").unlink()
    with pytest.raises(NotEnforceable, match=r"no memory\.memsw"):
        find_groups("x", root=tmp_path).create("w", Limits(memory_bytes=1, swap_bytes=0))


def test_no_groups_at_all_refuses_every_limit_and_takes_none(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("")
    (tmp_path / "proc/self/mountinfo").write_text("")
    groups = find_groups("x", root=tmp_path)
    assert groups.version == "none"
    assert groups.create("w", Limits()).places == {}
    with pytest.raises(NotEnforceable, match="no control groups are mounted"):
        groups.create("w", Limits(num_pids=5))


def test_what_a_group_tells_of_itself(tmp_path: Path) -> None:
    group = Group("w", v1_host(tmp_path))
    usage = group.usage()
    assert (usage.memory_bytes, usage.memory_peak_bytes, usage.cpu_s, usage.num_pids) == (4096, 8192, 1.5, 3)
    assert group.strikes() == Strikes(oom_kills=2, forks_refused=7)
    assert group.memory_limit() is None
    (tmp_path / "some").write_text("some avg10=2.00 avg60=0 avg300=0 total=1\n")
    for kind in ("cpu", "memory", "io"):
        (tmp_path / kind).write_text("some avg10=2.00 avg60=0 avg300=0 total=1\n")
    pressure = group.pressure(tmp_path)
    assert (pressure.scope, pressure.memory) == ("host", 2.0)  # never passed off as the group's own


def test_a_group_is_found_inside_a_container_that_sees_part_of_the_tree(tmp_path: Path) -> None:
    places = v1_host(tmp_path, controllers=("pids",), own="/")
    (tmp_path / "proc/self/cgroup").write_text("1:pids:/docker/abc\n")
    (tmp_path / "proc/self/mountinfo").write_text(
        "30 24 0:26 /docker/abc /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n"
    )
    group = find_groups("x", root=tmp_path).create("w", Limits(num_pids=5))
    assert group.places["pids"] == places["pids"] / "x" / "w"


def test_nodes_of_one_host_have_folders_of_their_own() -> None:
    assert folder_name(Path("/a")) != folder_name(Path("/b"))
    assert folder_name(Path("/a")) == folder_name(Path("/a"))
