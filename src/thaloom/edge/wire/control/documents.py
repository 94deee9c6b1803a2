"""Documents: what is wished, and what came of it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from thaloom.edge.wire.control.base import Answer, Ask

API_VERSION = "thaloom/v1"
"""Of documents."""


class Metadata(Ask):
    name: str = Field(min_length=1, max_length=128)
    labels: dict[str, str] = Field(default_factory=dict)
    version: str | None = None
    """Of the document this one was made from: where it has another by now, nothing is done. Null: whatever is there."""
    created_at: float | None = None
    """As it was told; not asked for."""


class Document(Ask):
    """The whole of what is wished for one thing."""

    apiVersion: Literal["thaloom/v1"]
    kind: str = Field(min_length=1, max_length=64)
    metadata: Metadata
    spec: dict[str, Any] = Field(default_factory=dict)
    status: dict[str, Any] | None = None
    """As it was told; not asked for."""


class ApplyRequest(Ask):
    """All of it is done, or nothing."""

    documents: list[Document] = Field(default_factory=list, max_length=1000)
    remove: list[str] = Field(default_factory=list, max_length=1000)
    """As `service/chat`."""
    prune: dict[str, str] | None = None
    """Labels, at least one: whatever bears them all and is not among the documents is removed as well."""


class KeptMetadata(Answer):
    name: str
    labels: dict[str, str]
    version: str
    """What it is known by: the same as long as the document says the same."""
    created_at: float


class DocumentStatus(Answer):
    """A document as it is kept. `status` has `conditions` (type, status, reason, message, since) and what else the kind
    has to tell."""

    apiVersion: str
    kind: str
    metadata: KeptMetadata
    spec: dict[str, Any]
    status: dict[str, Any]

    def condition(self, kind: str) -> dict[str, Any] | None:
        return next((one for one in self.status["conditions"] if one["type"].lower() == kind.lower()), None)


class Documents(Answer):
    documents: list[DocumentStatus]
    total: int
    next: str | None = None
    """`after` of the next page; null: this is the last."""


class Applied(Answer):
    """Subjects, as `service/chat`. `action`: null where there was nothing to do."""

    action: str | None
    created: list[str]
    changed: list[str]
    removed: list[str]
    unchanged: list[str]
