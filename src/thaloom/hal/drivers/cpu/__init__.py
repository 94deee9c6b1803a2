"""The processor itself: found in /proc and /sys, run by a small C++ library, by the NumPy reference without it."""

from __future__ import annotations

from thaloom.base.plugins import Manifest, Plugin
from thaloom.hal.driver import Driver


def _create() -> Driver:
    from thaloom.hal.drivers.cpu.driver import CpuDriver

    return CpuDriver()


DRIVER: Plugin[Driver] = Plugin(
    manifest=Manifest(
        kind="driver",
        name="cpu",
        version="0.1.0",
        summary="The host's processors: x86-64 from SSE4 to AVX-512, and others by a generic build",
        provides=("cpu",),
    ),
    factory=_create,
)
