"""The CPU driver: one device, `cpu`, whatever the number of sockets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from thaloom.base.clock import Clock, SystemClock
from thaloom.base.errors import DeviceNotFound, DriverUnavailable
from thaloom.base.ids import DeviceId
from thaloom.hal.driver import ABI, Backend
from thaloom.hal.drivers.cpu.probe import DEVICE_ID, Machine
from thaloom.hal.host import Budget
from thaloom.hal.types import Device, Link, Reading


class CpuDriver:
    """driver.Driver and driver.ReportsLinks. Remembers its last counters, to tell use and power since then."""

    name = "cpu"
    abi = ABI

    def __init__(self, machine: Machine | None = None, clock: Clock | None = None) -> None:
        self._machine = machine or Machine()
        self._clock = clock or SystemClock()
        self._budget: Budget | None = None
        self._ticks: tuple[int, int] | None = None
        self._energy: tuple[float, dict[str, tuple[int, int | None]]] | None = None

    def probe(self) -> Sequence[Device]:
        return [self._device()]

    def _device(self) -> Device:
        """With the build that would run here: a wish by hand that cannot be met is told by `open`, not here."""
        from thaloom.hal.drivers.cpu import native

        device = self._machine.device()
        try:
            path = native.choose_here(device.features).path
        except DriverUnavailable:
            path = None
        build = None if path is None else path.stem.removeprefix("thaloom_cpu_")
        return replace(device, build=build, unused=native.unused(device.features))

    def prepare(self) -> None:
        from thaloom.hal.drivers.cpu import backend  # noqa: F401 - imported for those who open

        self._device()

    def links(self) -> Sequence[Link]:
        return self._machine.links()

    def read(self, device: DeviceId) -> Reading:
        self._check(device)
        total, free = self._machine.memory_bytes(), self._machine.memory_free_bytes()
        return Reading(
            device=device,
            health="healthy",
            memory_used_bytes=None if total is None or free is None else max(0, total - free),
            memory_free_bytes=free,
            utilisation=self._utilisation(),
            power_mw=self._power_mw(),
            temperature_c=self._machine.temperature_c(),
            errors=self._machine.memory_errors(),
        )

    def open(self, device: DeviceId, *, num_threads: int = 0) -> Backend:
        """The native library, or the reference with the reason in `degraded`. `num_threads` 0: one for each core."""
        self._check(device)
        from thaloom.hal.drivers.cpu.backend import open_backend

        found = self._device()
        self._budget = self._budget or Budget(found)
        return open_backend(found, self._budget, num_threads=num_threads or found.num_cores)

    @property
    def used_bytes(self) -> int:
        """Bytes of all that backends opened here hold."""
        return 0 if self._budget is None else self._budget.used_bytes

    def _check(self, device: DeviceId) -> None:
        if device != DEVICE_ID:
            raise DeviceNotFound(f"the cpu driver has no device {device!r}")

    def _utilisation(self) -> float | None:
        """Since the last reading; the first one cannot tell."""
        before, self._ticks = self._ticks, self._machine.busy_and_total_ticks()
        if before is None or self._ticks is None or self._ticks[1] <= before[1]:
            return None
        share = (self._ticks[0] - before[0]) / (self._ticks[1] - before[1])
        return min(1.0, max(0.0, share))

    def _power_mw(self) -> int | None:
        """Mean over all packages since the last reading, from their energy counters (RAPL)."""
        before, counters, now = self._energy, self._machine.energy_uj(), self._clock.monotonic()
        self._energy = None if counters is None else (now, counters)
        if before is None or counters is None or now <= before[0] or counters.keys() != before[1].keys():
            return None
        used_uj = 0
        for name, (energy, wraps_at) in counters.items():
            used = energy - before[1][name][0]
            used_uj += used if used >= 0 else used + (wraps_at or 0)
        return max(0, round(used_uj / (now - before[0]) / 1000))
