"""What a kind of document has to say of itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from thaloom.base.actions import Risk
from thaloom.base.errors import BadParameter, ThaloomError
from thaloom.kernel.state.types import Document, DocumentStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """Of one kind, what is to become of its documents."""

    put: tuple[Document, ...] = ()
    """New ones, and those in the place of others."""
    removed: tuple[str, ...] = ()
    """By name."""
    coming: frozenset[str] = field(default_factory=frozenset)
    """Subjects of all kinds that are asked for at the same time."""
    gone: frozenset[str] = field(default_factory=frozenset)
    """Subjects of all kinds that go at the same time."""


class DocumentKind(Protocol):
    """One kind of document: `name` as it is written in `kind`. Methods may raise a leaf of ThaloomError.

    Whatever forbids a change is raised by `read` and `check`, which change nothing. Then come, for all kinds:
    `prepare`; `put` and `remove` of all documents in one transaction, which must not refuse; `changed`. A kill may
    come between any two.
    """

    @property
    def name(self) -> str: ...

    @property
    def no_undo(self) -> str:
        """Why changing or removing one cannot be undone; empty: it can."""
        ...

    async def read(self, document: Document) -> Document:
        """The document in its one form. Raises BadParameter that names what is wrong as the document has it."""
        ...

    def get(self, name: str) -> Document | None:
        """As it is wished now, in its one form."""
        ...

    def list(self) -> Iterable[Document]:
        """All, by name."""
        ...

    async def check(self, changed: Changed) -> None:
        """Whether all of it can be done as things are. What it raises says whose fault it is: details["subject"]."""
        ...

    def risk(self, *, removed: bool) -> Risk: ...
    def touches(self, name: str) -> Sequence[str]:
        """What is disturbed where it is changed or removed."""
        ...

    def prepare(self, changed: Changed) -> None:
        """Make on the machine what has to be there when the documents are. What is left of it where they never come to
        be does no harm, and goes at the next start."""
        ...

    def put(self, document: Document) -> None: ...
    def remove(self, name: str) -> None: ...

    def changed(self, changed: Changed) -> None:
        """It is on the disk: tell whom it concerns."""
        ...

    def shown(self, name: str) -> bool:
        """Whether what `prepare` made for it is there."""
        ...

    def status(self, name: str) -> DocumentStatus | None: ...


class DocumentKinds:
    """All of them, by name."""

    def __init__(self, kinds: Iterable[DocumentKind]) -> None:
        self._kinds = {kind.name: kind for kind in kinds}

    def __iter__(self) -> Iterator[DocumentKind]:
        return iter(self._kinds.values())

    def of(self, name: str) -> DocumentKind:
        """By name, in whatever case. Raises BadParameter."""
        found = self._kinds.get(name) or next((kind for kind in self if kind.name.lower() == name.lower()), None)
        if found is None:
            raise BadParameter(f"no kind of document {name!r} (known: {', '.join(self._kinds)})", param="kind")
        return found

    def of_subject(self, subject: str) -> tuple[DocumentKind, str]:
        """Of `service/chat`: the kind, and the name. Raises BadParameter."""
        kind, slash, name = subject.partition("/")
        if not slash or not name:
            raise BadParameter(f"not a document: {subject!r} (as service/chat)", param="remove")
        return self.of(kind), name

    async def read(self, document: Document, number: int) -> Document:
        """The document in its one form. What it raises says of which of many it speaks."""
        try:
            formed = await self.of(document.kind).read(document)
        except ThaloomError as error:
            error.details = {"document": number, "subject": document.subject} | error.details
            raise
        return dataclasses.replace(formed, version=document.version)
