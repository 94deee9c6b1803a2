"""What a store of tiers keeps in its books."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from thaloom.kernel.memory.tiers.ranking import Rank

Tier = Literal["host", "disk"]
UNIT_BYTES = 4096
"""What files and memory are counted in: pages, and the largest common logical blocks of disks."""

BLANK_SHARE = 8
"""One part in so many of host memory is kept free before a disk, by moving down what is worth least: a disk cannot be
waited for when something comes."""


def whole_units(num_bytes: int) -> int:
    """Bytes that so many take, at least one unit."""
    return max(1, -(-num_bytes // UNIT_BYTES)) * UNIT_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """One file: of what it takes in whole units, the first `num_bytes` are the object, and `checksum` is theirs."""

    path: Path
    num_bytes: int
    checksum: int


@dataclass(slots=True, eq=False)
class DiskCopy:
    stored: StoredFile
    taken_bytes: int
    num_readers: int = 0


@dataclass(slots=True, eq=False)
class Stored:
    """One object. In host memory if it has a room, on disk if it has a copy there; both after it was moved."""

    key: bytes
    num_bytes: int
    worth: float
    rank: Rank
    is_kept: bool = False
    room: memoryview | None = None
    copy: DiskCopy | None = None
    moving: Literal["up", "down"] | None = None

    @property
    def taken_bytes(self) -> int:
        return whole_units(self.num_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """What whoever sits at the disk is to do next: remove these copies, or bring one object up or down."""

    gone: list[DiskCopy] = field(default_factory=list)
    one: Stored | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What a store holds. An object that lies in both tiers counts in both."""

    host_bytes: int
    host_objects: int
    disk_bytes: int
    disk_objects: int
