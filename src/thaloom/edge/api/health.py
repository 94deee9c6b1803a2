"""Whether the door lives, whether it can serve, and what it is."""

from __future__ import annotations

from pydantic import BaseModel

from thaloom import __version__
from thaloom.work.runtime.types import Generation


class Health(BaseModel):
    status: str


class ServiceReadiness(BaseModel):
    name: str
    ready: bool


class Readiness(BaseModel):
    """Ready: the door knows what is served and where. A node that serves nothing yet is ready for its first model;
    a service that is still loading answers for itself (503), and is listed here."""

    status: str
    services: list[ServiceReadiness]


class DoorVersion(BaseModel):
    name: str
    version: str


def health() -> Health:
    return Health(status="alive")


def readiness(generation: Generation) -> Readiness:
    """Raises NodeNotRunning while no routes can be read."""
    services = [ServiceReadiness(name=model.name, ready=model.ready) for model in generation.models()]
    return Readiness(status="ready", services=services)


def version() -> DoorVersion:
    return DoorVersion(name="thaloom", version=__version__)
