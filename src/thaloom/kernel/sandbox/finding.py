"""Which control groups this host has, and where the node stands in them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from thaloom.kernel.sandbox.grouping import Groups, NoGroups
from thaloom.kernel.sandbox.v1 import V1Groups
from thaloom.kernel.sandbox.v2 import NODE, V2Groups


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mounted:
    """One tree: its v1 controllers or `v2`, where it is mounted, and which of its folders is seen there."""

    hierarchies: frozenset[str]
    at: Path
    root: str


def find_groups(folder: str, *, pid: int | None = None, root: Path = Path("/")) -> Groups:
    """The back end for this host. `pid`: the node's process, whose group counts; None: this one."""
    own = own_groups(pid, root)
    v2 = own.pop("v2", None)
    if v2 is not None and not own.keys() & {"memory", "pids", "cpu"}:
        if v2.name == NODE:  # where a node's process is put; what was given to the node is one above
            v2 = v2.parent
        top = not (v2 / "cgroup.type").exists()  # the root alone has none
        return V2Groups(v2, folder, top=top, pid=pid)
    if not own:
        return NoGroups("no control groups are mounted")
    return V1Groups(own | ({} if v2 is None else {"v2": v2}), folder)


def own_groups(pid: int | None, root: Path) -> dict[str, Path]:
    """v1 controller, or `v2`, -> folder of the group that the process is in."""
    process = root / "proc" / ("self" if pid is None else str(pid))
    mounts = list(_mounts(root))
    found: dict[str, Path] = {}
    for line in (process / "cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        hierarchies = frozenset(name for name in names.split(",") if name in _V1) if names else frozenset({"v2"})
        for mounted in mounts:
            root_seen = mounted.root.rstrip("/")
            if mounted.hierarchies == hierarchies and path.startswith(root_seen):
                place = mounted.at / path[len(root_seen) :].lstrip("/")
                if place.is_dir():
                    found |= dict.fromkeys(hierarchies, place)
    return found


def _mounts(root: Path) -> Iterator[_Mounted]:
    """Source: proc_pid_mountinfo(5)."""
    for line in (root / "proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind not in ("cgroup", "cgroup2"):
            continue
        words = before.split(" ")
        at = root / _unescaped(words[4]).lstrip("/")
        names = ["v2"] if kind == "cgroup2" else [word for word in options.split(",") if word in _V1]
        yield _Mounted(hierarchies=frozenset(names), at=at, root=_unescaped(words[3]))


_V1 = frozenset(
    {"cpu", "cpuacct", "cpuset", "memory", "pids", "blkio", "freezer", "devices", "hugetlb", "net_cls", "net_prio",
     "perf_event", "rdma", "misc"}
)  # fmt: skip


def _unescaped(path: str) -> str:
    r"""Spaces and the like are written as `\040` there."""
    raw = os.fsencode(path)
    for byte in (b" ", b"\t", b"\n", b"\\"):
        raw = raw.replace(b"\\%03o" % byte[0], byte)
    return os.fsdecode(raw)
