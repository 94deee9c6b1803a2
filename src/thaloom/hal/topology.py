"""How devices and NUMA nodes are connected: a frozen picture, made from what drivers report.

Ends of a link are device ids, or a NUMA node of a device written `cpu/node0`. Nothing is guessed: two ends without
a reported link have none.
"""

from __future__ import annotations

from dataclasses import dataclass

from thaloom.base.ids import DeviceId
from thaloom.hal.types import Device, Link

LOCAL_DISTANCE = 10
"""The firmware's distance of a NUMA node to itself. Source: ACPI 6.5, 5.2.17 (SLIT)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    devices: tuple[Device, ...]
    links: tuple[Link, ...]

    def link(self, a: str, b: str) -> Link | None:
        """The best direct link between two ends, in either direction: most bandwidth, then least distance."""
        direct = [link for link in self.links if {link.a, link.b} == {a, b}]
        return min(direct, key=_cost, default=None)

    def neighbours(self, end: str) -> tuple[str, ...]:
        """Ends that are linked directly to `end`, the best linked first."""
        best: dict[str, tuple[float, float]] = {}
        for link in self.links:
            if end in (link.a, link.b) and link.a != link.b:
                other = link.b if link.a == end else link.a
                best[other] = min(best.get(other, _cost(link)), _cost(link))
        return tuple(sorted(best, key=lambda other: (best[other], other)))

    def numa_nodes(self) -> dict[int, tuple[DeviceId, ...]]:
        """NUMA node -> the devices that say they sit on it."""
        nodes: dict[int, list[DeviceId]] = {}
        for device in self.devices:
            if device.numa_node is not None:
                nodes.setdefault(device.numa_node, []).append(device.id)
        return {node: tuple(sorted(ids)) for node, ids in sorted(nodes.items())}


def _cost(link: Link) -> tuple[float, float]:
    """Sorts better links first; what is not reported counts as worst."""
    bandwidth = 0.0 if link.bandwidth_bytes_per_s is None else link.bandwidth_bytes_per_s
    return -bandwidth, float("inf") if link.distance is None else link.distance
