"""What is said of a device: complete, in units, and true as far as can be seen."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import get_args

from thaloom.base.errors import DeviceNotFound
from thaloom.base.ids import DeviceId
from thaloom.hal.driver import ReportsLinks
from thaloom.hal.testing.suite import Nonconforming, Subject, check, expect
from thaloom.hal.types import DTYPE_BYTES, DeviceKind, Isolation

NOBODY = DeviceId("no-such-device:7411")


@check("inventory.names_its_driver")
def names_its_driver(subject: Subject) -> None:
    expect(subject.device().driver == subject.driver.name, f"device of driver {subject.device().driver!r}")


@check("inventory.id_can_be_written_down")
def id_can_be_written_down(subject: Subject) -> None:
    id = subject.device().id
    expect(id.isascii() and id.isprintable() and " " not in id and len(id) <= 128, f"id {id!r} cannot be typed")


@check("inventory.has_memory_and_cores")
def has_memory_and_cores(subject: Subject) -> None:
    device = subject.device()
    expect(device.memory_bytes >= 1 << 20, f"{device.memory_bytes} bytes of memory: is that the right unit?")
    expect(device.memory_bytes < 1 << 50, f"{device.memory_bytes} bytes of memory: is that the right unit?")
    expect(device.num_cores >= 1, "no cores")


@check("inventory.kind_and_isolation_are_known")
def kind_and_isolation_are_known(subject: Subject) -> None:
    device = subject.device()
    expect(device.kind in get_args(DeviceKind), f"kind {device.kind!r}")
    expect(device.isolation in get_args(Isolation), f"isolation {device.isolation!r}")


@check("inventory.has_a_name")
def has_a_name(subject: Subject) -> None:
    device = subject.device()
    expect(bool(device.name.strip()) and bool(device.vendor.strip()), f"name {device.name!r}, vendor {device.vendor!r}")


@check("inventory.dtypes_are_known")
def dtypes_are_known(subject: Subject) -> None:
    dtypes = subject.device().dtypes
    expect(bool(dtypes) and dtypes <= set(DTYPE_BYTES), f"dtypes {sorted(dtypes)}")


@check("inventory.features_are_sorted")
def features_are_sorted(subject: Subject) -> None:
    features = subject.device().features
    expect(list(features) == sorted(set(features)), "features are not sorted, or repeat")


@check("inventory.caches_make_sense")
def caches_make_sense(subject: Subject) -> None:
    for cache in subject.device().caches:
        expect(cache.size_bytes > 0 and cache.level >= 1 and cache.shared_by >= 1, f"impossible: {cache}")


@check("inventory.facts_are_frozen")
def facts_are_frozen(subject: Subject) -> None:
    try:
        subject.device().name = "other"  # type: ignore[misc]  # the point of the check
    except FrozenInstanceError:
        return
    raise Nonconforming("whoever receives a device can change it")


@check("inventory.unknown_device_is_refused")
def unknown_device_is_refused(subject: Subject) -> None:
    for what in ("read", "open"):
        try:
            if what == "read":
                subject.driver.read(NOBODY)
            else:
                subject.driver.open(NOBODY, num_threads=1)
        except DeviceNotFound:
            continue
        raise Nonconforming(f"{what} of a device that is not there gives no DeviceNotFound")


@check("inventory.links_have_ends", "links")
def links_have_ends(subject: Subject) -> None:
    assert isinstance(subject.driver, ReportsLinks)
    ids = {str(device.id) for device in subject.driver.probe()}
    for link in subject.driver.links():
        for end in (link.a, link.b):
            expect(end.partition("/")[0] in ids, f"a link ends at {end!r}, which is no device")
        for value in (link.bandwidth_bytes_per_s, link.latency_s, link.distance):
            expect(value is None or value > 0, f"impossible: {link}")
