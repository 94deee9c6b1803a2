"""What a door says of itself: `/healthz`, `/readyz`, `/version`."""

from __future__ import annotations

from thaloom.edge.wire.common import Answer


class Health(Answer):
    status: str


class ServiceReadiness(Answer):
    name: str
    ready: bool


class Readiness(Answer):
    """Ready: the door knows what is served and where. A node that serves nothing yet is ready for its first model;
    a service that is still loading answers for itself (503), and is listed here."""

    status: str
    services: list[ServiceReadiness]


class DoorVersion(Answer):
    name: str
    version: str
