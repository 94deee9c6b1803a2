"""What a door says of itself: `/healthz`, `/readyz`, `/version`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Answer(BaseModel):
    """Base of what a door answers."""

    model_config = ConfigDict(extra="ignore", frozen=True)


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
