"""Memory while a plan gives it away: what is free, what is about to come back, who could make more. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from thaloom.base.access import tenant_of
from thaloom.base.ids import DeviceId, ServiceName
from thaloom.init.memory.shortage import needs
from thaloom.kernel.sched.idling import Loaded, room_for


class Room:
    """Of all devices. Belongs to one decision. Thousands of wishes may be short of the same bytes: what is found for
    one is kept for the others."""

    def __init__(
        self, free_bytes: Mapping[DeviceId, int], leaving_bytes: Mapping[DeviceId, int], loaded: Iterable[Loaded]
    ) -> None:
        self._free = dict(free_bytes)
        self._leaving = Counter(leaving_bytes)
        self._loaded = {one.service: one for one in loaded}
        self._most: dict[DeviceId, int] = {}
        """What idle services could make at most."""
        self._told: dict[tuple[object, ...], str] = {}

    def __contains__(self, device: DeviceId) -> bool:
        return device in self._free

    def free_bytes(self, device: DeviceId) -> int:
        return self._free[device]

    def take(self, device: DeviceId, num_bytes: int) -> bool:
        """Give it away, if there is so much now."""
        if num_bytes > self._free[device]:
            return False
        self._free[device] -= num_bytes
        self._told.clear()
        return True

    def promise(self, service: ServiceName, device: DeviceId, num_bytes: int) -> tuple[Loaded, ...] | None:
        """Give away what is there together with what comes back, and with what these hold: they are to be unloaded.
        None: that would not be enough."""
        there = self._free[device] + self._leaving[device]
        if num_bytes > there + self._most_on(device):
            return None
        others = (one for one in self._on(device) if one.service != service)
        chosen = room_for(num_bytes, there, others)
        if chosen is None:
            return None
        for one in chosen:
            del self._loaded[one.service]
            self._leaving[device] += one.num_bytes
        free = self._free[device]
        self._leaving[device] -= num_bytes - max(0, free)
        self._free[device] = min(0, free)
        self._most.clear()
        self._told.clear()
        return chosen

    def shortage(self, service: ServiceName, device: DeviceId, num_bytes: int) -> str:
        own = service if service in self._loaded else None
        made_of = (device, num_bytes, tenant_of(service), own)
        if made_of not in self._told:
            self._told[made_of] = needs(service, device, num_bytes, self._free[device], self._loaded.values())
        return f"{service!r} {self._told[made_of]}"

    def _on(self, device: DeviceId) -> list[Loaded]:
        return [one for one in self._loaded.values() if one.device == device]

    def _most_on(self, device: DeviceId) -> int:
        if device not in self._most:
            self._most[device] = sum(one.num_bytes for one in self._on(device) if one.may_make_room)
        return self._most[device]
