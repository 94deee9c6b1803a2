"""Responses that can be asked for again and built upon."""

from __future__ import annotations

import json
import sqlite3

from thaloom.base.errors import NotKept
from thaloom.kernel.state.kept.ledger import DAY_S, KeptLedger, num_rows
from thaloom.kernel.state.types import KeptResponse

MAX_CHAIN = 10_000
"""Responses that build upon each other; more than any context holds."""


class KeptResponses:
    """Safe from several threads and processes. Every method that changes something returns when it is on the disk."""

    def __init__(self, ledger: KeptLedger) -> None:
        self._ledger = ledger

    def put(self, response: KeptResponse) -> None:
        """Keep it, in place of the longest unused ones if there is no room. What it builds upon counts as used now,
        so that a conversation that goes on never loses its beginning. Raises DiskFull, StateUnusable."""
        now = self._ledger.clock.now()
        said, body = _encode(response.input), _encode(response.body)
        num_bytes = len(said) + len(body)
        with self._ledger.database.write() as connection:
            for row in _chain(connection, response.previous):
                connection.execute("UPDATE responses SET used_at = ? WHERE seq = ?", (now, row["seq"]))
            self._drop(connection, now)
            self._ledger.make_room(connection, num_bytes)
            connection.execute(
                "INSERT INTO responses (id, previous, created_at, used_at, input, body, num_bytes)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (response.id, response.previous, response.created_at, now, said, body, num_bytes),
            )

    def get(self, response_id: str) -> KeptResponse:
        """Raises NotKept."""
        oldest = self._ledger.clock.now() - self._ledger.limits.response_days * DAY_S
        rows = self._ledger.database.read(
            "SELECT * FROM responses WHERE id = ? AND used_at >= ?", (response_id, oldest)
        )
        if not rows:
            raise NotKept(f"no response {response_id!r} is kept here", param="response_id")
        return _read(rows[0])

    def chain(self, response_id: str) -> list[KeptResponse]:
        """The response and all it builds upon, oldest first. Raises NotKept if any of them is gone."""
        found: list[KeptResponse] = []
        wanted: str | None = response_id
        while wanted is not None:
            try:
                found.append(self.get(wanted))
            except NotKept as error:
                message = error.message if not found else f"{error.message}, which {response_id!r} builds upon"
                raise NotKept(message, param="previous_response_id") from error
            wanted = found[-1].previous
        return found[::-1]

    def delete(self, response_id: str) -> None:
        """Raises NotKept."""
        with self._ledger.database.write() as connection:
            if connection.execute("DELETE FROM responses WHERE id = ?", (response_id,)).rowcount == 0:
                raise NotKept(f"no response {response_id!r} is kept here", param="response_id")

    def sweep(self) -> None:
        """Drop what was not used for too long."""
        with self._ledger.database.write() as connection:
            self._drop(connection, self._ledger.clock.now(), making_room=False)

    def _drop(self, connection: sqlite3.Connection, now: float, *, making_room: bool = True) -> None:
        limits = self._ledger.limits
        connection.execute("DELETE FROM responses WHERE used_at < ?", (now - limits.response_days * DAY_S,))
        excess = num_rows(connection, "responses") - limits.max_responses + making_room
        if excess > 0:
            connection.execute(
                "DELETE FROM responses WHERE seq IN (SELECT seq FROM responses ORDER BY used_at, seq LIMIT ?)",
                (excess,),
            )


def _chain(connection: sqlite3.Connection, response_id: str | None) -> list[sqlite3.Row]:
    found: list[sqlite3.Row] = []
    while response_id is not None and len(found) < MAX_CHAIN:
        row = connection.execute("SELECT seq, previous FROM responses WHERE id = ?", (response_id,)).fetchone()
        if row is None:
            break
        found.append(row)
        response_id = row["previous"]
    return found


def _read(row: sqlite3.Row) -> KeptResponse:
    return KeptResponse(
        id=row["id"],
        previous=row["previous"],
        created_at=row["created_at"],
        input=json.loads(row["input"]),
        body=json.loads(row["body"]),
    )


def _encode(value: object) -> str:
    """In ASCII: what a model writes may hold half characters, and SQLite takes none."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)
