"""Documents of the kinds that nobody else keeps. Services and jobs lie in tables of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thaloom.base.clock import Clock
from thaloom.kernel.state.rows import decode, encode
from thaloom.kernel.state.types import Document, KeptDocument

if TYPE_CHECKING:
    import sqlite3

    from thaloom.kernel.state.database import Database


class Documents:
    """A table of the node's database. Every method that changes something returns when it is on the disk, or when the
    transaction around it is."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def list(self, kind: str) -> list[KeptDocument]:
        """All of a kind, by name."""
        query = "SELECT * FROM documents WHERE kind = ? ORDER BY name"
        return [_read(row) for row in self._database.read(query, (kind,))]

    def get(self, kind: str, name: str) -> KeptDocument | None:
        rows = self._database.read("SELECT * FROM documents WHERE kind = ? AND name = ?", (kind, name))
        return _read(rows[0]) if rows else None

    def put(self, document: Document) -> None:
        """Keep it, in the place of an earlier one of that kind and name; since when there is one does not change."""
        values = (document.kind, document.name, encode(document.labels), encode(document.spec), self._clock.now())
        with self._database.write() as connection:
            connection.execute(
                "INSERT INTO documents (kind, name, labels, spec, created_at) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT (kind, name) DO UPDATE SET labels = excluded.labels, spec = excluded.spec",
                values,
            )

    def delete(self, kind: str, name: str) -> None:
        """That there is none is no error."""
        with self._database.write() as connection:
            connection.execute("DELETE FROM documents WHERE kind = ? AND name = ?", (kind, name))


def _read(row: sqlite3.Row) -> KeptDocument:
    document = Document(kind=row["kind"], name=row["name"], labels=decode(row["labels"]), spec=decode(row["spec"]))
    return KeptDocument(document=document, created_at=row["created_at"])
