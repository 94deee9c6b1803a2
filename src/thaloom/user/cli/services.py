"""Services as a table: what `ps` and `status` both show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from thaloom.user.cli.conditions import words_of
from thaloom.user.cli.output import ABSENT, Colour, Output, age, count, paint, size
from thaloom.user.cli.texts import text

if TYPE_CHECKING:
    from thaloom.edge.wire.control import Service

PHASE_COLOURS: dict[str, Colour] = {"ready": "green", "failed": "red", "loading": "yellow", "stopping": "yellow"}


def show_services(output: Output, services: Sequence[Service]) -> None:
    """The table, and below it every condition that says less than asked for."""
    head = [
        "name",
        "model",
        "state",
        "device",
        "context",
        "weights",
        "kv",
        "resident",
        "running",
        "waiting",
        "latency",
        "idle",
        "age",
        "pid",
    ]
    output.table([text(f"head.{word}") for word in head], [_row(s) for s in services], right=frozenset(range(4, 10)))
    for service in services:
        for line in complaints(service):
            output.line(paint(line, "yellow"))


def complaints(service: Service) -> list[str]:
    """Law 2: whatever is worse than asked for is said, with its reason."""
    told = [
        f"{service.name}: {condition.kind}: {words_of(condition)} ({condition.reason})"
        for condition in service.conditions
        if condition.kind != "Ready" and condition.status
    ]
    ready = service.condition("Ready")
    if service.phase not in ("ready", "idle") and ready is not None and ready.message:
        told.append(f"{service.name}: {words_of(ready)}")
    return told


def _kv(service: Service) -> str:
    """The pool, and what it may overflow into."""
    bounds = {text("tier.host"): service.spec.kv_host_bytes, text("tier.disk"): service.spec.kv_disk_bytes}
    tiers = [f"{size(bound)} {name}" for name, bound in bounds.items() if bound]
    return " + ".join([size(service.kv_bytes), *tiers])


def _row(service: Service) -> list[str]:
    phase = text(f"phase.{service.phase}")
    return [
        service.name,
        service.spec.model,
        paint(phase, PHASE_COLOURS[service.phase]) if service.phase in PHASE_COLOURS else phase,
        service.device or service.spec.device or ABSENT,
        count(service.context_length),
        size(service.weight_bytes) + ("" if service.spec.weights == "stored" else f" {service.spec.weights}"),
        _kv(service),
        size(service.resident_bytes),
        str(service.running),
        str(service.waiting),
        service.latency or ABSENT,
        ABSENT if service.idle_since is None else age(service.idle_since),
        age(service.created_at),
        str(service.pid or ABSENT),
    ]
