"""That something does not fit, in words and in figures: what it needs, what is free, and what would make it fit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from thaloom.base.access import tenant_of
from thaloom.base.ids import DeviceId, ServiceName
from thaloom.base.units import format_bytes, format_duration
from thaloom.kernel.sched.idling import Loaded, would_make_room


def needs(service: ServiceName, device: DeviceId, needed_bytes: int, free_bytes: int, loaded: Iterable[Loaded]) -> str:
    """What is said after the service's name. `loaded`: all that have workers."""
    short = f"needs about {format_bytes(needed_bytes)} on {device}, {format_bytes(max(0, free_bytes))} can be given"
    found = would_make_room(needed_bytes, free_bytes, _in_sight(service, device, loaded))
    return short if not found else f"{short}; would fit if {' and '.join(map(_unloaded, found))}"


def counterfactual(
    service: ServiceName, device: DeviceId, needed_bytes: int, free_bytes: int, loaded: Iterable[Loaded]
) -> list[dict[str, Any]] | None:
    """The same as fields of an error: who would have to go. None: it would not fit even then."""
    found = would_make_room(needed_bytes, free_bytes, _in_sight(service, device, loaded))
    if found is None:
        return None
    return [
        {
            "service": one.service,
            "bytes": one.num_bytes,
            "idle_s": None if one.idle_s is None else round(one.idle_s, 3),
            "pinned": one.pinned,
        }
        for one in found
    ]


def _in_sight(service: ServiceName, device: DeviceId, loaded: Iterable[Loaded]) -> list[Loaded]:
    """A tenant hears of no other's services."""
    tenant = tenant_of(service)
    others = (one for one in loaded if one.device == device and one.service != service)
    return [one for one in others if tenant is None or tenant_of(one.service) == tenant]


def _unloaded(one: Loaded) -> str:
    if one.idle_s is None:
        return f"{one.service!r} were unloaded, which is in use"
    pinned = ", and is kept loaded" if one.pinned else ""
    return f"{one.service!r} were unloaded, idle for {format_duration(one.idle_s)}{pinned}"
