"""Whether the door lives, whether it can serve, and what it is."""

from __future__ import annotations

from thaloom import __version__
from thaloom.edge.wire.health import DoorVersion, Health, Readiness, ServiceReadiness
from thaloom.work.runtime.types import Generation


def health() -> Health:
    return Health(status="alive")


def readiness(generation: Generation) -> Readiness:
    """Raises NodeNotRunning while no routes can be read."""
    services = [ServiceReadiness(name=model.name, ready=model.ready) for model in generation.models()]
    return Readiness(status="ready", services=services)


def version() -> DoorVersion:
    return DoorVersion(name="thaloom", version=__version__)
