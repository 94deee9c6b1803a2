"""What the driver says of itself before it does anything."""

from __future__ import annotations

import dataclasses
from typing import get_args

from thaloom.base.plugins import Manifest, Plugin, Registry
from thaloom.hal.driver import ABI, Driver
from thaloom.hal.inventory import Inventory
from thaloom.hal.ops import OPERATORS
from thaloom.hal.testing.suite import Subject, check, expect
from thaloom.hal.types import DTYPE_BYTES, Level, WeightFormat

DENSE = frozenset({"embedding", "rmsnorm", "linear", "rope", "paged_attention", "gated", "add", "logits"})
"""What the plainest of models needs; a driver without them can serve nothing."""


@check("manifest.abi_matches")
def abi_matches(subject: Subject) -> None:
    expect(subject.driver.abi == ABI, f"made for driver contract {subject.driver.abi}, this is {ABI}")


@check("manifest.kind_and_name", "manifest")
def kind_and_name(subject: Subject) -> None:
    manifest = subject.manifest
    assert manifest is not None
    expect(manifest.kind == "driver", f"the plugin is a {manifest.kind}, not a driver")
    expect(manifest.name == subject.driver.name, f"plugin {manifest.name!r} holds driver {subject.driver.name!r}")


@check("manifest.says_licence_and_purpose", "manifest")
def says_licence_and_purpose(subject: Subject) -> None:
    manifest = subject.manifest
    assert manifest is not None
    for field in ("license", "summary", "version"):
        expect(bool(getattr(manifest, field).strip()), f"{field} is empty")


@check("manifest.foreign_abi_is_refused")
def foreign_abi_is_refused(subject: Subject) -> None:
    """Our own inventory must turn away a driver like this one, made for another contract."""

    class Foreign:
        abi = ABI + 1
        name = subject.driver.name
        probe, read, open = subject.driver.probe, subject.driver.read, subject.driver.open

    registry: Registry[Driver] = Registry("driver")
    manifest = Manifest(kind="driver", name=Foreign.name, version="0", summary="for another contract")
    registry.add(Plugin(manifest=manifest, factory=Foreign))
    report = Inventory(registry).refresh()
    expect(not report.devices and len(report.absent) == 1, "a driver for another contract was let in")


@check("manifest.operators_are_known")
def operators_are_known(subject: Subject) -> None:
    for operator, level in subject.support().levels.items():
        expect(operator in OPERATORS, f"claims operator {operator!r}, which is not in the contract")
        expect(level in get_args(Level), f"claims {operator!r} at level {level!r}")


@check("manifest.can_run_a_dense_model")
def can_run_a_dense_model(subject: Subject) -> None:
    missing = sorted(DENSE - set(subject.support().levels))
    expect(not missing, f"lacks {', '.join(missing)}")


@check("manifest.dtypes_are_known")
def dtypes_are_known(subject: Subject) -> None:
    support = subject.support()
    for dtypes in (support.weight_dtypes, support.kv_dtypes):
        expect(bool(dtypes), "claims no dtype at all")
        expect(dtypes <= set(DTYPE_BYTES), f"claims dtypes {sorted(dtypes)}")
    formats = support.weight_formats
    expect("stored" in formats, "cannot keep weights as they come")
    expect(formats <= set(get_args(WeightFormat)), f"claims weight formats {sorted(formats)}")


@check("manifest.support_is_stable")
def support_is_stable(subject: Subject) -> None:
    first, second = subject.open().support, subject.open().support
    expect(dataclasses.asdict(first) == dataclasses.asdict(second), "says something else each time it is opened")


@check("manifest.degraded_has_a_reason")
def degraded_has_a_reason(subject: Subject) -> None:
    degraded = subject.open().degraded
    expect(degraded is None or len(degraded.strip()) > 8, f"degraded, because {degraded!r}")
