"""The kit itself, run on every driver that is here."""

from __future__ import annotations

import pytest

from thaloom.base.ids import DeviceId
from thaloom.base.plugins import Registry
from thaloom.hal.driver import Driver
from thaloom.hal.drivers.virtual import DRIVER
from thaloom.hal.drivers.virtual.driver import VirtualDevice, VirtualDriver
from thaloom.hal.testing import all_checks, run_conformance
from thaloom.hal.types import Link

VIRTUAL = VirtualDriver(
    [
        VirtualDevice(
            id="virtual:0",
            dtypes=("f32", "bf16", "f16", "i8"),
            numa_node=0,
            power_mw=75_000,
            temperature_c=41.5,
        ),
        VirtualDevice(id="virtual:1", level="L1"),
        VirtualDevice(id="virtual:2", dtypes=("f32",), kind="gpu", memory_bytes=1 << 36),
    ],
    links=[Link(a="virtual:0", b="virtual:1", kind="pcie", bandwidth_bytes_per_s=32e9)],
)


def test_there_are_enough_checks_with_stable_ids() -> None:
    ids = [check.id for check in all_checks()]
    assert len(ids) == len(set(ids)) >= 60
    assert {"execute.operator.paged_attention", "exact.rows_independent", "refuse.bad_steps"} <= set(ids)
    assert {id.partition(".")[0] for id in ids} == {
        "concurrency", "draws", "exact", "execute", "faults", "health", "inventory", "manifest", "memory", "probe",
        "refuse", "security", "telemetry",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("device", "unclaimed"),
    [
        pytest.param("virtual:0", {"draws", "elastic"}, marks=pytest.mark.slow),  # twenty seconds each
        ("virtual:1", {"draws", "elastic", "moves", "exact", "kv:bf16", "kv:f16", "kv:i8"}),
        pytest.param(
            "virtual:2",
            {"draws", "elastic", "weights:bf16", "weights:f16", "kv:bf16", "kv:f16", "kv:i8"},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_virtual_driver_conforms(device: str, unclaimed: set[str]) -> None:
    report = run_conformance(VIRTUAL, DeviceId(device), manifest=DRIVER.manifest)
    assert report.passed, report
    skipped = [result for result in report.results if result.status == "not_advertised"]
    assert {result.detail.removeprefix("the driver does not claim ") for result in skipped} == unclaimed


def test_cpu_driver_conforms() -> None:
    """Native or, without a compiler, the reference: both are the CPU driver, and both must pass."""
    registry: Registry[Driver] = Registry("driver")
    registry.discover()
    driver = registry.create("cpu")
    report = run_conformance(driver, DeviceId("cpu"), manifest=registry.manifest("cpu"))
    assert report.passed, report
    skipped = [result for result in report.results if result.status == "not_advertised"]
    unclaimed = {result.detail.removeprefix("the driver does not claim ") for result in skipped}
    is_native = driver.open(DeviceId("cpu"), num_threads=1).degraded is None
    assert unclaimed == ({"faults"} if is_native else {"faults", "draws", "elastic"})
