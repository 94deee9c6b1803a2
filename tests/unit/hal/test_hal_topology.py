"""What can be asked of a topology."""

from __future__ import annotations

from thaloom.hal.drivers.virtual.driver import VirtualDevice
from thaloom.hal.topology import Topology
from thaloom.hal.types import Link

DEVICES = tuple(
    VirtualDevice(id=id, numa_node=node).to_device() for id, node in (("c", 1), ("a", 0), ("b", 0), ("d", None))
)
LINKS = (
    Link(a="a", b="b", kind="pcie", bandwidth_bytes_per_s=32e9),
    Link(a="b", b="a", kind="nvlink", bandwidth_bytes_per_s=450e9),
    Link(a="a", b="c", kind="pcie"),
    Link(a="a", b="a", kind="memory", distance=10),
    Link(a="cpu/node0", b="cpu/node1", kind="memory", distance=21),
    Link(a="cpu/node0", b="cpu/node1", kind="memory", distance=12),
)
TOPOLOGY = Topology(devices=DEVICES, links=LINKS)


def test_best_link_wins_in_either_direction() -> None:
    for ends in (("a", "b"), ("b", "a")):
        link = TOPOLOGY.link(*ends)
        assert link is not None
        assert link.kind == "nvlink"
    link = TOPOLOGY.link("cpu/node1", "cpu/node0")
    assert link is not None
    assert link.distance == 12


def test_nothing_is_guessed() -> None:
    assert TOPOLOGY.link("a", "d") is None
    assert TOPOLOGY.link("b", "c") is None
    assert TOPOLOGY.neighbours("d") == ()


def test_neighbours_come_best_first_and_never_oneself() -> None:
    assert TOPOLOGY.neighbours("a") == ("b", "c")
    assert TOPOLOGY.neighbours("cpu/node0") == ("cpu/node1",)


def test_numa_nodes_list_their_devices() -> None:
    assert TOPOLOGY.numa_nodes() == {0: ("a", "b"), 1: ("c",)}
