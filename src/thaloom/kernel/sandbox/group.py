"""One control group: what it uses, how often it met its walls, and its end. Of either version, or of both at once.

`places`: hierarchy -> folder. A hierarchy is the name of a v1 controller (`memory`, `pids` ...), or `v2`. On hosts
that mount both, v1 limits and the v2 folder groups, kills and measures pressure.
Source: kernel documentation, admin-guide/cgroup-v1 and admin-guide/cgroup-v2.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from thaloom.base.procs import identify
from thaloom.kernel.sandbox.types import Pressure, Strikes, Usage

_ROUNDS = 100
"""Of killing: each sees what was forked during the one before. A frozen group needs one."""


_UNLIMITED = 1 << 60
"""v1 writes the largest page count it knows where there is no limit."""


@dataclass(frozen=True, slots=True)
class Group:
    """A group by its folders. It may be gone: then it uses nothing and has no members."""

    name: str
    places: Mapping[str, Path]

    def members(self) -> set[int]:
        """Process ids, in whichever hierarchy they are, also in groups that they made inside."""
        return {pid for folder in self.places.values() for pid in _members(folder)}

    def usage(self) -> Usage:
        nanoseconds = self._number("cpuacct", "cpuacct.usage")
        microseconds = self._entry("v2", "cpu.stat", "usage_usec")
        cpu_s = nanoseconds / 1e9 if nanoseconds is not None else None
        return Usage(
            memory_bytes=_first(self._number("memory", "memory.usage_in_bytes"), self._number("v2", "memory.current")),
            memory_peak_bytes=_first(
                self._number("memory", "memory.max_usage_in_bytes"), self._number("v2", "memory.peak")
            ),
            cpu_s=cpu_s if microseconds is None or cpu_s is not None else microseconds / 1e6,
            num_pids=_first(self._number("pids", "pids.current"), self._number("v2", "pids.current")),
        )

    def memory_limit(self) -> int | None:
        """In bytes; None where there is none."""
        limit = _first(self._number("memory", "memory.limit_in_bytes"), self._number("v2", "memory.max"))
        return None if limit is None or limit >= _UNLIMITED else limit

    def pids_limit(self) -> int | None:
        """Processes and threads; None where there is none."""
        return _first(self._number("pids", "pids.max"), self._number("v2", "pids.max"))

    def strikes(self) -> Strikes:
        return Strikes(
            oom_kills=_first(
                self._entry("memory", "memory.oom_control", "oom_kill"), self._entry("v2", "memory.events", "oom_kill")
            ),
            forks_refused=_first(self._entry("pids", "pids.events", "max"), self._entry("v2", "pids.events", "max")),
        )

    def pressure(self, host: Path = Path("/proc/pressure")) -> Pressure:
        """Its own, or the host's where there is none of its own."""
        own = self.places.get("v2")
        if own is not None and (own / "cpu.pressure").exists():
            return _pressure("group", {kind: own / f"{kind}.pressure" for kind in ("cpu", "memory", "io")})
        return _pressure("host", {kind: host / kind for kind in ("cpu", "memory", "io")})

    def freeze(self, *, frozen: bool) -> bool:
        """Hold all its processes still, or let them go on; False where nothing can."""
        if "freezer" in self.places:
            return _write(self.places["freezer"] / "freezer.state", "FROZEN" if frozen else "THAWED")
        return "v2" in self.places and _write(self.places["v2"] / "cgroup.freeze", "1" if frozen else "0")

    def kill(self) -> bool:
        """End every member, and what they fork meanwhile; whether none is left but what the kernel still clears away.

        Blocks for as long as signals take. Nobody outside the group is ever signalled.
        """
        if "v2" in self.places and _write(self.places["v2"] / "cgroup.kill", "1") and self._only_in("v2"):
            return True
        self.freeze(frozen=True)
        try:
            for _ in range(_ROUNDS):
                if not self._kill_once():
                    return True
        finally:
            self.freeze(frozen=False)  # a frozen process dies when it is thawed
        return False

    def delete(self) -> bool:
        """Remove its folders, and those its members made inside; False as long as a member is not quite gone. Nothing
        to do is done."""
        done = True
        for folder in [inside for place in self.places.values() for inside in reversed(_tree(place))]:
            try:
                folder.rmdir()
            except FileNotFoundError:
                continue
            except OSError:
                done = False
        return done

    def exists(self) -> bool:
        return any(folder.exists() for folder in self.places.values())

    def _only_in(self, hierarchy: str) -> bool:
        """Whether every member is a member there: one that left it in one hierarchy is still ours in another."""
        there = _members(self.places[hierarchy])
        return all(not _alive(pid) or pid in there for pid in self.members())

    def _kill_once(self) -> bool:
        """Whether anybody was left to be signalled."""
        found = False
        for pid in self.members() - {os.getpid()}:
            process = identify(pid)
            if process is not None and process.alive() and pid in self.members():
                found |= process.send(signal.SIGKILL) and not self._frozen()
        return found

    def _frozen(self) -> bool:
        """Then a signal is taken only later, and one round is enough: nobody can fork."""
        return "freezer" in self.places and (_text(self.places["freezer"] / "freezer.state") or "").strip() == "FROZEN"

    def _number(self, hierarchy: str, file: str) -> int | None:
        if hierarchy not in self.places:
            return None
        text = (_text(self.places[hierarchy] / file) or "").strip()
        return int(text) if text.isdigit() else None

    def _entry(self, hierarchy: str, file: str, name: str) -> int | None:
        if hierarchy not in self.places:
            return None
        for line in (_text(self.places[hierarchy] / file) or "").splitlines():
            key, _, value = line.partition(" ")
            if key == name and value.isdigit():
                return int(value)
        return None


def _tree(folder: Path) -> list[Path]:
    """A group and those inside it, each before what it holds."""
    return [Path(place) for place, _, _ in os.walk(folder)]


def _members(folder: Path) -> set[int]:
    return {int(word) for place in _tree(folder) for word in (_text(place / "cgroup.procs") or "").split()}


def _alive(pid: int) -> bool:
    process = identify(pid)
    return process is not None and process.alive()


def _first(*values: int | None) -> int | None:
    return next((value for value in values if value is not None), None)


def _pressure(scope: Literal["group", "host"], files: Mapping[str, Path]) -> Pressure:
    return Pressure(scope=scope, **{kind: _average(path) for kind, path in files.items()})


def _average(path: Path) -> float | None:
    """`avg10` of the line `some`. Reading fails where the kernel was built with PSI and started without."""
    for line in (_text(path) or "").splitlines():
        kind, *words = line.split()
        if kind == "some":
            return float(dict(word.split("=") for word in words)["avg10"])
    return None


def _text(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None


def _write(path: Path, text: str) -> bool:
    try:
        path.write_text(text)
    except OSError:
        return False
    return True
