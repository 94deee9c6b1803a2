"""From the words of the rooms to the words of the wire."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from thaloom.base.errors import ThaloomError
from thaloom.base.ids import ServiceName
from thaloom.edge.wire import control as wire
from thaloom.hal.types import Device, Reading, WeightFormat
from thaloom.kernel.models.types import (
    Manifest,
    ModelName,
    Verification,
)
from thaloom.kernel.state.types import (
    OUTSIDE,
    NodeStatus,
    PastEvent,
    ServiceSpec,
    ServiceStatus,
)

A = TypeVar("A", bound=wire.Answer)


def quantised_name(model: ModelName, to: WeightFormat) -> str:
    """Where nobody says how it shall be called."""
    return f"{model.name}-{to}" if model.tag == "latest" else f"{model.name}-{to}:{model.tag}"


def service_spec(name: str, body: wire.ServeRequest) -> ServiceSpec:
    fields = body.model_dump()
    if body.engine not in OUTSIDE:
        fields["model"] = str(ModelName.parse(body.model))
    return ServiceSpec(name=ServiceName(name), **fields)


def service_message(status: ServiceStatus) -> wire.Service:
    return same(wire.Service, status, name=status.spec.name)


def node_message(status: NodeStatus) -> wire.NodeStatus:
    return same(wire.NodeStatus, status, services=[service_message(service) for service in status.services])


def device_message(device: Device, reading: Reading | None) -> wire.Device:
    return same(
        wire.Device,
        device,
        dtypes=sorted(device.dtypes),
        reading=None if reading is None else same(wire.Reading, reading),
    )


def model_message(manifest: Manifest) -> wire.Model:
    return same(wire.Model, manifest, name=str(manifest.name), total_bytes=manifest.total_bytes)


def verification_message(verification: Verification) -> wire.Verification:
    return same(wire.Verification, verification, name=str(verification.name), sound=verification.sound)


def event_message(past: PastEvent) -> wire.Event:
    event = past.event
    return wire.Event(time=past.time, level=event.level, name=event.name, fields=event.fields())


def error_body(error: ThaloomError) -> wire.ErrorBody:
    return wire.ErrorBody(**error.to_dict(), help_page=error.help_page)


def same(kind: type[A], fact: Any, **changed: Any) -> A:
    """The message with the fields of the dataclass `fact`; those that differ are given."""
    return kind.model_validate(dataclasses.asdict(fact) | changed)
