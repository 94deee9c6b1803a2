"""Open the CPU: the native library where one can be used, else the NumPy reference, saying why."""

from __future__ import annotations

from thaloom.base.errors import DriverUnavailable
from thaloom.hal.driver import Backend
from thaloom.hal.drivers.cpu import native
from thaloom.hal.drivers.cpu.executable import CpuBackend
from thaloom.hal.host import Budget
from thaloom.hal.reference import ReferenceBackend
from thaloom.hal.types import Device


def open_backend(device: Device, budget: Budget, *, num_threads: int) -> Backend:
    """Raises DriverUnavailable only for a build that was asked for by name and cannot be used."""
    if num_threads < 1:
        raise ValueError(f"a backend needs at least one thread, not {num_threads}")
    choice = native.choose_here(device.features)
    if choice.path is None:
        return ReferenceBackend(device, degraded=choice.degraded, budget=budget)
    try:
        library = native.load(choice.path)
    except DriverUnavailable as error:
        if choice.by_hand:
            raise
        reason = f"{error.message}; the NumPy reference runs instead"
        return ReferenceBackend(device, degraded=reason, budget=budget)
    return CpuBackend(device, library, budget, num_threads=num_threads, degraded=choice.degraded)
