"""Control groups of version 2: one tree, whose controllers each level hands on to the next.

A group that hands controllers on may have no processes of its own (the root may): the kernel refuses to put one there
(EBUSY), the next daemon's too, as long as a worker of the one before lives. So the node's own process is in a group
beside its workers' folder, `NODE`: it moves there, or the service manager starts it there (DelegateSubgroup=).
Source: kernel documentation, admin-guide/cgroup-v2: "No Internal Process Constraint", "Delegation".
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Set
from pathlib import Path

from thaloom.base.errors import NotEnforceable
from thaloom.kernel.sandbox.group import Group
from thaloom.kernel.sandbox.grouping import BANDWIDTH, LIMITS, remove_empty, require, set_value
from thaloom.kernel.sandbox.types import Ability, LimitName, Limits
from thaloom.kernel.sandbox.v1 import page_name

_CONTROLLER: dict[LimitName, str] = {
    "cpu": "cpu",
    "cpu_weight": "cpu",
    "cpus": "cpuset",
    "memory": "memory",
    "swap": "memory",
    "pids": "pids",
    "io": "io",
    "huge_pages": "hugetlb",
}
_FILE: dict[LimitName, str] = {"swap": "memory.swap.max", "io": "io.max"}
"""What a controller has only if the kernel was built and started with it too. The root never has it."""
NODE = "thaloom-node"
"""The group of the node's own process. packaging/systemd names it too."""


class V2Groups:
    """`own`: folder of the group that was given to this node. `top`: whether that is the root of the tree."""

    version = "v2"

    def __init__(self, own: Path, folder: str, *, top: bool = False, pid: int | None = None) -> None:
        self._own = own
        self._base = own / folder
        self._top = top
        self._pid = os.getpid() if pid is None else pid

    def abilities(self) -> Mapping[LimitName, Ability]:
        return {name: self._ability(name) for name in LIMITS}

    def settle(self) -> None:
        if not self._top and _words(self._own / "cgroup.procs") == [str(self._pid)]:
            with contextlib.suppress(OSError):
                self._move()

    def create(self, name: str, limits: Limits) -> Group:
        """Where nothing can be limited it still groups, kills and measures; where it cannot even be made, it has no
        folder."""
        abilities = self.abilities()
        require(limits, abilities)
        if not os.access(self._own, os.W_OK):
            return Group(name, {})
        group = Group(name, {"v2": self._base / name})
        try:
            self._base.mkdir(exist_ok=True)
            self._hand_on({_CONTROLLER[limit] for limit, ability in abilities.items() if ability.enforced})
            group.places["v2"].mkdir(exist_ok=True)
            self._limit(group.places["v2"], limits)
        except BaseException:
            group.delete()
            self.close()
            raise
        return group

    def list(self) -> list[Group]:
        if not self._base.is_dir():
            return []
        names = sorted(path.name for path in self._base.iterdir() if path.is_dir())
        return [Group(name, {"v2": self._base / name}) for name in names]

    def close(self) -> None:
        if not self.list():
            remove_empty(self._base)

    def _ability(self, name: LimitName) -> Ability:
        if name == "memory_bandwidth":
            return Ability(name=name, why_not=BANDWIDTH)
        controller = _CONTROLLER[name]
        if controller not in _words(self._own / "cgroup.controllers"):
            return Ability(name=name, why_not=f"controller {controller} (v2) is not handed on to this group")
        file = _FILE.get(name)
        if file is not None and not self._top and not (self._own / file).exists():
            return Ability(name=name, why_not=f"this kernel has no {file}")
        if not os.access(self._own, os.W_OK):
            return Ability(name=name, why_not=f"{self._own} cannot be written by this user")
        if controller not in _words(self._own / "cgroup.subtree_control"):
            if not os.access(self._own / "cgroup.subtree_control", os.W_OK):
                return Ability(name=name, why_not=f"this user may not hand on controllers in {self._own}")
            others = [] if self._top else [pid for pid in _words(self._own / "cgroup.procs") if int(pid) != self._pid]
            if others:
                why = (
                    f"the node shares its group with {len(others)} other processes (run it as a service: Delegate=yes)"
                )
                return Ability(name=name, why_not=why)
        return Ability(name=name, by=f"cgroup v2 {controller}")

    def _hand_on(self, controllers: Set[str]) -> None:
        """Give the node's folder, and the groups in it, every one of them, in the kernel's order."""
        wanted = [name for name in _words(self._own / "cgroup.controllers") if name in controllers]
        if wanted and not self._top and str(self._pid) in _words(self._own / "cgroup.procs"):
            self._move()
        for folder in (self._own, self._base):
            for name in wanted:
                if name not in _words(folder / "cgroup.subtree_control"):
                    self._add(folder / "cgroup.subtree_control", name)

    def _move(self) -> None:
        (self._own / NODE).mkdir(exist_ok=True)
        (self._own / NODE / "cgroup.procs").write_text(str(self._pid))

    def _add(self, file: Path, controller: str) -> None:
        try:
            file.write_text(f"+{controller}")
        except OSError as error:
            raise NotEnforceable(
                f"controller {controller} cannot be handed on: {error.strerror}", limit=controller
            ) from error

    def _limit(self, place: Path, limits: Limits) -> None:
        if limits.memory_bytes is not None:
            set_value(place / "memory.max", str(limits.memory_bytes), "memory")
            set_value(place / "memory.oom.group", "1", "memory")
        if limits.swap_bytes is not None:
            set_value(place / "memory.swap.max", str(limits.swap_bytes), "swap")
        if limits.num_pids is not None:
            set_value(place / "pids.max", str(limits.num_pids), "pids")
        if limits.cpu_permille is not None:
            period_us = 100_000 if limits.cpu_permille >= 10 else 1_000_000
            set_value(place / "cpu.max", f"{limits.cpu_permille * period_us // 1000} {period_us}", "cpu")
        if limits.cpu_weight is not None:
            set_value(place / "cpu.weight", str(limits.cpu_weight), "cpu_weight")
        if limits.cpus is not None:
            self._limit_cpus(place, limits.cpus)
        for io in limits.io:
            rates = {"rbps": io.read_bytes_s, "wbps": io.write_bytes_s}
            words = [f"{key}={value}" for key, value in rates.items() if value is not None]
            set_value(place / "io.max", " ".join([io.device, *words]), "io")
        for page_bytes, most in limits.huge_page_bytes:
            set_value(place / f"hugetlb.{page_name(page_bytes)}.max", str(most), "huge_pages")

    def _limit_cpus(self, place: Path, cpus: tuple[int, ...]) -> None:
        """The kernel takes processors that are not there or not ours, and then runs the group wherever it likes."""
        set_value(place / "cpuset.cpus", ",".join(map(str, cpus)), "cpus")
        given = _numbers((place / "cpuset.cpus.effective").read_text())
        if absent := sorted({*cpus} - given):
            names = ",".join(map(str, absent))
            raise NotEnforceable(
                f"limit 'cpus' cannot be set: processors {names} are not there, or not this node's",
                param="cpus",
                limit="cpus",
            )


def _numbers(text: str) -> set[int]:
    """Of a list such as `0-3,8`. Source: cpuset(7), "List format"."""
    found: set[int] = set()
    for part in text.strip().split(",") if text.strip() else []:
        first, _, last = part.partition("-")
        found |= {*range(int(first), int(last or first) + 1)}
    return found


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []
