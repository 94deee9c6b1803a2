"""Documents: wishes of every kind in one form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from thaloom.base.actions import TERMS
from thaloom.base.errors import DocumentNotFound
from thaloom.init.acting.documents import Apply, ApplyWish
from thaloom.init.acting.kinds import call
from thaloom.init.documents.shown import listed, shown
from thaloom.init.syscalls.asking import Asking
from thaloom.kernel.state.journal import new_action_id
from thaloom.kernel.state.types import Applied, Document, DocumentStatus, Page


class DocumentCalls(Asking):
    """Of documents."""

    async def apply(
        self, documents: Sequence[Document], *, remove: Sequence[str], prune: dict[str, str] | None
    ) -> Applied:
        """All of it, or nothing. What changes nothing is not written down, unless it is asked for by id or plan."""
        formed = [await self._node.documents.read(document, number) for number, document in enumerate(documents)]
        for subject in remove:
            kind, name = self._node.documents.of_subject(subject)
            if kind.get(name) is None:
                raise DocumentNotFound(f"no {subject}", param="remove")
        asked = call(Apply.name, ApplyWish(documents=tuple(formed), remove=tuple(remove), prune=prune))
        terms = TERMS.get()
        is_bare = not (terms.dry_run or terms.action or terms.approval)
        if is_bare and not (await self._node.performer.plan(asked)).changes:
            return Applied(action=None, unchanged=tuple(document.subject for document in formed))
        action = terms.action or new_action_id()
        told = (await self._do(asked, action=action)).told
        return Applied(action=action, **{word: tuple(subjects) for word, subjects in told.items()})

    async def documents(
        self, kind: str | None, labels: Mapping[str, str], *, limit: int | None, after: str | None
    ) -> Page[DocumentStatus]:
        return listed(self._node.documents, kind, labels, limit=limit, after=after)

    async def document(self, kind: str, name: str) -> DocumentStatus:
        found = shown(self._node.documents.of(kind), name)
        if found is None:
            raise DocumentNotFound(f"no {kind.lower()}/{name}")
        return found
