"""Made-up hosts: a folder with the files of /proc and /sys that control groups are found by."""

from __future__ import annotations

from pathlib import Path

V2_FILES = {
    "cgroup.procs": "", "cgroup.subtree_control": "", "cgroup.freeze": "0", "cgroup.kill": "",
    "cpu.max": "max 100000", "cpu.weight": "100", "cpu.stat": "usage_usec 1500000\nuser_usec 1\n", "cpuset.cpus": "",
    "cpuset.cpus.effective": "0-1\n",
    "memory.max": "max", "memory.swap.max": "max", "memory.oom.group": "0", "memory.current": "4096",
    "memory.peak": "8192", "memory.events": "low 0\nmax 3\noom 1\noom_kill 2\n", "pids.max": "max",
    "pids.current": "3", "pids.events": "max 7\n", "io.max": "", "hugetlb.2MB.max": "max",
    "cpu.pressure": "some avg10=1.50 avg60=0.00 avg300=0.00 total=1\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
    "memory.pressure": "some avg10=0.25 avg60=0.00 avg300=0.00 total=1\n",
    "io.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=1\n",
}  # fmt: skip
ALL = "cpuset cpu io memory hugetlb pids"


def v2_host(root: Path, own: str = "/system.slice/thaloom.service", controllers: str = ALL, procs: str = "1\n") -> Path:
    """A host with one hierarchy; the node's group in it, whose folder is returned."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(f"0::{own}\n")
    (root / "proc/self/mountinfo").write_text(
        "24 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
    )
    folder = root / "sys/fs/cgroup" / own.lstrip("/")
    folder.mkdir(parents=True)
    (folder / "cgroup.controllers").write_text(controllers)
    (folder / "cgroup.subtree_control").write_text("")
    (folder / "cgroup.procs").write_text(procs)
    if own != "/":
        (folder / "cgroup.type").write_text("domain")
        fill(folder)
    return folder


def fill(folder: Path) -> None:
    """What the kernel puts into a new group."""
    for name, text in V2_FILES.items():
        if not (folder / name).exists():
            (folder / name).write_text(text)


V1_FILES = {
    "memory": {"memory.limit_in_bytes": str(1 << 62), "memory.memsw.limit_in_bytes": str(1 << 62),
               "memory.usage_in_bytes": "4096", "memory.max_usage_in_bytes": "8192",
               "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"},
    "pids": {"pids.max": "max", "pids.current": "3", "pids.events": "max 7\n"},
    "cpu": {"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000", "cpu.shares": "1024"},
    "cpuacct": {"cpuacct.usage": "1500000000"},
    "cpuset": {"cpuset.cpus": "0-1", "cpuset.mems": "0"},
    "freezer": {"freezer.state": "THAWED"},
    "blkio": {"blkio.throttle.read_bps_device": "", "blkio.throttle.write_bps_device": ""},
}  # fmt: skip


def v1_host(root: Path, controllers: tuple[str, ...] = tuple(V1_FILES), own: str = "/box") -> dict[str, Path]:
    """A host with a hierarchy for each controller; folder of the node's group in each."""
    (root / "proc/self").mkdir(parents=True)
    places, groups, mounts = {}, ["0::/\n"], ["24 1 8:1 / / rw - ext4 /dev/sda1 rw\n"]
    for i, name in enumerate(controllers):
        places[name] = root / "sys/fs/cgroup" / name / own.lstrip("/")
        places[name].mkdir(parents=True)
        for file, text in (V1_FILES[name] | {"cgroup.procs": ""}).items():
            (places[name] / file).write_text(text)
        groups.append(f"{i + 1}:{name}:{own}\n")
        mounts.append(f"{30 + i} 24 0:{26 + i} / /sys/fs/cgroup/{name} rw - cgroup cgroup rw,{name}\n")
    (root / "proc/self/cgroup").write_text("".join(groups))
    (root / "proc/self/mountinfo").write_text("".join(mounts))
    return places
