"""The part of a canned control plane that is about documents: kept in a dictionary, and one kind only."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TypeVar

from thaloom.base.access import tenant_of
from thaloom.base.actions import TERMS, Call, Change, Plan, Planned
from thaloom.base.errors import BadParameter, DocumentNotFound, RevisionConflict
from thaloom.kernel.state.types import Applied, Condition, Document, DocumentStatus, Page

T = TypeVar("T")
KIND = "Federation"


def of_tenant(items: Mapping[str, T], tenant: str | None) -> dict[str, T]:
    return {name: item for name, item in items.items() if tenant is None or tenant_of(name) == tenant}


def page_of(items: Mapping[str, T], limit: int | None, after: str | None) -> Page[T]:
    """By name."""
    names = sorted(name for name in items if after is None or name > after)
    page = names[:limit]
    more = page[-1] if page and len(page) < len(names) else None
    return Page(items=tuple(items[name] for name in page), total=len(items), next=more)


class FakeDocuments:
    """Implements what ControlPlane has for documents. `ready`: what each says of its condition."""

    def __init__(self) -> None:
        super().__init__()
        self.documents_now: dict[str, Document] = {}
        self.ready = True

    async def apply(
        self, documents: Sequence[Document], *, remove: Sequence[str], prune: dict[str, str] | None
    ) -> Applied:
        for number, document in enumerate(documents):
            details = {"document": number, "subject": document.subject}
            if document.kind != KIND:
                raise BadParameter(f"no kind of document {document.kind!r}", param="kind", **details)
            if document.version not in (None, "v1"):
                raise RevisionConflict("has version v1", param="metadata.version", **details)
        put = {document.subject: dataclasses.replace(document, version="v1") for document in documents}
        gone = {*remove} | {
            subject
            for subject, kept in self.documents_now.items()
            if prune and subject not in put and prune.items() <= kept.labels.items()
        }
        if missing := gone - self.documents_now.keys():
            raise DocumentNotFound(f"no {missing}", param="remove")
        changed = {
            subject: document for subject, document in put.items() if self.documents_now.get(subject) != document
        }
        if TERMS.get().dry_run:
            changes = [Change(subject=subject, before=None, after=one.spec) for subject, one in changed.items()]
            changes += [Change(subject=subject, before={}, after=None) for subject in sorted(gone)]
            raise Planned(Plan(call=Call("documents.apply", {}), risk="low", changes=tuple(changes)))
        for subject in gone:
            del self.documents_now[subject]
        self.documents_now |= put
        unchanged = tuple(subject for subject in put if subject not in changed)
        return Applied(action="a-1", created=tuple(changed), removed=tuple(sorted(gone)), unchanged=unchanged)

    async def documents(
        self, kind: str | None, labels: Mapping[str, str], *, limit: int | None, after: str | None
    ) -> Page[DocumentStatus]:
        if kind not in (None, KIND, KIND.lower()):
            raise BadParameter(f"no kind of document {kind!r}", param="kind")
        found = [one for one in self.documents_now.values() if labels.items() <= one.labels.items()]
        begin = 0 if after is None else [one.subject for one in found].index(after) + 1
        page = found[begin:][:limit]
        more = begin + len(page) < len(found)
        items = tuple(self._status(one) for one in page)
        return Page(items=items, total=len(found), next=page[-1].subject if more else None)

    async def document(self, kind: str, name: str) -> DocumentStatus:
        found = self.documents_now.get(f"{kind.lower()}/{name}")
        if found is None:
            raise DocumentNotFound(f"no {kind}/{name}")
        return self._status(found)

    def _status(self, document: Document) -> DocumentStatus:
        ready = Condition(kind="Ready", status=self.ready, reason="NoController", message="nobody runs it", since=1.0)
        return DocumentStatus(document=document, created_at=1.0, conditions=(ready,))
