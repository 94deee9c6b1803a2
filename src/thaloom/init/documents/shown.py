"""Documents as people ask for them: some kinds, some labels, a page at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from thaloom.base.errors import BadParameter
from thaloom.init.documents.forms import version
from thaloom.init.documents.kinds import DocumentKind, DocumentKinds
from thaloom.kernel.state.labels import matches
from thaloom.kernel.state.types import DocumentStatus, Page


def shown(kind: DocumentKind, name: str) -> DocumentStatus | None:
    """With its version; None: it is not wished."""
    status = kind.status(name)
    if status is None:
        return None
    return dataclasses.replace(status, document=dataclasses.replace(status.document, version=version(status.document)))


def listed(
    kinds: DocumentKinds, kind: str | None, labels: Mapping[str, str], *, limit: int | None, after: str | None
) -> Page[DocumentStatus]:
    """By kind, then by name, from the one after `after` (as `service/chat`). Conditions are looked up for those that
    are on the page, not for the others."""
    wanted = list(kinds) if kind is None else [kinds.of(kind)]
    found = [
        (one, document.name, document.subject)
        for one in wanted
        for document in one.list()
        if matches(document.labels, labels)
    ]
    begin = 0
    if after is not None:
        begin = next((number + 1 for number, (_, _, subject) in enumerate(found) if subject == after), -1)
        if begin < 0:
            raise BadParameter(f"{after!r} is not among them (any more): begin anew", param="after")
    end = len(found) if limit is None else min(len(found), begin + limit)
    statuses = [shown(one, name) for one, name, _ in found[begin:end]]
    return Page(
        items=tuple(status for status in statuses if status is not None),
        total=len(found),
        next=found[end - 1][2] if begin < end < len(found) else None,
    )
