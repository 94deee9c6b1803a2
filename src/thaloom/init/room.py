"""Memory while a plan gives it away: what is free, what is about to come back, who could make more. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from thaloom.base.ids import DeviceId, ServiceName
from thaloom.init.shortage import shortage
from thaloom.kernel.sched.idling import Loaded, room_for


class Room:
    """Of all devices. Belongs to one decision."""

    def __init__(
        self, free_bytes: Mapping[DeviceId, int], leaving_bytes: Mapping[DeviceId, int], loaded: Iterable[Loaded]
    ) -> None:
        self._free = dict(free_bytes)
        self._leaving = Counter(leaving_bytes)
        self._loaded = tuple(loaded)

    def __contains__(self, device: DeviceId) -> bool:
        return device in self._free

    def free_bytes(self, device: DeviceId) -> int:
        return self._free[device]

    def take(self, device: DeviceId, num_bytes: int) -> bool:
        """Give it away, if there is so much now."""
        if num_bytes > self._free[device]:
            return False
        self._free[device] -= num_bytes
        return True

    def promise(self, service: ServiceName, device: DeviceId, num_bytes: int) -> tuple[Loaded, ...] | None:
        """Give away what is there together with what comes back, and with what these hold: they are to be unloaded.
        None: that would not be enough."""
        free = self._free[device]
        others = (one for one in self._loaded if one.device == device and one.service != service)
        chosen = room_for(num_bytes, free + self._leaving[device], others)
        if chosen is None:
            return None
        self._loaded = tuple(one for one in self._loaded if one not in chosen)
        self._leaving[device] += sum(one.num_bytes for one in chosen) - (num_bytes - max(0, free))
        self._free[device] = min(0, free)
        return chosen

    def shortage(self, service: ServiceName, device: DeviceId, num_bytes: int) -> str:
        return shortage(service, device, num_bytes, self._free[device], self._loaded)
