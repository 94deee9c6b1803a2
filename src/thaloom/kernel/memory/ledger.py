"""The ledger: bytes of each device, who holds them and what for. Nothing is admitted that it cannot hold.

An entry is an *estimate* (booked before the thing exists) or *measured* (what it really took). Correcting an
estimate by a measurement never fails, because the bytes are in use already: a device may then be over its capacity,
which `free_bytes` shows as a negative number and which refuses everything further.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from thaloom.base.errors import DeviceNotFound, OutOfMemory
from thaloom.base.ids import DeviceId
from thaloom.base.units import format_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """Bytes one owner holds on one device for one purpose (`weights`, `kv`, `scratch` ...)."""

    owner: str
    device: DeviceId
    purpose: str
    num_bytes: int
    measured: bool

    def __post_init__(self) -> None:
        if self.num_bytes < 0:
            raise ValueError(f"{self.owner!r} cannot hold {self.num_bytes} bytes")


class Ledger:
    """One thread at a time; in memory only. `capacity` is bytes per device."""

    def __init__(self, capacity: Mapping[DeviceId, int]) -> None:
        self._capacity = dict(capacity)
        self._held: dict[tuple[DeviceId, str, str], Holding] = {}

    def capacity_bytes(self, device: DeviceId) -> int:
        """Raises DeviceNotFound for a device the ledger does not keep."""
        try:
            return self._capacity[device]
        except KeyError:
            raise DeviceNotFound(f"the ledger keeps no device {device!r}") from None

    def free_bytes(self, device: DeviceId) -> int:
        """Negative if measurements showed more in use than there is. Raises DeviceNotFound."""
        return self.capacity_bytes(device) - sum(held.num_bytes for held in self.holdings(device))

    def holdings(self, device: DeviceId | None = None) -> list[Holding]:
        """What is held, largest first."""
        held = [entry for entry in self._held.values() if device in (None, entry.device)]
        return sorted(held, key=lambda entry: (-entry.num_bytes, entry.owner, entry.purpose))

    def reserve(self, owner: str, device: DeviceId, num_bytes: int, *, purpose: str, measured: bool = False) -> Holding:
        """Book bytes, replacing what this owner had booked for this purpose; doing it twice is doing it once.

        Raises OutOfMemory, with what is needed, what is free and who holds the rest, and then changes nothing.
        """
        wanted = Holding(owner=owner, device=device, purpose=purpose, num_bytes=num_bytes, measured=measured)
        key = (device, owner, purpose)
        mine = self._held[key].num_bytes if key in self._held else 0
        free = self.free_bytes(device) + mine
        if num_bytes > max(free, mine):  # what is held already may always be kept or made smaller
            raise self._refusal(wanted, free)
        self._held[key] = wanted
        return wanted

    def _refusal(self, wanted: Holding, free: int) -> OutOfMemory:
        there = self.holdings(wanted.device)
        others = [held for held in there if held.owner != wanted.owner]
        own = [held for held in there if held.owner == wanted.owner and held.purpose != wanted.purpose]
        shown = ", ".join(f"{held.owner} {format_bytes(held.num_bytes)} ({held.purpose})" for held in others[:5])
        return OutOfMemory(
            f"{wanted.owner} needs {format_bytes(wanted.num_bytes)} for {wanted.purpose} on {wanted.device}, "
            f"{format_bytes(max(free, 0))} of {format_bytes(self._capacity[wanted.device])} are free"
            + (f"; held by {shown}" if shown else ""),
            device=wanted.device,
            needed_bytes=wanted.num_bytes,
            free_bytes=free,
            held_bytes=sum(held.num_bytes for held in own),
            holders={f"{held.owner}/{held.purpose}": held.num_bytes for held in others},
        )

    def correct(self, owner: str, device: DeviceId, num_bytes: int, *, purpose: str) -> Holding:
        """Replace a booking by what was measured. Never refuses. Raises KeyError if nothing was booked."""
        key = (device, owner, purpose)
        if key not in self._held:
            raise KeyError(f"{owner!r} has booked nothing for {purpose!r} on {device!r}")
        self._held[key] = Holding(owner=owner, device=device, purpose=purpose, num_bytes=num_bytes, measured=True)
        return self._held[key]

    def release(self, owner: str, *, purpose: str | None = None) -> int:
        """Give back all this owner holds (for one purpose, if named), everywhere; returns how many bytes. A second
        time there is nothing left, which is no error."""
        keys = [key for key in self._held if key[1] == owner and purpose in (None, key[2])]
        return sum(self._held.pop(key).num_bytes for key in keys)

    def check(self) -> None:
        """Prove the invariants (AssertionError otherwise)."""
        for key, held in self._held.items():
            assert key == (held.device, held.owner, held.purpose), "an entry lies under another's key"
            assert held.device in self._capacity, f"{held.owner} holds bytes of unknown {held.device}"
        for device in self._capacity:
            if self.free_bytes(device) < 0:
                assert any(held.measured for held in self.holdings(device)), f"{device} is overbooked by estimates"
