"""What kinds have in common whose documents lie in the table of documents."""

from __future__ import annotations

import re
from collections.abc import Iterator

from thaloom.base.errors import BadParameter
from thaloom.kernel.state.store import StateStore
from thaloom.kernel.state.types import Document

_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")


class Kept:
    """Documents of one kind. Each reads what is in the database at this moment."""

    no_undo = ""

    def __init__(self, store: StateStore, kind: str) -> None:
        self.store = store
        self.name = kind

    def get(self, name: str) -> Document | None:
        kept = self.store.documents.get(self.name, name)
        return None if kept is None else kept.document

    def list(self) -> Iterator[Document]:
        for kept in self.store.documents.list(self.name):
            yield kept.document

    def put(self, document: Document) -> None:
        self.store.documents.put(document)

    def remove(self, name: str) -> None:
        self.store.documents.delete(self.name, name)


def require_name(name: str) -> None:
    """Raises BadParameter for what can be no folder, and no name elsewhere in the field (RFC 1123)."""
    if not _NAME.fullmatch(name) or ".." in name:
        raise BadParameter(
            f"not a name: {name!r} (up to 63 of a-z, 0-9, '.', '_', '-'; letters or digits at both ends)",
            param="metadata.name",
        )
