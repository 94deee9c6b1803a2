"""Responses that can be asked for again and built upon."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Collection, Sequence
from typing import Any

from thaloom.base.errors import BadParameter, DiskFull, NotKept
from thaloom.kernel.state.kept import events as told_events
from thaloom.kernel.state.kept.ledger import DAY_S, KeptLedger, num_rows, owner_lives, owner_now
from thaloom.kernel.state.types import KeptResponse, ResponseJob, ToldEvents

Event = dict[str, Any]

MAX_CHAIN = 10_000
"""Responses that build upon each other; more than any context holds."""


class KeptResponses:
    """Safe from several threads and processes. Every method that changes something returns when it is on the disk.

    `holder`: the name of the key that somebody comes with, None for nobody's. What is kept for one is there for no
    other."""

    def __init__(self, ledger: KeptLedger) -> None:
        self._ledger = ledger

    def put(
        self,
        response: KeptResponse,
        *,
        request: dict[str, Any] | None = None,
        holder: str | None = None,
        events: Sequence[Event] = (),
    ) -> None:
        """Keep it, in place of the longest unused ones if there is no room. What it builds upon counts as used now,
        so that a conversation that goes on never loses its beginning. Raises DiskFull, StateUnusable.

        With `request` it is still to be made, and gives way to none until it is. With `events` it is told as it is
        made, and these are the first ones.
        """
        now = self._ledger.clock.now()
        said, body = _encode(response.input), _encode(response.body)
        job = None if request is None else _encode(request)
        num_bytes = len(said) + len(body) + len(job or "")
        told = told_events.as_text(events)
        with self._ledger.database.write() as connection:
            for row in _chain(connection, response.previous):
                connection.execute("UPDATE responses SET used_at = ? WHERE seq = ?", (now, row["seq"]))
            self._drop(connection, now)
            self._ledger.make_room(connection, num_bytes + len(told))
            connection.execute(
                "INSERT INTO responses (id, previous, holder, created_at, used_at, input, body, num_bytes)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (response.id, response.previous, holder, response.created_at, now, said, body, num_bytes),
            )
            if job is not None:
                connection.execute("INSERT INTO jobs (id, request, owner) VALUES (?, ?, '')", (response.id, job))
            if told:
                told_events.append(connection, response.id, told, after=0)

    def get(self, response_id: str, *, holder: str | None = None) -> KeptResponse:
        """Raises NotKept."""
        return _read(self._row("*", response_id, holder))

    def _row(self, columns: str, response_id: str, holder: str | None) -> sqlite3.Row:
        oldest = self._ledger.clock.now() - self._ledger.limits.response_days * DAY_S
        rows = self._ledger.database.read(
            f"SELECT {columns} FROM responses WHERE id = ? AND holder IS ? AND (used_at >= ? OR NOT {_IS_MADE})",
            (response_id, holder, oldest),
        )
        if not rows:
            raise NotKept(f"no response {response_id!r} is kept here", param="response_id")
        return rows[0]

    def chain(self, response_id: str, *, holder: str | None = None) -> list[KeptResponse]:
        """The response and all it builds upon, oldest first. Raises NotKept if any of them is gone."""
        found: list[KeptResponse] = []
        wanted: str | None = response_id
        while wanted is not None:
            try:
                found.append(self.get(wanted, holder=holder))
            except NotKept as error:
                message = error.message if not found else f"{error.message}, which {response_id!r} builds upon"
                raise NotKept(message, param="previous_response_id") from error
            wanted = found[-1].previous
        return found[::-1]

    def delete(self, response_id: str, *, holder: str | None = None) -> None:
        """Raises NotKept."""
        with self._ledger.database.write() as connection:
            gone = connection.execute("DELETE FROM responses WHERE id = ? AND holder IS ?", (response_id, holder))
            if gone.rowcount == 0:
                raise NotKept(f"no response {response_id!r} is kept here", param="response_id")

    def sweep(self) -> None:
        """Drop what was not used for too long."""
        with self._ledger.database.write() as connection:
            self._drop(connection, self._ledger.clock.now(), making_room=False)

    # -- those still to be made

    def claim(self, *, beside: Collection[str] = ()) -> ResponseJob | None:
        """The oldest that no living process makes, but none of `beside`: this process's, until it is released."""
        if not self._ledger.database.read("SELECT 1 FROM jobs LIMIT 1"):
            return None
        with self._ledger.database.write() as connection:
            for row in connection.execute(f"{_JOBS} ORDER BY seq").fetchall():
                if row["id"] not in beside and not owner_lives(row["owner"]):
                    connection.execute("UPDATE jobs SET owner = ? WHERE id = ?", (owner_now(), row["id"]))
                    return ResponseJob(
                        id=row["id"],
                        previous=row["previous"],
                        created_at=row["created_at"],
                        request=json.loads(row["request"]),
                        key=row["holder"],
                    )
        return None

    def release(self, response_id: str) -> None:
        with self._ledger.database.write() as connection:
            connection.execute("UPDATE jobs SET owner = '' WHERE id = ? AND owner = ?", (response_id, owner_now()))

    def is_wanted(self, response_id: str) -> bool:
        """Whether it is still to be made."""
        return bool(self._ledger.database.read("SELECT 1 FROM jobs WHERE id = ?", (response_id,)))

    def progress(self, response_id: str, body: dict[str, Any]) -> bool:
        """How far it is; False if nobody wants it any more."""
        with self._ledger.database.write() as connection:
            return _rewrite(connection, response_id, body)

    def finish(
        self, response_id: str, body: dict[str, Any], *, events: Sequence[Event] = (), after: int | None = None
    ) -> bool:
        """It is made, or will never be; False if nobody wants it any more. Its room was taken when it was asked for:
        what a model adds is bounded, and not refused now. `events`: the last ones, as in `tell`."""
        with self._ledger.database.write() as connection:
            wanted = _rewrite(connection, response_id, body)
            if wanted and events and after is not None:
                told_events.append(connection, response_id, told_events.as_text(events), after=after)
            connection.execute("DELETE FROM jobs WHERE id = ?", (response_id,))
            return wanted

    def cancel(
        self, response_id: str, *, holder: str | None = None, ending: Callable[[dict[str, Any]], Event] | None = None
    ) -> KeptResponse:
        """As it is then: cancelled if it was still to be made, else as it was. `ending`: of its body then, the event
        that ends what is told of it. Raises NotKept."""
        with self._ledger.database.write() as connection:
            row = connection.execute(
                "SELECT * FROM responses WHERE id = ? AND holder IS ?", (response_id, holder)
            ).fetchone()
            body = {} if row is None else _read(row).body | {"status": "cancelled"}
            if row is not None and _rewrite(connection, response_id, body):
                connection.execute("DELETE FROM jobs WHERE id = ?", (response_id,))
                num_told = told_events.num_told(connection, response_id)
                if num_told and ending is not None:
                    told_events.append(connection, response_id, told_events.as_text([ending(body)]), after=num_told)
        return self.get(response_id, holder=holder)

    # -- those that are told as they are made

    def tell(
        self, response_id: str, events: Sequence[Event], *, after: int, body: dict[str, Any] | None = None
    ) -> bool:
        """What happened to it next, and how far it is then; False if nobody wants it any more. `after`: how many were
        told before. Raises DiskFull; WrongState where somebody else has told more of it."""
        text = told_events.as_text(events)
        with self._ledger.database.write() as connection:
            if connection.execute("SELECT 1 FROM jobs WHERE id = ?", (response_id,)).fetchone() is None:
                return False
            self._ledger.make_room(connection, len(text))
            told_events.append(connection, response_id, text, after=after)
            return body is None or _rewrite(connection, response_id, body)

    def told(self, response_id: str, *, after: int = -1, holder: str | None = None) -> ToldEvents:
        """What was told of it behind the event of that number, a page of it. Raises NotKept, and BadParameter if
        nothing ever was."""
        self._row("id", response_id, holder)
        database = self._ledger.database
        found = told_events.page(database, response_id, after=after)
        if not found.events and not database.read("SELECT 1 FROM events WHERE response = ? LIMIT 1", (response_id,)):
            self._row("id", response_id, holder)  # it may have been deleted since
            raise BadParameter(
                f"stream: response {response_id!r} was not asked for with background and stream; only what was is told"
                " again as it was made",
                param="stream",
            )
        return found

    def _drop(self, connection: sqlite3.Connection, now: float, *, making_room: bool = True) -> None:
        limits = self._ledger.limits
        connection.execute(
            f"DELETE FROM responses WHERE used_at < ? AND {_IS_MADE}", (now - limits.response_days * DAY_S,)
        )
        excess = num_rows(connection, "responses") - limits.max_responses + making_room
        if excess > 0:
            connection.execute(
                "DELETE FROM responses WHERE seq IN"
                f" (SELECT seq FROM responses WHERE {_IS_MADE} ORDER BY used_at, seq LIMIT ?)",
                (excess,),
            )
            if making_room and num_rows(connection, "responses") >= limits.max_responses:
                raise DiskFull(f"{limits.max_responses} responses are still to be made, as many as may be")


_IS_MADE = "id NOT IN (SELECT id FROM jobs)"
_JOBS = "SELECT responses.*, jobs.request, jobs.owner FROM jobs JOIN responses USING (id)"


def _rewrite(connection: sqlite3.Connection, response_id: str, body: dict[str, Any]) -> bool:
    """A response that is still to be made as it is now; its request counts as long as it is."""
    text = _encode(body)
    done = connection.execute(
        "UPDATE responses SET body = ?, num_bytes = length(input) + ? WHERE id = ? AND id IN (SELECT id FROM jobs)",
        (text, len(text), response_id),
    )
    return done.rowcount == 1


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
