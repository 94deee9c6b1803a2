"""Putting a program behind walls, and asking later how it fared there. The one door of this room."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from thaloom.base.errors import NotEnforceable
from thaloom.kernel.sandbox.disk import is_full
from thaloom.kernel.sandbox.ends import Ending, Met, forks_refused, met_wall
from thaloom.kernel.sandbox.group import Group
from thaloom.kernel.sandbox.grouping import Groups, require
from thaloom.kernel.sandbox.host import Walls, real_paths
from thaloom.kernel.sandbox.latency import ability_of
from thaloom.kernel.sandbox.plan import (
    command_of,
    disk_of,
    fence_steps,
    groups_of,
    has_scratch,
    longest_file,
    read_plan,
    shown_in,
    steps_of,
    write_plan,
)
from thaloom.kernel.sandbox.types import (
    WALLS,
    Ability,
    Confinement,
    Latency,
    LimitName,
    Limits,
    Strikes,
    Usage,
    WallName,
)

Mode = Literal["auto", "required", "off"]
"""`auto`: every wall this host builds. `required`: all of them, or nothing is started. `off`: none, and no group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """What one node builds its walls with. Thread-safe: it holds nothing that changes."""

    walls: Walls
    groups: Groups
    mode: Mode = "auto"

    def confine(
        self, name: str, wish: Confinement, command: Sequence[str], *, plan: Path, failure: Path | None = None
    ) -> list[str]:
        """The command line that puts `command` (its first word an absolute path) behind its walls, once it is run.

        Makes the group of that name and the file `plan`, by which `Confined` finds both again; `plan` is the caller's
        to delete. A launcher that fails writes why into `failure`. Raises NotEnforceable for a limit that cannot be
        enforced here, and in mode `required` for a wall; nothing is left behind then. Blocks for milliseconds.
        """
        if self.mode == "off":
            require(wish.limits, {limit: _switched_off(limit) for limit in wish.limits.asked()})
            return list(command)
        if self.mode == "required":
            self._require_walls()
        group = self.groups.create(name, wish.limits)
        try:
            steps = steps_of(
                wish,
                self.walls.enforced,
                self.walls.ways,
                failure=None if failure is None else str(failure),
                groups=group.places,
                real=real_paths(wish),
            )
            write_plan(plan, steps)
        except BaseException:
            group.delete()
            raise
        return command_of(plan, command)

    def fence(
        self,
        name: str,
        limits: Limits,
        latency: Latency,
        command: Sequence[str],
        *,
        plan: Path,
        oom_score: int | None = None,
    ) -> list[str]:
        """As `confine`, with limits and a latency class and no other wall; `plan` is the caller's to delete."""
        if self.mode == "off":
            require(limits, {limit: _switched_off(limit) for limit in limits.asked()})
            return list(command)
        group = self.groups.create(name, limits)
        try:
            write_plan(plan, fence_steps(group.places, latency, oom_score))
        except BaseException:
            group.delete()
            raise
        return command_of(plan, command)

    def missing(self) -> list[Ability]:
        """The walls this host does not build."""
        return [ability for ability in self.walls.abilities.values() if not ability.enforced]

    def enforced_limits(self) -> frozenset[LimitName]:
        if self.mode == "off":
            return frozenset()
        return frozenset(name for name, ability in self.groups.abilities().items() if ability.enforced)

    def latency(self, latency: Latency) -> Ability:
        """Whether programs of this class get all it stands for."""
        if self.mode == "off" and latency != "normal":
            return Ability(name=latency, why_not="walls are switched off (config.toml: sandbox.walls)")
        return ability_of(latency, self.groups.abilities())

    def _require_walls(self) -> None:
        for wall in WALLS:
            why_not = self.walls.abilities[wall].why_not
            if why_not is not None:
                raise NotEnforceable(
                    f"wall {wall!r} cannot be built on this host: {why_not} (config.toml: sandbox.walls = 'auto' does "
                    "without it)",
                    wall=wall,
                )


class Confined:
    """A program behind walls, by the plan it was started with. It may be an earlier daemon's."""

    def __init__(self, name: str, plan: Path) -> None:
        self._steps = read_plan(plan)
        self.group = Group(name, groups_of(self._steps))

    @property
    def walled(self) -> bool:
        """Whether there is a plan at all."""
        return bool(self._steps)

    def walls(self) -> frozenset[WallName]:
        """Those it was started behind."""
        kinds = {step[0] for step in self._steps}
        spaces = {name for step in self._steps if step[0] == "separate" for name in step[1:]}
        found: dict[WallName, bool] = {
            "view": ("view", "finish") in self._steps,
            "network": "network" in spaces,
            "ipc": "ipc" in spaces,
            "landlock": "landlock" in kinds,
            "syscalls": "syscalls" in kinds,
            "privileges": "no_new_privileges" in kinds,
        }
        return frozenset(name for name, there in found.items() if there)

    def met(self, wish: Confinement, *, status: int | None, words: str, log: Path | None = None) -> Met | None:
        """Which wall ended it; None where nothing says so. `words`: the end of `log`, where its output went. Blocks
        until a disk of its own is let go, some milliseconds after its end."""
        most = longest_file(self._steps)
        full = most is not None and log is not None and log.exists() and log.stat().st_size >= most
        disk = disk_of(self._steps)
        disk_bytes = disk.stat().st_size if disk is not None and is_full(disk) else None
        ending = Ending(
            status=status,
            strikes=self.strikes(),
            words=words,
            log_full=full,
            has_scratch=has_scratch(self._steps),
            full_disk_bytes=disk_bytes,
        )
        return met_wall(ending, wish, self._hidden) if self.walled else None

    def meeting(self, limits_pids: int | None) -> Met | None:
        """A wall that it keeps running into while it lives."""
        times = self.strikes().forks_refused
        return forks_refused(times, limits_pids) if times else None

    def strikes(self) -> Strikes:
        return self.group.strikes()

    def usage(self) -> Usage:
        return self.group.usage()

    def end(self) -> bool:
        """Whatever of it is left is killed, and its group removed; False if the kernel still clears somebody away."""
        return self.group.kill() and self.group.delete()

    def _hidden(self, path: str) -> bool:
        with contextlib.suppress(OSError, ValueError):
            return os.path.lexists(path) and not shown_in(self._steps, path)
        return False


def _switched_off(limit: LimitName) -> Ability:
    return Ability(name=limit, why_not="walls are switched off (config.toml: sandbox.walls)")
