"""Health as it is seen from outside, through every change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from thaloom.base.errors import DeviceLost
from thaloom.base.events import Recorder
from thaloom.base.plugins import Manifest, Plugin, Registry
from thaloom.hal.driver import Driver, FaultKind
from thaloom.hal.inventory import DeviceAppeared, DeviceVanished, Inventory
from thaloom.hal.testing.suite import Nonconforming, Subject, check, expect


@contextmanager
def fault(subject: Subject, kind: FaultKind) -> Iterator[None]:
    """The device has this fault within the block, and none after it."""
    subject.faults().inject(subject.device_id, kind)
    try:
        yield
    finally:
        subject.faults().clear(subject.device_id)


def inventory_of(subject: Subject, recorder: Recorder) -> Inventory:
    """An inventory that knows only the driver under test."""
    registry: Registry[Driver] = Registry("driver")
    manifest = Manifest(kind="driver", name=subject.driver.name, version="0", summary="under test")
    registry.add(Plugin(manifest=manifest, factory=lambda: subject.driver))
    return Inventory(registry, recorder)


@check("health.not_lost")
def not_lost(subject: Subject) -> None:
    expect(subject.driver.read(subject.device_id).health != "lost", "the device is lost: nothing can be checked")


@check("health.degraded_shows_and_heals", "faults")
def degraded_shows_and_heals(subject: Subject) -> None:
    with fault(subject, "degraded"):
        expect(subject.driver.read(subject.device_id).health == "degraded", "does not show that it is degraded")
    expect(subject.driver.read(subject.device_id).health == "healthy", "does not heal")


@check("health.lost_shows_and_heals", "faults")
def lost_shows_and_heals(subject: Subject) -> None:
    with fault(subject, "lost"):
        expect(subject.driver.read(subject.device_id).health == "lost", "does not show that it is lost")
    expect(subject.driver.read(subject.device_id).health == "healthy", "does not come back")


@check("health.lost_cannot_be_opened", "faults")
def lost_cannot_be_opened(subject: Subject) -> None:
    with fault(subject, "lost"):
        try:
            subject.open()
        except DeviceLost:
            return
    raise Nonconforming("a lost device can be opened")


@check("health.unplugging_is_an_event", "faults")
def unplugging_is_an_event(subject: Subject) -> None:
    recorder = Recorder()
    inventory = inventory_of(subject, recorder)
    inventory.refresh()
    with fault(subject, "unplugged"):
        report = inventory.refresh()
        expect(subject.device_id in report.vanished, "an unplugged device is still found")
        expect(bool(recorder.of(DeviceVanished)), "nobody is told of a device that vanished")
    report = inventory.refresh()
    expect(subject.device_id in report.appeared, "a device that is back is not found")
    expect(len(recorder.of(DeviceAppeared)) >= 2, "nobody is told of a device that is back")
