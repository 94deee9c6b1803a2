"""The virtual driver: probe, readings and links of made-up devices."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from thaloom.base.config import from_mapping
from thaloom.base.errors import BadParameter, DeviceNotFound
from thaloom.base.ids import DeviceId
from thaloom.hal.driver import ABI, Backend, FaultKind
from thaloom.hal.drivers.virtual.faults import Faults
from thaloom.hal.host import Budget
from thaloom.hal.types import Device, DeviceKind, DType, Health, Isolation, Link, Reading, WeightFormat

VirtualLevel = Literal["L1", "L3"]
ENVIRONMENT = "THALOOM_VIRTUAL_DEVICES"


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualDevice:
    """What a made-up device claims to be. Its memory is a budget; only what is used is really taken."""

    id: str
    kind: DeviceKind = "virtual"
    name: str = "virtual device"
    memory_bytes: int = 1 << 30
    num_cores: int = 1
    dtypes: tuple[DType, ...] = ("f32", "bf16", "f16")
    """Weight dtypes it takes; a model in any other is refused."""
    weight_formats: tuple[WeightFormat, ...] = ("stored", "int8", "int4")
    """How it can keep weights; a wish for any other is refused."""
    isolation: Isolation = "process"
    numa_node: int | None = None
    level: VirtualLevel = "L3"
    """L3: the reference runs whole steps; L1: everything is composed from plain tensor operators (hal/lower.py)."""
    power_mw: int | None = None
    temperature_c: float | None = None
    faults_file: str | None = None
    """A JSON file, read before each step and reading: a list of faults to show, as in driver.FaultKind. The way to
    command a device that another process has open. No file, no fault."""

    def to_device(self) -> Device:
        return Device(
            id=DeviceId(self.id),
            driver="virtual",
            kind=self.kind,
            name=self.name,
            vendor="thaloom",
            memory_bytes=self.memory_bytes,
            num_cores=self.num_cores,
            dtypes=frozenset(self.dtypes),
            isolation=self.isolation,
            numa_node=self.numa_node,
        )


class VirtualDriver:
    """driver.Driver, ReportsLinks and InjectsFaults over any made-up devices. `sleep` is how a slow device is slow."""

    name = "virtual"
    abi = ABI

    def __init__(
        self,
        devices: Sequence[VirtualDevice] = (),
        *,
        links: Sequence[Link] = (),
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._devices = {DeviceId(device.id): device for device in devices}
        if len(self._devices) != len(devices):
            raise BadParameter("two virtual devices have the same id", param="id")
        self._links = tuple(links)
        self._sleep = sleep
        self._faults = {id: Faults(device.faults_file) for id, device in self._devices.items()}
        self._budgets = {id: Budget(device.to_device()) for id, device in self._devices.items()}

    def probe(self) -> Sequence[Device]:
        return [device.to_device() for id, device in self._devices.items() if "unplugged" not in self._faults[id].now()]

    def read(self, device: DeviceId) -> Reading:
        made_up, faults = self._device(device), self._faults[device].now()
        if "garbage" in faults:
            return Reading(
                device=device,
                health="healthy",
                memory_used_bytes=-1,
                memory_free_bytes=2**63,
                utilisation=float("nan"),
                power_mw=-5,
                temperature_c=1e9,
                errors=-1,
            )
        health: Health = "degraded" if "degraded" in faults else "healthy"
        if faults & {"lost", "unplugged"}:
            return Reading(device=device, health="lost")
        used = self._budgets[device].used_bytes
        return Reading(
            device=device,
            health=health,
            memory_used_bytes=used,
            memory_free_bytes=made_up.memory_bytes - used,
            power_mw=made_up.power_mw,
            temperature_c=made_up.temperature_c,
        )

    def open(self, device: DeviceId, *, num_threads: int) -> Backend:
        made_up = self._device(device)
        if num_threads < 1:
            raise BadParameter(f"a device needs at least one thread, not {num_threads}", param="num_threads")
        self._faults[device].raise_if_lost(device)
        from thaloom.hal.drivers.virtual.backend import open_backend  # only who opens needs the interpreters

        return open_backend(
            made_up.to_device(),
            made_up.level,
            frozenset(made_up.weight_formats),
            self._budgets[device],
            self._faults[device],
            self._sleep,
        )

    def links(self) -> Sequence[Link]:
        return self._links

    def inject(self, device: DeviceId, fault: FaultKind) -> None:
        self._device(device)
        self._faults[device].add(fault)

    def clear(self, device: DeviceId) -> None:
        self._device(device)
        self._faults[device].clear()

    def _device(self, device: DeviceId) -> VirtualDevice:
        if device not in self._devices:
            raise DeviceNotFound(f"the virtual driver has no device {device!r}", param="device")
        return self._devices[device]


def devices_from_environment(environment: Mapping[str, str] = os.environ) -> list[VirtualDevice]:
    """Devices of THALOOM_VIRTUAL_DEVICES; none where it is not set. Raises BadParameter naming what is wrong."""
    text = environment.get(ENVIRONMENT, "").strip()
    if not text:
        return []
    try:
        items = json.loads(text)
    except json.JSONDecodeError as error:
        raise BadParameter(f"{ENVIRONMENT}: {error}", param=ENVIRONMENT) from error
    if not isinstance(items, list) or not all(isinstance(item, dict) and "id" in item for item in items):
        raise BadParameter(f"{ENVIRONMENT} must be a JSON list of objects with an id", param=ENVIRONMENT)
    return [from_mapping(VirtualDevice, item, prefix=f"{ENVIRONMENT}.") for item in items]
