"""Making control groups, whichever version this host has. Two back ends behind one Protocol: `v1.py` and `v2.py`.

A node's groups lie in one folder of their own, below the group the node itself is in: what the host's owner gave the
node is all it can hand on, and nothing outside that folder is ever changed.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from thaloom.base.errors import NotEnforceable
from thaloom.kernel.sandbox.group import Group
from thaloom.kernel.sandbox.types import Ability, LimitName, Limits


class Groups(Protocol):
    """The groups of one node."""

    @property
    def version(self) -> str:
        """`v1`, `v2`, or `none`."""

    def abilities(self) -> Mapping[LimitName, Ability]:
        """For each limit, whether it holds here. Changes nothing."""

    def settle(self) -> None:
        """Where the node's own process stands in the way of its groups, it moves. Once, before it starts others, which
        are born where it is. Never raises: what does not hold then, `abilities` tells."""

    def create(self, name: str, limits: Limits) -> Group:
        """A group with its limits in force. Raises NotEnforceable that names the limit and why not, or OSError. One of
        that name that is there already is used again, and who is in it stays: a worker that waits is in its own
        before its limits are known (init.rounds.standby). A new one has no members, and nothing is left of it if this
        fails.
        """

    def list(self) -> list[Group]:
        """All of this node's that are there, by name."""

    def close(self) -> None:
        """Remove the node's own folder, if no group is left in it."""


def folder_name(home: Path) -> str:
    """The folder of a node's groups: two nodes of one host never share it."""
    return f"thaloom-{hashlib.sha256(str(home).encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"


def require(limits: Limits, abilities: Mapping[LimitName, Ability]) -> None:
    """Raise NotEnforceable for the first limit asked for that this host does not enforce."""
    for name in sorted(limits.asked()):
        ability = abilities[name]
        if ability.why_not is not None:
            raise NotEnforceable(
                f"limit {name!r} cannot be enforced on this host: {ability.why_not}", param=name, limit=name
            )


def set_value(path: Path, value: str, limit: LimitName) -> None:
    """Write one file of a group. Raises NotEnforceable with the kernel's reason."""
    try:
        path.write_text(value)
    except OSError as error:
        raise NotEnforceable(
            f"limit {limit!r} cannot be set: {error.strerror} ({path.name} = {value!r})", param=limit, limit=limit
        ) from error


class NoGroups:
    """A host that lets us make none: every limit is refused."""

    version = "none"

    def __init__(self, why_not: str) -> None:
        self._why_not = why_not

    def abilities(self) -> Mapping[LimitName, Ability]:
        return {name: Ability(name=name, why_not=self._why_not) for name in LIMITS}

    def settle(self) -> None:
        return

    def create(self, name: str, limits: Limits) -> Group:
        require(limits, self.abilities())
        return Group(name, {})

    def list(self) -> list[Group]:
        return []

    def close(self) -> None:
        return


LIMITS: tuple[LimitName, ...] = (
    "cpu", "cpu_weight", "cpus", "memory", "swap", "pids", "io", "huge_pages", "memory_bandwidth",
)  # fmt: skip
BANDWIDTH = "no way is built in to hold a group to a share of memory bandwidth (resctrl; not part of control groups)"


def remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()
