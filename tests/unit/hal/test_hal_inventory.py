"""Inventory: all drivers asked, none able to fell another, every change told."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from thaloom.base.errors import DeviceLost, DeviceNotFound, DriverUnavailable
from thaloom.base.events import Recorder
from thaloom.base.ids import DeviceId
from thaloom.base.plugins import Manifest, Plugin, Registry
from thaloom.hal.driver import ABI, Driver
from thaloom.hal.drivers.virtual.driver import VirtualDevice, VirtualDriver
from thaloom.hal.inventory import (
    DeviceAppeared,
    DeviceVanished,
    DriverFailed,
    Inventory,
    ReadingImplausible,
    implausible,
)
from thaloom.hal.types import Device, Link, Reading

A, B = DeviceId("virtual:a"), DeviceId("virtual:b")


class Scripted:
    """A driver that does as it is told."""

    abi = ABI

    def __init__(self, name: str, probe: Callable[[], Sequence[Device]], read: Callable[[], Any] | None = None) -> None:
        self.name = name
        self.probe = probe
        self._read = read

    def read(self, device: DeviceId) -> Any:
        assert self._read is not None
        return self._read()

    def open(self, device: DeviceId, *, num_threads: int) -> Any:
        raise DriverUnavailable("not in this test")


def device(id: str, driver: str) -> Device:
    return dataclasses.replace(VirtualDevice(id=id, memory_bytes=1000).to_device(), driver=driver)


def plugin(name: str, factory: Callable[[], Any], **changes: Any) -> Plugin[Driver]:
    facts = {"kind": "driver", "name": name, "version": "1", "summary": "for a test"} | changes
    return Plugin(manifest=Manifest(**facts), factory=factory)


def inventory(*plugins: Plugin[Driver]) -> tuple[Inventory, Recorder]:
    registry: Registry[Driver] = Registry("driver")
    for item in plugins:
        registry.add(item)
    recorder = Recorder()
    return Inventory(registry, recorder), recorder


def two_devices() -> VirtualDriver:
    return VirtualDriver([VirtualDevice(id=B), VirtualDevice(id=A)], links=[Link(a=A, b=B, kind="pcie")])


def test_devices_come_sorted_with_their_drivers() -> None:
    driver = two_devices()
    found, recorder = inventory(plugin("virtual", lambda: driver))
    report = found.refresh()
    assert [item.id for item in report.devices] == [item.id for item in found.devices()] == [A, B]
    assert report.appeared == (A, B)
    assert report.absent == ()
    assert found.driver(A) is driver
    assert found.device(B).id == B
    assert [event.device for event in recorder.of(DeviceAppeared)] == [A, B]
    assert found.refresh().appeared == ()


def test_unknown_device_names_the_known() -> None:
    found, _ = inventory(plugin("virtual", two_devices))
    found.refresh()
    with pytest.raises(DeviceNotFound, match=f"{A}, {B}"):
        found.device(DeviceId("cuda:0"))
    with pytest.raises(DeviceNotFound):
        found.driver(DeviceId("cuda:0"))


def test_no_driver_at_all_is_no_error() -> None:
    found, recorder = inventory()
    assert found.refresh().devices == ()
    assert found.readings() == []
    assert not recorder.events


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (lambda: (_ for _ in ()).throw(DriverUnavailable("no libcuda.so")), "no libcuda.so"),
        (lambda: (_ for _ in ()).throw(ImportError("no module named pynvml")), "ImportError: no module named pynvml"),
        (lambda: Scripted("broken", lambda: 1 // 0), "ZeroDivisionError"),  # type: ignore[arg-type,return-value]
        (lambda: Scripted("broken", lambda: [device("x", "cuda")]), "says it is driver 'cuda'"),
        (lambda: Scripted("broken", lambda: [device("x", "broken")] * 2), "found twice"),
        (lambda: Scripted("broken", lambda: [device(A, "broken")]), "found twice"),
        (lambda: Scripted("broken", lambda: None), "TypeError"),  # type: ignore[arg-type,return-value]
    ],
)
def test_broken_driver_is_absent_and_fells_nobody(broken: Callable[[], Any], reason: str) -> None:
    # `a_virtual` is asked first: a broken driver cannot take its devices either
    driver = Scripted("a_virtual", lambda: [device(A, "a_virtual")])
    found, recorder = inventory(plugin("broken", broken), plugin("a_virtual", lambda: driver))
    report = found.refresh()
    assert [item.id for item in report.devices] == [A]
    assert [item.name for item in report.absent] == ["broken"]
    assert reason in report.absent[0].reason
    assert reason in recorder.of(DriverFailed)[0].reason  # type: ignore[attr-defined]


def test_driver_of_another_contract_is_absent() -> None:
    driver = Scripted("later", lambda: [device("x", "later")])
    driver.abi = ABI + 1
    found, _ = inventory(plugin("later", lambda: driver), plugin("older", lambda: driver, abi=99))
    report = found.refresh()
    assert [item.name for item in report.absent] == ["later", "older"]
    assert all("contract" in item.reason for item in report.absent)


def test_a_driver_that_recovers_is_there_again() -> None:
    answers: list[Any] = [OSError("busy"), [device("x", "moody")]]

    def probe() -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    found, _ = inventory(plugin("moody", lambda: Scripted("moody", probe)))
    assert found.refresh().absent[0].reason == "OSError: busy"
    assert [item.id for item in found.refresh().devices] == ["x"]


def test_unplugged_device_is_an_event_and_comes_back() -> None:
    driver = two_devices()
    found, recorder = inventory(plugin("virtual", lambda: driver))
    found.refresh()
    driver.inject(A, "unplugged")
    assert found.refresh().vanished == (A,)
    assert [event.fields() for event in recorder.of(DeviceVanished)] == [{"device": A, "driver": "virtual"}]
    with pytest.raises(DeviceNotFound):
        found.device(A)
    driver.clear(A)
    assert found.refresh().appeared == (A,)


class TestReadings:
    def read(self, answer: Callable[[], Any]) -> tuple[Reading, Recorder]:
        driver = Scripted("scripted", lambda: [device("x", "scripted")], answer)
        found, recorder = inventory(plugin("scripted", lambda: driver))
        found.refresh()
        return found.readings()[0], recorder

    def test_what_is_possible_is_believed(self) -> None:
        reading = Reading(device=DeviceId("x"), health="healthy", memory_used_bytes=3, temperature_c=-4.0, errors=0)
        assert self.read(lambda: reading)[0] == reading

    @pytest.mark.parametrize(
        "nonsense",
        [
            {"memory_used_bytes": -1},
            {"memory_free_bytes": 1001},
            {"utilisation": float("nan")},
            {"utilisation": 1.01},
            {"power_mw": -1},
            {"power_mw": 10**12},
            {"temperature_c": 1000.0},
            {"temperature_c": float("nan")},
            {"errors": -1},
        ],
        ids=str,
    )
    def test_what_is_impossible_counts_as_not_reported(self, nonsense: dict[str, Any]) -> None:
        reading = Reading(device=DeviceId("x"), health="healthy", **nonsense)
        found, recorder = self.read(lambda: reading)
        (metric,) = nonsense
        assert getattr(found, metric) is None
        assert found.health == "healthy"
        assert [event.metric for event in recorder.of(ReadingImplausible)] == [metric]  # type: ignore[attr-defined]

    @pytest.mark.parametrize("error", [DeviceLost("gone"), DeviceNotFound("gone")])
    def test_lost_device_reads_as_lost(self, error: Exception) -> None:
        found, _ = self.read(lambda: (_ for _ in ()).throw(error))
        assert found == Reading(device=DeviceId("x"), health="lost")

    @pytest.mark.parametrize(
        "answer",
        [
            lambda: (_ for _ in ()).throw(OSError("ioctl")),
            lambda: Reading(device=DeviceId("y"), health="healthy"),
            lambda: Reading(device=DeviceId("x"), health="healthy", power_mw="12 W"),  # type: ignore[arg-type]
            lambda: None,
        ],
    )
    def test_driver_that_fails_to_read_is_told(self, answer: Callable[[], Any]) -> None:
        found, recorder = self.read(answer)
        assert found == Reading(device=DeviceId("x"), health="degraded")
        assert [event.doing for event in recorder.of(DriverFailed)] == ["read"]  # type: ignore[attr-defined]

    def test_reading_of_another_device_is_refused(self) -> None:
        with pytest.raises(ValueError, match="'y'"):
            implausible(device("x", "d"), Reading(device=DeviceId("y"), health="healthy"))


def test_topology_comes_from_drivers_that_know_it() -> None:
    found, _ = inventory(
        plugin("virtual", two_devices),
        plugin("plain", lambda: Scripted("plain", lambda: [device("x", "plain")])),
    )
    found.refresh()
    topology = found.topology()
    assert len(topology.devices) == 3
    assert topology.link(B, A) is not None


def test_driver_that_fails_to_tell_links_is_told() -> None:
    class Broken(VirtualDriver):
        def links(self) -> Any:
            raise OSError("no such file")

    found, recorder = inventory(plugin("virtual", lambda: Broken([VirtualDevice(id=A)])))
    found.refresh()
    assert found.topology().links == ()
    assert [event.doing for event in recorder.of(DriverFailed)] == ["links"]  # type: ignore[attr-defined]


def test_probing_imports_no_vendor_library_and_starts_no_process() -> None:
    """All installed drivers, in a fresh interpreter."""
    program = """
import sys
events = []
sys.addaudithook(lambda name, args: events.append(name))
from thaloom.base.plugins import Registry
from thaloom.hal.inventory import Inventory
registry = Registry("driver")
registry.discover()
report = Inventory(registry).refresh()
assert "cpu" in [device.id for device in report.devices], report
assert not {name for name in events if name in ("subprocess.Popen", "os.fork", "os.posix_spawn", "os.system")}
from thaloom.hal.testing.checks.probe import VENDOR_MODULES
assert not {name.partition(".")[0] for name in sys.modules} & VENDOR_MODULES
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
