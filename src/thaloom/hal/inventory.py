"""Which devices this node has, found by asking every driver; no driver can fell another.

Probing is cheap (drivers read what the kernel already tells) and is done again whenever somebody wants to know: a
device that came or went is an event, not a surprise. One object owns the drivers of a process; not thread-safe.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from thaloom.base.errors import DeviceLost, DeviceNotFound, DriverUnavailable
from thaloom.base.events import Emit, Event, at_level, ignore
from thaloom.base.ids import DeviceId
from thaloom.base.plugins import Absent, Registry
from thaloom.hal.driver import ABI, Driver, ReportsLinks
from thaloom.hal.topology import Topology
from thaloom.hal.types import Device, Link, Reading


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceAppeared(Event):
    device: DeviceId
    driver: str


@at_level("warning")
@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceVanished(Event):
    """A device that was there at the last probe is not any more."""

    device: DeviceId
    driver: str


@at_level("warning")
@dataclass(frozen=True, slots=True, kw_only=True)
class DriverFailed(Event):
    """A driver raised where it must not. Its devices are left out; the rest goes on."""

    driver: str
    doing: str
    reason: str


@at_level("warning")
@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingImplausible(Event):
    """A device reported what cannot be; that metric counts as not reported."""

    device: DeviceId
    metric: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InventoryReport:
    """What one round of probing found. Sorted, so that equal machines give equal reports."""

    devices: tuple[Device, ...]
    absent: tuple[Absent, ...]
    """Drivers that cannot be used, and why. A driver whose hardware is not there is not among them."""
    appeared: tuple[DeviceId, ...] = ()
    vanished: tuple[DeviceId, ...] = ()


class Inventory:
    """The devices of this node and the drivers they came from."""

    def __init__(self, registry: Registry[Driver], emit: Emit = ignore) -> None:
        self._registry = registry
        self._emit = emit
        self._drivers: dict[str, Driver] = {}
        self._devices: dict[DeviceId, Device] = {}

    def refresh(self) -> InventoryReport:
        """Ask every driver again. Raises nothing that a driver raised: such a driver is absent, with its reason."""
        found: dict[DeviceId, Device] = {}
        absent = {missing.name: missing for missing in self._registry.absent()}
        for name in self._registry.names():
            try:
                found |= self._probe(name, found)
            except DriverUnavailable as error:
                absent[name] = Absent(name=name, reason=error.message)
                self._emit(DriverFailed(driver=name, doing="probe", reason=error.message))
        return self._remember(found, absent)

    def devices(self) -> list[Device]:
        """What the last refresh found."""
        return list(self._devices.values())

    def device(self, device_id: DeviceId) -> Device:
        """Raises DeviceNotFound naming the devices there are."""
        if device_id not in self._devices:
            known = ", ".join(self._devices) or "none"
            raise DeviceNotFound(f"no device {device_id!r} (there are: {known})", param="device")
        return self._devices[device_id]

    def driver(self, device_id: DeviceId) -> Driver:
        """The driver that found the device. Raises DeviceNotFound."""
        return self._drivers[self.device(device_id).driver]

    def readings(self) -> list[Reading]:
        """One reading of each device, in order of id, with what cannot be true left out."""
        return [self._read(device) for device in self._devices.values()]

    def topology(self) -> Topology:
        """How the devices are connected, as far as their drivers know."""
        links: list[Link] = []
        for name, driver in sorted(self._drivers.items()):
            if isinstance(driver, ReportsLinks):
                try:
                    links += driver.links()
                except Exception as error:  # noqa: BLE001 - the driver is foreign code; reported, and the rest goes on
                    self._emit(DriverFailed(driver=name, doing="links", reason=_reason(error)))
        return Topology(devices=tuple(self._devices.values()), links=tuple(links))

    def _probe(self, name: str, taken: Mapping[DeviceId, Device]) -> dict[DeviceId, Device]:
        """The devices of one driver. Raises DriverUnavailable, whatever the driver raised."""
        try:
            if name not in self._drivers:
                driver = self._registry.create(name)
                if driver.abi != ABI:
                    raise DriverUnavailable(f"made for driver contract {driver.abi}, this is {ABI}")
                self._drivers[name] = driver
            devices = list(self._drivers[name].probe())
        except DriverUnavailable:
            raise
        except Exception as error:
            raise DriverUnavailable(_reason(error)) from error
        found: dict[DeviceId, Device] = {}
        for device in devices:
            if device.driver != name:
                raise DriverUnavailable(f"device {device.id!r} says it is driver {device.driver!r}'s")
            if device.id in found or device.id in taken:
                raise DriverUnavailable(f"device {device.id!r} was found twice")
            found[device.id] = device
        return found

    def _remember(self, found: dict[DeviceId, Device], absent: dict[str, Absent]) -> InventoryReport:
        before, self._devices = self._devices, dict(sorted(found.items()))
        appeared = tuple(device for device in self._devices if device not in before)
        vanished = tuple(device for device in before if device not in self._devices)
        for device_id in appeared:
            self._emit(DeviceAppeared(device=device_id, driver=found[device_id].driver))
        for device_id in vanished:
            self._emit(DeviceVanished(device=device_id, driver=before[device_id].driver))
        return InventoryReport(
            devices=tuple(self._devices.values()),
            absent=tuple(sorted(absent.values(), key=lambda missing: missing.name)),
            appeared=appeared,
            vanished=vanished,
        )

    def _read(self, device: Device) -> Reading:
        try:
            reading = self._drivers[device.driver].read(device.id)
            doubtful = implausible(device, reading)
        except (DeviceLost, DeviceNotFound):
            return Reading(device=device.id, health="lost")
        except Exception as error:  # noqa: BLE001 - the driver is foreign code; reported, and the rest goes on
            self._emit(DriverFailed(driver=device.driver, doing="read", reason=_reason(error)))
            return Reading(device=device.id, health="degraded")
        for metric in doubtful:
            self._emit(ReadingImplausible(device=device.id, metric=metric, value=repr(getattr(reading, metric))))
        unknown: dict[str, Any] = dict.fromkeys(doubtful)
        return dataclasses.replace(reading, **unknown)


def implausible(device: Device, reading: Reading) -> list[str]:
    """Names of metrics that cannot be true of the device: negative, not a number, more than there is.

    Raises ValueError for a reading of another device.
    """
    if reading.device != device.id:
        raise ValueError(f"asked for {device.id!r}, got a reading of {reading.device!r}")
    ceilings = {
        "memory_used_bytes": device.memory_bytes,
        "memory_free_bytes": device.memory_bytes,
        "utilisation": 1.0,
        "power_mw": 100_000_000,  # 100 kW: more than any one device, less than a counter gone astray
        "errors": float("inf"),
    }
    doubtful = []
    for metric, ceiling in ceilings.items():
        value = getattr(reading, metric)
        if value is not None and not 0 <= value <= ceiling:  # also refuses NaN
            doubtful.append(metric)
    if reading.temperature_c is not None and not -100 <= reading.temperature_c <= 300:
        doubtful.append("temperature_c")
    return doubtful


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
