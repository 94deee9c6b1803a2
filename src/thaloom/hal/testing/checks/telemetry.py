"""Readings: of this device, possible, cheap, and None where nothing is known."""

from __future__ import annotations

from typing import get_args

from thaloom.hal.inventory import implausible
from thaloom.hal.testing.suite import Subject, check, expect, fastest
from thaloom.hal.types import Health

LONGEST_S = 0.01
"""At one reading a second that is 1 % of a core."""


@check("telemetry.is_of_the_device")
def is_of_the_device(subject: Subject) -> None:
    reading = subject.driver.read(subject.device_id)
    expect(reading.device == subject.device_id, f"a reading of {reading.device!r}")
    expect(reading.health in get_args(Health), f"health {reading.health!r}")


@check("telemetry.is_plausible")
def is_plausible(subject: Subject) -> None:
    for _ in range(5):
        reading = subject.driver.read(subject.device_id)
        doubtful = implausible(subject.device(), reading)
        expect(not doubtful, f"impossible {', '.join(doubtful)}: {reading}")


@check("telemetry.memory_adds_up")
def memory_adds_up(subject: Subject) -> None:
    reading = subject.driver.read(subject.device_id)
    if reading.memory_used_bytes is not None and reading.memory_free_bytes is not None:
        total = reading.memory_used_bytes + reading.memory_free_bytes
        expect(total <= subject.device().memory_bytes, f"used and free add up to {total} bytes, more than there is")


@check("telemetry.absent_is_none")
def absent_is_none(subject: Subject) -> None:
    """A chip that draws no power at 0 degrees is a chip that was not asked."""
    reading = subject.driver.read(subject.device_id)
    for metric in ("power_mw", "temperature_c"):
        expect(getattr(reading, metric) != 0, f"{metric} is 0; what is not known is None")


@check("telemetry.errors_never_fall")
def errors_never_fall(subject: Subject) -> None:
    counts = [subject.driver.read(subject.device_id).errors for _ in range(10)]
    known = [count for count in counts if count is not None]
    expect(known == sorted(known), f"a counter of errors falls: {known}")


@check("telemetry.is_cheap")
def is_cheap(subject: Subject) -> None:
    """The best of up to twenty, so that a busy machine is not the driver's fault."""
    best_s = fastest(lambda: subject.driver.read(subject.device_id), LONGEST_S)
    expect(best_s < LONGEST_S, f"takes {best_s * 1000:.1f} ms; {LONGEST_S * 1000:.0f} ms are allowed")
