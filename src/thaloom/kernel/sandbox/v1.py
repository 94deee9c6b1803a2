"""Control groups of version 1: a tree for each controller, of which only some may be there or writable."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from thaloom.kernel.sandbox.group import Group
from thaloom.kernel.sandbox.grouping import BANDWIDTH, LIMITS, remove_empty, require, set_value
from thaloom.kernel.sandbox.types import Ability, LimitName, Limits

_CONTROLLER: dict[LimitName, tuple[str, str]] = {
    "cpu": ("cpu", "cpu.cfs_quota_us"),
    "cpu_weight": ("cpu", "cpu.shares"),
    "cpus": ("cpuset", "cpuset.cpus"),
    "memory": ("memory", "memory.limit_in_bytes"),
    "swap": ("memory", "memory.memsw.limit_in_bytes"),
    "pids": ("pids", "pids.max"),
    "io": ("blkio", "blkio.throttle.read_bps_device"),
    "huge_pages": ("hugetlb", "hugetlb.2MB.limit_in_bytes"),
}
"""Limit -> controller and the file that must be there."""
_ALWAYS = ("memory", "pids", "cpuacct", "freezer", "v2")
"""Joined whatever is limited: they count, and they end what is inside."""
_NOTES: dict[LimitName, str] = {"io": " (writes that go through the page cache are not held back)"}
_MAX_SHARES = 262_144


class V1Groups:
    """`own`: v1 controller (or `v2`, where an empty v2 hierarchy is mounted beside) -> folder of the group that this
    node is in. `folder`: name of the node's own folder below each."""

    version = "v1"

    def __init__(self, own: Mapping[str, Path], folder: str) -> None:
        self._own = dict(own)
        self._folder = folder

    def abilities(self) -> Mapping[LimitName, Ability]:
        return {name: self._ability(name) for name in LIMITS}

    def settle(self) -> None:
        return  # a group of this version may have both members and groups inside

    def create(self, name: str, limits: Limits) -> Group:
        require(limits, self.abilities())
        needed = {_CONTROLLER[limit][0] for limit in limits.asked()}
        names = [key for key in self._own if key in needed or (key in _ALWAYS and _writable(self._own[key]))]
        group = Group(name, {key: self._own[key] / self._folder / name for key in names})
        try:
            for key, place in group.places.items():
                self._make(key, place)
            self._limit(group.places, limits)
        except BaseException:
            group.delete()
            self.close()
            raise
        return group

    def list(self) -> list[Group]:
        found: dict[str, dict[str, Path]] = {}
        for key, own in self._own.items():
            for place in _folders(own / self._folder):
                found.setdefault(place.name, {})[key] = place
        return [Group(name, places) for name, places in sorted(found.items())]

    def close(self) -> None:
        for own in self._own.values():
            remove_empty(own / self._folder)

    def _ability(self, name: LimitName) -> Ability:
        if name == "memory_bandwidth":
            return Ability(name=name, why_not=BANDWIDTH)
        controller, file = _CONTROLLER[name]
        own = self._own.get(controller)
        if own is None:
            return Ability(name=name, why_not=f"controller {controller} (v1) is not mounted")
        if not _writable(own):
            return Ability(name=name, why_not=f"{own} cannot be written by this user")
        # The root, which alone has that file, has fewer others: those of limits are on its children.
        if not (own / "cgroup.sane_behavior").exists() and not (own / file).exists():
            return Ability(name=name, why_not=f"this kernel has no {file}")
        return Ability(name=name, by=f"cgroup v1 {controller}{_NOTES.get(name, '')}")

    def _make(self, controller: str, place: Path) -> None:
        parent = place.parent
        fresh = not parent.exists()
        parent.mkdir(exist_ok=True)
        place.mkdir(exist_ok=True)
        if controller == "cpuset":  # a group without processors or memory nodes takes no members
            _inherit(parent)
            _inherit(place)
        if controller == "cpu" and fresh:  # all groups together weigh as much as they could use, not as one process
            shares = min(_MAX_SHARES, 1024 * (os.cpu_count() or 1))
            set_value(parent / "cpu.shares", str(shares), "cpu_weight")

    def _limit(self, places: Mapping[str, Path], limits: Limits) -> None:
        if limits.memory_bytes is not None:
            self._limit_memory(places["memory"], limits.memory_bytes, limits.swap_bytes)
        if limits.num_pids is not None:
            set_value(places["pids"] / "pids.max", str(limits.num_pids), "pids")
        if limits.cpu_permille is not None:
            period_us = 100_000 if limits.cpu_permille >= 10 else 1_000_000  # a quota is at least 1 ms
            set_value(places["cpu"] / "cpu.cfs_period_us", str(period_us), "cpu")
            set_value(places["cpu"] / "cpu.cfs_quota_us", str(limits.cpu_permille * period_us // 1000), "cpu")
        if limits.cpu_weight is not None:
            shares = max(2, min(_MAX_SHARES, limits.cpu_weight * 1024 // 100))
            set_value(places["cpu"] / "cpu.shares", str(shares), "cpu_weight")
        if limits.cpus is not None:
            set_value(places["cpuset"] / "cpuset.cpus", ",".join(map(str, limits.cpus)), "cpus")
        for io in limits.io:
            for kind, value in (("read", io.read_bytes_s), ("write", io.write_bytes_s)):
                if value is not None:
                    set_value(places["blkio"] / f"blkio.throttle.{kind}_bps_device", f"{io.device} {value}", "io")
        for page_bytes, most in limits.huge_page_bytes:
            set_value(places["hugetlb"] / f"hugetlb.{page_name(page_bytes)}.limit_in_bytes", str(most), "huge_pages")

    def _limit_memory(self, place: Path, memory_bytes: int, swap_bytes: int | None) -> None:
        set_value(place / "memory.limit_in_bytes", str(memory_bytes), "memory")
        if swap_bytes is not None:
            set_value(place / "memory.memsw.limit_in_bytes", str(memory_bytes + swap_bytes), "swap")


def page_name(page_bytes: int) -> str:
    """As the kernel writes it in file names: 2MB, 1GB."""
    return f"{page_bytes >> 30}GB" if page_bytes >> 30 else f"{page_bytes >> 20}MB"


def _inherit(place: Path) -> None:
    for file in ("cpuset.cpus", "cpuset.mems"):
        if not (place / file).read_text().strip():
            set_value(place / file, (place.parent / file).read_text().strip(), "cpus")


def _folders(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if path.is_dir()]
    except OSError:
        return []


def _writable(folder: Path) -> bool:
    return os.access(folder, os.W_OK) and not os.statvfs(folder).f_flag & os.ST_RDONLY
