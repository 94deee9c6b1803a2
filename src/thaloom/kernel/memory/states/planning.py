"""What a training job uses and when, and whether that can be had: pure.

A *slice* is the memory a job computes in. It holds the arrays of one use, and those of the next if there is room.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

from thaloom.base.errors import OutOfMemory
from thaloom.base.units import format_bytes
from thaloom.kernel.memory.tiers.types import BLANK_SHARE, whole_units


@dataclass(frozen=True, slots=True)
class Array:
    """An array that lives in tiers. It is zeros until somebody writes it."""

    shape: tuple[int, ...]
    dtype: DTypeLike = np.float32

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    @property
    def taken_bytes(self) -> int:
        """In the slice and in tiers."""
        return whole_units(self.num_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """Arrays that are needed together, such as those of one layer, and what becomes of each."""

    name: str
    reads: tuple[str, ...] = ()
    updates: tuple[str, ...] = ()
    """Read, and kept as they are afterwards."""
    writes: tuple[str, ...] = ()
    """Not read: they hold whatever was there, until all of it is written. Kept afterwards: activations put forward."""
    takes: tuple[str, ...] = ()
    """Read for the last time: until it is written again such an array takes nothing. Activations on the way back."""

    @property
    def loaded(self) -> tuple[str, ...]:
        return self.reads + self.updates + self.takes

    @property
    def kept(self) -> tuple[str, ...]:
        return self.updates + self.writes

    @property
    def names(self) -> tuple[str, ...]:
        return self.reads + self.updates + self.writes + self.takes


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    need_bytes: dict[str, int]
    """Of the slice, for each use."""
    worth: dict[str, float]
    """Of each array to whoever keeps it: nothing, if it is to lie on disk while it is not used."""

    def fit_together(self, one: Use, other: Use, slice_bytes: int) -> bool:
        return self.need_bytes[one.name] + self.need_bytes[other.name] <= slice_bytes


def plan(
    arrays: Mapping[str, Array], schedule: Sequence[Use], *, slice_bytes: int, host_bytes: int, disk_bytes: int
) -> Plan:
    """Raises OutOfMemory where a use does not fit into the slice, or all arrays into the tiers: by how much. ValueError
    for a schedule that names what there is not, or one thing twice."""
    _check(arrays, schedule)
    need = {use.name: sum(arrays[name].taken_bytes for name in use.names) for use in schedule}
    for name, num_bytes in need.items():
        if num_bytes > slice_bytes:
            raise _short(f"the use {name!r}", num_bytes, "the slice", slice_bytes)
    return Plan(need_bytes=need, worth=_worth(arrays, schedule, host_bytes, disk_bytes))


def _check(arrays: Mapping[str, Array], schedule: Sequence[Use]) -> None:
    twice = [name for name, count in Counter(use.name for use in schedule).items() if count > 1]
    if twice or not schedule:
        raise ValueError(f"a schedule without uses, or with two of one name: {twice}")
    for use in schedule:
        if unknown := set(use.names) - set(arrays):
            raise ValueError(f"the use {use.name!r} names arrays that were not declared: {sorted(unknown)}")
        if len(set(use.names)) < len(use.names):
            raise ValueError(f"the use {use.name!r} names an array twice")


def _worth(arrays: Mapping[str, Array], schedule: Sequence[Use], host_bytes: int, disk_bytes: int) -> dict[str, float]:
    """What moves most for its bytes stays in host memory, the same arrays in every round: which of them were used last
    says nothing where all come in turn. Host memory has room besides for what is on its way to the disk."""
    moves = Counter(name for use in schedule for name in use.loaded + use.kept)
    total = sum(array.taken_bytes for array in arrays.values())
    left = host_bytes
    if disk_bytes:
        left -= max(host_bytes // BLANK_SHARE, 2 * max((array.taken_bytes for array in arrays.values()), default=0))
    worth = dict.fromkeys(arrays, 0.0)
    below = total
    for name in sorted(arrays, key=lambda name: -moves[name]):
        if (taken := arrays[name].taken_bytes) <= left:
            left -= taken
            below -= taken
            worth[name] = float(moves[name] * taken)
    if below > disk_bytes or left < 0:
        raise _short("what is declared", total, "the tiers", total - (below - disk_bytes) + min(left, 0))
    return worth


def _short(what: str, needed: int, where: str, room: int) -> OutOfMemory:
    room = max(room, 0)
    return OutOfMemory(
        f"{what} needs {format_bytes(needed)}, {where} can hold {format_bytes(room)}: "
        f"{format_bytes(needed - room)} too much",
        needed_bytes=needed,
        free_bytes=room,
    )
