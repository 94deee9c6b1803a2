"""Devices that are made up: for tests, for rehearsals, and for trying Thaloom on hardware one does not have.

There are none by default. THALOOM_VIRTUAL_DEVICES makes some: a JSON list of objects with the fields of
`driver.VirtualDevice`, for example `[{"id": "virtual:0", "memory_bytes": 8000000000}]`.
"""

from __future__ import annotations

from thaloom.base.plugins import Manifest, Plugin
from thaloom.hal.driver import Driver


def _make() -> Driver:
    from thaloom.hal.drivers.virtual.driver import VirtualDriver, devices_from_environment

    return VirtualDriver(devices_from_environment())


DRIVER: Plugin[Driver] = Plugin(
    manifest=Manifest(
        kind="driver",
        name="virtual",
        version="1",
        summary="Made-up devices that compute with the reference, and fail on command",
        provides=("links", "faults"),
    ),
    factory=_make,
)
