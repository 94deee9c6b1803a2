"""Routes about documents: what is wished for, in one form for every kind of thing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query

from thaloom.base.errors import BadParameter
from thaloom.edge.api.control.messages import same
from thaloom.edge.api.control.plane import ControlPlane
from thaloom.edge.api.control.terms import only_by_the_socket
from thaloom.edge.wire import control as wire
from thaloom.kernel.state.types import Document, DocumentStatus


def add_document_routes(app: FastAPI, plane: ControlPlane) -> None:
    """Only through the socket: a job is any program, and what it is told may be nobody else's to read."""
    guards = [Depends(only_by_the_socket)]

    @app.get(f"{wire.PREFIX}/documents", tags=["documents"], dependencies=guards, response_model_exclude_none=True)
    async def documents(
        kind: str | None = None,
        label: Annotated[list[str] | None, Query(description="key=value; all of them")] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 1000,
        after: str | None = None,
    ) -> wire.Documents:
        page = await plane.documents(kind, _labels(label or []), limit=limit, after=after)
        return wire.Documents(
            documents=[document_message(status) for status in page.items], total=page.total, next=page.next
        )

    @app.get(
        f"{wire.PREFIX}/documents/{{kind}}/{{name}}",
        tags=["documents"],
        dependencies=guards,
        response_model_exclude_none=True,
    )
    async def document(kind: str, name: str) -> wire.DocumentStatus:
        return document_message(await plane.document(kind, name))

    @app.post(f"{wire.PREFIX}/documents", tags=["documents"], dependencies=guards)
    async def apply(body: wire.ApplyRequest) -> wire.Applied:
        wished = [
            Document(
                kind=one.kind,
                name=one.metadata.name,
                spec=one.spec,
                labels=one.metadata.labels,
                version=one.metadata.version,
            )
            for one in body.documents
        ]
        return same(wire.Applied, await plane.apply(wished, remove=body.remove, prune=body.prune))


def document_message(status: DocumentStatus) -> wire.DocumentStatus:
    document = status.document
    return wire.DocumentStatus(
        apiVersion=wire.API_VERSION,
        kind=document.kind,
        metadata=wire.KeptMetadata(
            name=document.name,
            labels=document.labels,
            version=document.version or "",
            created_at=status.created_at,
        ),
        spec=document.spec,
        status={"conditions": [_condition(one) for one in status.conditions]} | status.facts,
    )


def _condition(condition: Any) -> Mapping[str, Any]:
    return {
        "type": condition.kind,
        "status": condition.status,
        "reason": condition.reason,
        "message": condition.message,
        "since": condition.since,
    }


def _labels(words: list[str]) -> dict[str, str]:
    labels = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise BadParameter(f"not a label: {word!r} (as app=chat)", param="label")
        labels[key] = value
    return labels
